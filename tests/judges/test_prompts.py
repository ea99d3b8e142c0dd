"""What a judge model is asked, as tokens."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.errors import LaconicError
from laconic.judges.prompts import TEMPLATE, LLMJudgeSettings, Prompts
from tests.judges.models import TEMPLATE as SHORT
from tests.judges.models import WORDS, byte_tokenizer, word_tokenizer


def prompts(limit: int | None = None, tokenizer: Any = None, **settings: Any) -> Prompts:
    return Prompts(tokenizer or word_tokenizer(), LLMJudgeSettings(**{"template": SHORT, **settings}), limit)


def text(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_through_the_chat_template() -> None:
    asked = prompts()
    assert text(asked.ids("q1", "a b", "c")) == "<u> q1 A: a b B: c ? <a>"
    assert (WORDS[asked.same], WORDS[asked.different]) == ("Yes", "No")


def test_a_model_without_a_template_gets_plain_text() -> None:
    asked = prompts(tokenizer=word_tokenizer(chat=None))
    assert text(asked.ids("q1", "a b", "c")) == "q1 A: a b B: c ? Reply:"


def test_own_words_and_template() -> None:
    asked = prompts(template="{same} {different} {second} {first}", same="A:", different="B:")
    assert text(asked.ids("q1", "a", "b")) == "<u> A: B: b a <a>"
    assert WORDS[asked.same] == "A:"


def test_a_trace_that_names_a_place_stays_as_it_is() -> None:
    asked = prompts(tokenizer=byte_tokenizer(), same="Y", different="N")
    found = asked.tokenizer.decode(asked.ids("{first}", "{second}", "{same}"))
    assert "{first} A: {second} B: {same} ?" in found


def test_special_tokens_in_a_text_are_left_out() -> None:
    asked = prompts()
    assert asked.clean("a <a> b<u>c").split() == ["a", "b", "c"]


def test_the_default_template_says_everything() -> None:
    asked = prompts(tokenizer=byte_tokenizer(), template=TEMPLATE, same="Y", different="N")
    found = asked.tokenizer.decode(asked.ids("what is x ?", "x is 1", "x is 2"))
    for part in ("what is x ?", "Attempt A:\nx is 1", "Attempt B:\nx is 2", "Y or N"):
        assert part in found
    assert "{" not in found


def test_bytes_of_a_plain_text_follow_without_a_blank() -> None:
    # A blank and a letter would be two tokens.
    asked = prompts(tokenizer=byte_tokenizer(chat=None), same="Y", different="N")
    assert asked.tokenizer.decode([asked.same, asked.different]) == "YN"


@pytest.mark.parametrize(
    ("tokenizer", "same", "different"),
    [
        (byte_tokenizer(), "Yes", "No"),  # several tokens each
        (byte_tokenizer(), "Y", "No"),
        (word_tokenizer(), "Yes", "Yes"),  # the same
        (word_tokenizer(), "maybe", "No"),  # unknown
        (word_tokenizer(), "maybe", "never"),
    ],
)
def test_refuses_answers_that_are_not_two_tokens(tokenizer: Any, same: str, different: str) -> None:
    with pytest.raises(LaconicError, match=f"answers '{same}' and '{different}' don't begin with two different tokens"):
        prompts(tokenizer=tokenizer, same=same, different=different)


def test_refuses_what_is_too_long() -> None:
    asked = prompts(limit=9)
    assert len(asked.ids("q1", "a b", "c")) == 9
    with pytest.raises(LaconicError, match='takes 10 tokens; its limit is 9: use shorter excerpts, or overlong="cut"'):
        asked.ids("q1", "a b", "c d")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d e f g h", "a b", "A: a b [...] f g h B: a b"),
        ("a b", "a b c d e f g h", "A: a b B: a b [...] f g h"),
        ("a b c d e f g h", "h g f e d c b a", "A: a [...] g h B: h [...] b a"),
        ("a b c", "d e f", "A: a b c B: d e f"),
    ],
)
def test_cuts_the_middle_out(first: str, second: str, expected: str) -> None:
    asked = prompts(limit=14, overlong="cut")
    assert text(asked.ids("q1", first, second)) == f"<u> q1 {expected} ? <a>"


def test_bytes_are_cut_to_the_limit_too() -> None:
    asked = prompts(limit=60, tokenizer=byte_tokenizer(), same="Y", different="N", overlong="cut")
    ids = asked.ids("x ?", "ä" * 100, "ö" * 100)  # two bytes each: a cut may fall between them
    assert 50 <= len(ids) <= 60


def test_no_room_at_all() -> None:
    with pytest.raises(LaconicError, match="leaves no room in 6 tokens"):
        prompts(limit=6, overlong="cut").ids("q1", "a b", "c d")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"template": "{first}"}, "expected a text with the places {first} and {second}"),
        ({"same": " "}, "same is ' '; expected the answer's word"),
        ({"different": 3}, "different is 3"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"overlong": "drop"}, "overlong is 'drop'; expected one of refuse, cut"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LaconicError) as raised:
        LLMJudgeSettings(**settings)
    assert said in str(raised.value)
