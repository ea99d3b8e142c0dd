"""A text cut while it grows: the same as cut whole, however its pieces fall."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.answers.thinking import split_off_thinking
from laconic.server.splitting import Piece, StopTexts, ThinkingSplitter, ends_within

TEXTS = [
    ("I think so. </think> \\boxed{4}", True, "I think so. ", "\\boxed{4}"),
    ("<think>hm 3 < 5 </think>\n\nfour <b>now</b>", False, "hm 3 < 5 ", "four <b>now</b>"),
    ("no marks at all, 3 < 5 and [1, 2]", False, "", "no marks at all, 3 < 5 and [1, 2]"),
    ("[THINK]a</think>b[/THINK]c", False, "a</think>b", "c"),
    ("<|channel|>analysis<|message|>a b<|end|><|start|>assistant<|channel|>final<|message|>c", False, None, "c"),
    ("Here is my thought process: x. Here is my response: y", False, "x. ", "y"),
    ("Here is my answer: y", False, "", "Here is my answer: y"),
    ("thoughts that never end <", True, "thoughts that never end <", ""),
    ("</think>at once", True, "", "at once"),
    ("◁think▷你好◁/think▷四", False, "你好", "四"),
]


def cut(text: str, thinking: bool, sizes: list[int]) -> tuple[str, str, list[Piece]]:
    splitter = ThinkingSplitter(thinking)
    pieces: list[Piece] = []
    at = 0
    for size in sizes:
        pieces += splitter.add(text[at : at + size])
        at += size
    pieces += splitter.add(text[at:]) + splitter.finish()
    return (
        "".join(piece.text for piece in pieces if piece.thinking),
        "".join(piece.text for piece in pieces if not piece.thinking),
        pieces,
    )


@pytest.mark.parametrize(("text", "thinking", "thought", "said"), TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_thoughts_and_answer_by_hand(text: str, thinking: bool, thought: str | None, said: str, size: int) -> None:
    found = cut(text, thinking, [size] * (len(text) // size))
    assert found[1] == said
    if thought is not None:
        assert found[0] == thought


@pytest.mark.parametrize(("text", "thinking"), [(text, thinking) for text, thinking, _, _ in TEXTS])
def test_the_answer_is_what_the_whole_text_says_after_its_thinking(text: str, thinking: bool) -> None:
    whole = split_off_thinking(text, thinking)
    if not whole.thinking:
        assert cut(text, thinking, [])[1].strip() == whole.said.strip()


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "th", " a", "\n", "[THINK]", "[/THINK]", "[", "x<y"])),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_how_the_pieces_fall_changes_nothing(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    thinking = data.draw(st.booleans())
    sizes = data.draw(st.lists(st.integers(1, 6), max_size=20))
    assert cut(text, thinking, sizes)[:2] == cut(text, thinking, [])[:2]


def test_a_long_text_is_cut_as_a_short_one() -> None:
    """What was told long ago is dropped; a mark that may only begin a text does not begin the rest."""
    word = "Here is my thought process: x. "
    text = "a " * 3000 + word * 200 + "<think>" + "b " * 3000 + "</think>c"
    thought, said, _ = cut(text, False, [7] * (len(text) // 7))
    assert thought == "b " * 3000
    assert said == "a " * 3000 + word * 200 + "c"


def test_nothing_is_held_back_that_can_be_told() -> None:
    splitter = ThinkingSplitter(True)
    assert splitter.add("all of this") == [Piece(True, "all of this")]
    assert splitter.add(" <") == [Piece(True, " ")]
    assert splitter.add("b>") == [Piece(True, "<b>")]
    assert splitter.add("</thi") == []
    assert splitter.add("nk>yes") == [Piece(False, "yes")]


@pytest.mark.parametrize(
    ("stops", "pieces", "told", "stopped"),
    [
        ([], ["a", "b"], "ab", False),
        (["END"], ["a E", "N", "x"], "a ENx", False),
        (["END"], ["a E", "ND b"], "a ", True),
        (["\n\n", "stop"], ["one\n", "\ntwo stop"], "one", True),
        (["aab"], ["aaa", "b"], "a", True),
        ([""], ["a"], "a", False),
    ],
)
def test_stop_texts(stops: list[str], pieces: list[str], told: str, stopped: bool) -> None:
    ending = StopTexts(stops)
    found = "".join(ending.add(piece) for piece in pieces) + ending.finish()
    assert (found, ending.stopped) == (told, stopped)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_stop_texts_against_a_look_at_the_whole(text: str, stops: list[str], size: int) -> None:
    ending = StopTexts(stops)
    found = "".join(ending.add(text[i : i + size]) for i in range(0, len(text), size)) + ending.finish()
    first = [text.find(stop) for stop in stops if stop in text]
    # Of stops that overlap, the piece that completes the first one decides; none begins before the earliest.
    assert found == text[: min(first)] if first and size >= len(text) else text.startswith(found)
    assert ending.stopped == bool(first)


def test_what_goes_on_with_a_text_keeps_its_first_space() -> None:
    said = ThinkingSplitter(False, continued=True)
    assert [piece.text for piece in said.add(" 42")] == [" 42"]
    thought = ThinkingSplitter(True, continued=True)
    pieces = thought.add(" so</think> 42") + thought.finish()
    assert [(piece.thinking, piece.text) for piece in pieces] == [(True, " so"), (False, "42")]
    assert ThinkingSplitter(False).add(" 42")[0].text == "42"


@pytest.mark.parametrize(
    ("last", "opened", "within"),
    [
        ({"content": "x"}, True, False),  # an answer alone: the thinking is closed before it
        ({"content": " "}, True, True),
        ({"content": ""}, False, False),
        ({"content": "<think>x"}, True, True),
        ({"content": "<think>x"}, False, True),
        ({"content": "<think>x</think>y"}, True, False),
        ({"content": "", "reasoning_content": "x"}, True, True),
        ({"content": "y", "reasoning_content": "x"}, True, False),
    ],
)
def test_where_a_message_that_is_gone_on_with_ends(last: dict[str, str], opened: bool, within: bool) -> None:
    assert ends_within(last, opened) == within
