"""What long commands say of where they stand, where stderr is no terminal."""

from __future__ import annotations

import pytest

from laconic.cli import progress
from laconic.cli.progress import ProgressOrLines


def test_a_line_now_and_then_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = ProgressOrLines(what="tokens")
    with bar:
        for done in range(100, 1001, 100):
            now += 4.0
            bar.tell("rpc", done, 1000, "" if done < 1000 else "the end")
        bar.say("a [word] of its own")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "400 of 1,000 tokens, 25.0/s, 24 s left, rpc"  # a hundred every four seconds, from the first on
    assert len(lines) == 4  # 12, 24 and 36 seconds after the first, which is the end, and the word
    assert "0 s left, the end" in lines[2]
    assert lines[3] == "a [word] of its own"


def test_no_rate_where_nothing_is_done_yet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ProgressOrLines(what="tokens") as bar:
        now += 500.0  # loading a model, say
        bar.begin()
        now += 12.0
        bar.tell("full KV", 0, 1000)
        now += 12.0
        bar.tell("full KV", 240, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["0 of 1,000 tokens, full KV", "240 of 1,000 tokens, 10.0/s, 76 s left, full KV"]


def test_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressOrLines(shown=False) as bar:
        bar.update("x", 1, 1)
    ProgressOrLines(shown=False).tell("x", 1, 1)
    assert capsys.readouterr().err == ""
