"""What a probe appends, and what is read of its text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from laconic.answers import ThinkingMarker, extract, register_marker
from laconic.errors import LaconicError
from laconic.prune.probing import (
    DYNASOR_SUFFIX,
    HEDGES,
    PLAIN_SUFFIX,
    SUFFIXES,
    ProbedAnswer,
    check_suffix,
    choose_suffix,
    ending,
    model_suffix,
    read_probe,
)


def known(*words: str, unknown: int | None = None, spelled: bool = True) -> Any:
    """A tokenizer with these words, which spells every text, or gives `unknown` for it."""

    class Known:
        unk_token_id = unknown

        def get_vocab(self) -> dict[str, int]:
            return dict.fromkeys(words, 0)

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int | None]]:
            return {"input_ids": [3, 3 if spelled else unknown]}

    return Known()


@pytest.mark.parametrize(
    ("text", "answer", "hedged"),
    [
        ("5}", "5", False),
        (" 5 } \\]\n\nSo the answer is 5", "5", False),
        ("\\frac{1}{2}} \\]", "\\frac{1}{2}", False),
        ("\\{1, 2\\}}", "\\{1, 2\\}", False),
        ("}", None, False),
        ("  }", None, False),
        ("5 and then", None, False),
        ("", None, False),
        ("5} Wait, let me", "5", True),
        ("5} \\] HMM...", "5", True),
        ("5, but}", "5, but", True),
        ("known} nothing butter", "known", False),  # words within words are none
        ("No}", "No", False),
        ("No} no", "No", True),
        ("wait, what", None, True),
    ],
)
def test_the_answer_and_the_doubt(text: str, answer: str | None, hedged: bool) -> None:
    assert read_probe(text) == ProbedAnswer(answer, hedged)


@pytest.mark.parametrize("word", HEDGES)
def test_every_hedge_counts_as_a_word(word: str) -> None:
    assert read_probe(f"5}} \\] {word.title()}, it").hedged
    assert not read_probe(f"5}} \\] x{word}y").hedged


def test_the_published_words_and_text() -> None:
    assert set(HEDGES) == {"wait", "hold", "but", "okay", "no", "hmm"}
    assert DYNASOR_SUFFIX.startswith("... Oh, I suddenly got the answer to the whole problem, **Final Answer**")
    assert DYNASOR_SUFFIX.endswith("\n\n\\[ \\boxed{")


@pytest.mark.parametrize(
    ("asked", "tokenizer", "preferred", "want"),
    [
        (None, None, "published", DYNASOR_SUFFIX),
        (None, None, "closing", DYNASOR_SUFFIX),
        (None, known("</think>"), "published", DYNASOR_SUFFIX),
        (None, known("</think>", unknown=7), "published", DYNASOR_SUFFIX),
        (None, known("</think>", unknown=7, spelled=False), "published", SUFFIXES["</think>"]),
        (None, known("</think>"), "closing", SUFFIXES["</think>"]),
        (None, known("a"), "closing", PLAIN_SUFFIX),
        ("published", known("</think>", unknown=7, spelled=False), "closing", DYNASOR_SUFFIX),
        ("closing", known("</think>"), "published", SUFFIXES["</think>"]),
        ("So {", None, "published", "So {"),
    ],
)
def test_the_suffix_that_is_chosen(asked: str | None, tokenizer: Any, preferred: str, want: str) -> None:
    check_suffix(asked)
    assert choose_suffix(asked, tokenizer, preferred) == want


def test_suffixes_that_can_not_be() -> None:
    for wrong in ("", "So", "{}", 5):
        with pytest.raises(LaconicError, match="suffix is"):
            check_suffix(wrong)  # type: ignore[arg-type]
    with pytest.raises(LaconicError, match="tells no tokenizer"):
        choose_suffix("closing", None, "published")


def test_a_sign_of_several_tokens_stands_in_the_chat_template() -> None:
    tokenizer = known("a")
    tokenizer.chat_template = "... write your answer after 'Here is my response:' ..."
    assert model_suffix(tokenizer) == "\n\nHere is my response:\n\n\\boxed{"


def test_the_suffix_of_a_marker_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.answers.thinking._added", {})
    register_marker(ThinkingMarker("ponder", "<ponder>", "</ponder>", "</ponder>", "</ponder>\n"))
    assert model_suffix(known("</ponder>")) == "</ponder>\n\\boxed{"


@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        (["a", "</think>"], "\n</think>\n\n\\boxed{"),
        (["<|channel|>"], "<|end|><|start|>assistant<|channel|>final<|message|>\\boxed{"),
        (["[/THINK]"], "[/THINK]\\boxed{"),
        (["<channel|>"], "<channel|>\\boxed{"),
        (["a"], PLAIN_SUFFIX),
    ],
)
def test_the_suffix_is_the_model_s_own(words: list[str], suffix: str) -> None:
    assert model_suffix(known(*words)) == suffix


@pytest.mark.parametrize(
    ("text", "thinking", "tokenizer", "end"),
    [
        ("so 5", False, None, PLAIN_SUFFIX + "7}"),
        ("<think> so 5", False, None, "\n</think>\n\n\\boxed{7}"),
        ("[THINK] so 5", False, known("</think>"), "[/THINK]\\boxed{7}"),
        ("so 5", True, known("</think>"), "\n</think>\n\n\\boxed{7}"),
        ("so 5", True, None, PLAIN_SUFFIX + "7}"),
        ("so 5 </think> The answer", True, known("</think>"), PLAIN_SUFFIX + "7}"),
    ],
)
def test_the_end_of_a_stopped_traces_text(text: str, thinking: bool, tokenizer: Any, end: str) -> None:
    trace: Any = SimpleNamespace(text=text, thinking=thinking)
    assert ending(trace, "7", tokenizer) == end
    assert extract(text + end, thinking=thinking, ended=True) == "7"
