from __future__ import annotations

import io
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from laconic.cli.live import (
    BAR,
    PlainTextView,
    SilentTextView,
    TerminalTextView,
    TraceProgress,
    choose_text_view,
    gauge,
    settle,
)


def reference(text: str, width: int) -> list[str]:
    """Greedy wrapping, a word at a time, for words that fit and single blanks between them."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def test_settle_wraps_like_the_obvious_loop_however_the_text_arrives() -> None:
    rng = random.Random(0)
    for _ in range(300):
        width = rng.randint(8, 30)
        words = ["x" * rng.randint(1, 8) for _ in range(rng.randint(1, 40))]
        text = "".join(word + rng.choice([" ", " ", " ", "\n"]) for word in words).strip(" ")
        lines, tail, at = [], "", 0
        while at < len(text):
            step = rng.randint(1, 5)
            new, tail = settle(tail + text[at : at + step], width)
            lines += new
            at += step
            assert cell_len(tail) <= width
        assert [line.rstrip() for line in [*lines, tail]] == reference(text, width)


def test_settle_cuts_what_has_no_blank_and_counts_wide_characters() -> None:
    assert settle("abcdefgh", 3) == (["abc", "def"], "gh")
    lines, tail = settle("推理" * 5, 7)
    assert "".join([*lines, tail]) == "推理" * 5
    assert all(cell_len(line) <= 7 for line in [*lines, tail])


def test_gauge_says_held_of_logical_and_fits_the_width() -> None:
    line = gauge(TraceProgress(logical=400, held=100, generated=350, compressions=1), 5.0, 200).plain
    assert "100 of 400 tokens held (25%) · 1 compression · 70 tok/s" in line
    assert line.count("━") == BAR
    assert line.index("━") == 3
    for width in (10, 30, 60, 90):
        assert gauge(TraceProgress(40000, 10000, 35000, 12), 5.0, width).cell_len <= width


def test_gauge_before_anything() -> None:
    assert "0 of 0 tokens held (100%)" in gauge(TraceProgress(0, 0, 0, 0), 0.0, 100).plain


def test_terminal_view_leaves_the_text_and_no_gauge(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, highlight=False, color_system=None)
    words = [f"w{i} " for i in range(60)]
    with TerminalTextView(console) as view:
        for i, word in enumerate(words):
            view.feed(word, TraceProgress(100 + i, 50, i, 2))
    text = out.getvalue()
    assert "tokens held" in text  # it was there ...
    assert "tokens held" not in text.rpartition("\x1b[2K")[2]  # ... and its last line was erased
    assert capsys.readouterr().out == ""


def test_a_model_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    with TerminalTextView(Console(file=out, force_terminal=True, width=80, color_system=None)) as view:
        view.feed("a\x1b[2Jb\x07\x9b1mc\td", TraceProgress(1, 1, 1, 0))
    assert "a[2Jb1mc    d" in out.getvalue()
    assert not {"\x1b[2J", "\x07", "\x9b"} & set(re.findall(r"\x1b\[2J|\x07|\x9b", out.getvalue()))


def test_plain_view_is_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TraceProgress(1, 1, 1, 0)
    with PlainTextView() as view:
        view.feed("a b", progress)
        view.feed("", progress)
        view.feed(" [c]", progress)
    assert capsys.readouterr().out == "a b [c]\n"
    with PlainTextView() as view:
        view.feed("ends\n", progress)
    assert capsys.readouterr().out == "ends\n"


def test_choose_view() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    pipe = Console(file=io.StringIO())
    assert type(choose_text_view(False, terminal)) is TerminalTextView
    assert type(choose_text_view(False, pipe)) is PlainTextView
    assert type(choose_text_view(True, terminal)) is SilentTextView


def test_the_gauge_drops_words_rather_than_figures() -> None:
    progress = TraceProgress(logical=38123, held=9876, generated=35000, compressions=12)
    for width in range(25, 120):
        line = gauge(progress, 5.0, width).plain
        assert "…" not in line, (width, line)
        assert "26%" in line
        assert cell_len(line) <= width
    at_80 = gauge(progress, 5.0, 80).plain
    assert "9,876 of 38,123 tokens held (26%) · 12 compressions · 7,000 tok/s" in at_80
    assert "━" * 6 in at_80
    assert "9,876 of 38,123" in gauge(progress, 5.0, 40).plain
