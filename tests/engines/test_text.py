"""Text from tokens as they come, prompts from text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from laconic.assets import reasoner_path
from laconic.engines.text import Detokenizer, begins_thinking, decode, end_ids, render, tokenize
from laconic.errors import LaconicError
from tests.engines.vllm.tiny import tiny_tokenizer


def test_pieces_add_up_to_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    tokens = list(range(5, 200, 7))
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(token) for token in tokens]
    assert detokenizer.text == "".join(pieces)
    rest = detokenizer.finish(tokens)
    assert "".join(pieces) + rest == detokenizer.text == tokenizer.decode(tokens, skip_special_tokens=False)
    assert detokenizer.text


def test_a_tokenizer_without_a_fast_backend_tells_at_the_end() -> None:
    slow = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(chr(96 + i) for i in ids))
    detokenizer = Detokenizer(slow)
    assert [detokenizer.add(i) for i in (1, 2, 3)] == ["", "", ""]
    assert detokenizer.whole([1, 2]) == "ab"  # of a trace that is stopped here
    assert detokenizer.finish([1, 2, 3]) == detokenizer.text == "abc"
    nothing = Detokenizer(None)
    assert (nothing.add(1), nothing.finish([1]), nothing.text) == ("", "", "")


def test_a_text_that_is_mended_at_the_end_is_not_told_twice() -> None:
    detokenizer = Detokenizer(tiny_tokenizer())
    tokens = tokenize(tiny_tokenizer(), "abc")
    for token in tokens:
        detokenizer.add(token)
    assert detokenizer.text == "abc"
    assert detokenizer.finish(tokens[:1]) == ""  # shorter than what was told
    assert detokenizer.text == "a"


def test_prompts() -> None:
    tokenizer = tiny_tokenizer()
    text = render(tokenizer, "2 + 2?")
    assert text == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(list(tokenize(tokenizer, text))) == text
    assert render(None, "2 + 2?") == "2 + 2?"
    assert tokenize(None, [3, 4]) == (3, 4)
    with pytest.raises(LaconicError, match="problem is empty"):
        render(tokenizer, " \n")
    with pytest.raises(LaconicError, match="no tokenizer"):
        tokenize(None, "text")


def test_whether_a_prompt_leaves_the_thinking_open() -> None:
    # The bundled reasoner's template opens it, as DeepSeek-R1's does; the other one's doesn't.
    for tokenizer, opens in ((AutoTokenizer.from_pretrained(reasoner_path()), True), (tiny_tokenizer(), False)):
        prompt = tokenize(tokenizer, render(tokenizer, "what is x ?"))
        assert begins_thinking(tokenizer, prompt) is opens
        assert begins_thinking(None, prompt) is False
    tokenizer = tiny_tokenizer()
    for text, opens in (
        ("<think>" + "x" * 100 + "<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("<think> x", False),
    ):
        assert begins_thinking(tokenizer, tokenize(tokenizer, text)) is opens


def test_end_tokens_of_all_that_name_some() -> None:
    sources = [SimpleNamespace(eos_token_id=e) for e in (2, [3, 4], None)]
    assert end_ids(*sources, None, SimpleNamespace()) == {2, 3, 4}


@pytest.mark.parametrize(
    "template", ["{{ messages", "{{ raise_exception('no user') }}", "{{ messages[9]['content'] }}", "{{ 1 / 0 }}"]
)
def test_a_broken_chat_template_is_one_sentence(template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    tokenizer.chat_template = template
    with pytest.raises(LaconicError, match=r"the chat template of .* can't be applied \(\w+: .*\); mend it"):
        render(tokenizer, "a question")


@pytest.mark.parametrize("text", ["a \ud800 b", "\udcff"])  # the second is how Python hands on a byte that is no UTF-8
def test_half_a_character_is_no_prompt(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    for call in (lambda: render(tokenizer, text), lambda: tokenize(tokenizer, text), lambda: render(None, text)):
        with pytest.raises(LaconicError, match="has half a character in it"):
            call()


def test_ids_without_a_text_are_named() -> None:
    def fail(ids: list[int], skip_special_tokens: bool) -> str:
        raise IndexError("piece id is out of range")

    class Slow:
        decode = staticmethod(fail)

        def __len__(self) -> int:
            return 10

    with pytest.raises(LaconicError, match=r"the token id 12 has no text: the tokenizer has the ids 0 to 9"):
        decode(Slow(), [1, 12])


@pytest.mark.parametrize("value", ["2", 1.5, True, [1, "2"], {"a": 1}])
def test_an_end_token_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(LaconicError, match=r"eos_token_id of the model's SimpleNamespace is .*; expected a token id"):
        end_ids(SimpleNamespace(eos_token_id=value))
