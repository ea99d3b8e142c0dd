"""What is scored of a text: the answer after the thinking, whatever stop texts stand in the thoughts."""

from __future__ import annotations

import random

import pytest

from laconic.lab.harness.texts import StopWatcher, answer_start, answer_text, cut

R1 = "let me see\n\nQuestion: is it 4? </think>\n\nIt is 4.\n\nQuestion: what is 5?"


@pytest.mark.parametrize(
    ("text", "thinking", "until", "scored"),
    [
        ("It is 4.", False, ("\n\n",), "It is 4."),
        (" It is 4.\n\nQ: 5", False, ("\n\n",), " It is 4."),
        ("\n\nIt is 4.", False, ("\n\n",), ""),  # as with any other model: a task that stops there scores nothing
        (R1, True, (), "It is 4.\n\nQuestion: what is 5?"),
        (R1, True, ("\n\n", "Question:"), "It is 4."),
        (R1, True, ("Question:",), "It is 4.\n\n"),
        (f"<think>{R1}", False, ("Question:", "\n\n"), "It is 4."),
        (R1, False, ("\n\n",), "It is 4."),  # an end without a beginning: the prompt had begun it
        ("<think>a</think>b<think>c</think>d", False, ("b",), "d"),
        ("so it is 4.</s></think>4</s>", True, ("</s>", "<|im_end|>"), "4"),
        ("[THINK]a\n\nb[/THINK]4\n\n5", False, ("\n\n",), "4"),
    ],
)
def test_what_is_scored(text: str, thinking: bool, until: tuple[str, ...], scored: str) -> None:
    assert answer_text(text, thinking, until, "empty") == (scored, True)
    kept = cut(text, thinking, until)
    assert text.startswith(kept)
    assert kept.endswith(scored)


@pytest.mark.parametrize(("text", "thinking"), [("so it is \\boxed{4}\n\nor", True), ("<think>so it is 4\n\n", False)])
def test_thinking_that_never_ends_scores_nothing_or_all(text: str, thinking: bool) -> None:
    assert answer_start(text, thinking) is None
    assert cut(text, thinking, ("\n\n",)) == text
    assert answer_text(text, thinking, ("\n\n",), "empty") == ("", False)
    assert answer_text(text, thinking, ("\n\n",), "whole") == (text, False)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_growing_text_ends_where_the_whole_one_is_cut(thinking: bool) -> None:
    """Told character by character, it ends when the whole text up to there has a stop text in its answer, and not before."""
    draw = random.Random(3)
    pieces = ["<think>", "</think>", "a", "b", "ab", " ", "\n", "Q:", "<", ">"]
    ended = 0
    for _ in range(400):
        text = "x" + "".join(draw.choice(pieces) for _ in range(draw.randint(1, 12)))
        if (
            "</think>" in text
            and (text.find("</think>") < text.find("<think>") or "<think>" not in text)
            and not thinking
        ):
            continue  # what comes before an end without a beginning is told before that is known
        watcher = StopWatcher(thinking, ("Q:", "ab"))
        told = next((end for end in range(1, len(text) + 1) if watcher.add(text[end - 1 : end])), None)
        found = [end for end in range(1, len(text) + 1) if cut(text[:end], thinking, ("Q:", "ab")) != text[:end]]
        assert told == (found[0] if found else None), text
        ended += told is not None
    assert ended > 50


def test_without_stop_texts_nothing_ends() -> None:
    watcher = StopWatcher(False, ())
    assert not any(watcher.add(character) for character in "Q: a\n\nb")
