"""Ctrl-C: one line that says what is kept and how to go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.cli import interruption
from laconic.cli.interruption import NOTHING, if_interrupted, resumed
from laconic.journal import Journal


@pytest.fixture(autouse=True)
def nothing_told() -> Iterator[None]:
    if_interrupted(None)
    yield
    if_interrupted(None)


def test_what_was_told_last_counts() -> None:
    assert interruption.describe() == "interrupted"
    if_interrupted("one")
    if_interrupted(NOTHING)
    assert interruption.describe() == "interrupted; nothing is kept; the same command begins anew"
    if_interrupted(None)
    assert interruption.describe() == "interrupted"


def test_a_file_counts_once_it_holds_more_than_its_header(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    say = resumed(path, tmp_path / "other.jsonl")
    assert say() == "nothing was finished yet; the same command begins anew"
    with Journal(path, "x/1", {}) as journal:
        assert say().startswith("nothing was finished yet")
        journal.append([{"kind": "a"}])
        assert say() == f"what is finished is in {path}, and the same command goes on from there"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert resumed(tmp_path / "pipe")().startswith("nothing was finished yet")


# What each long command calls once it has begun, to be interrupted there.
COMMANDS: list[tuple[list[str], str, str]] = [
    (["bench", "accuracy", "--problems", "2", "--out", "{out}"], "laconic.engines.hf.load", "nothing was finished yet"),
    (["bench", "parallel", "--problems", "2", "--out", "{out}"], "laconic.engines.hf.load", "nothing was finished yet"),
    (
        ["bench", "throughput", "--shapes", "tiny-kv", "--lengths", "8", "--out", "{out}"],
        "laconic.lab.throughput.run.run_throughput",
        "nothing was finished yet",
    ),
    (["bench", "vllm", "--out", "{out}"], "laconic.lab.vllm.process.check_installed", "nothing was finished yet"),
    (["collect", "--problems", "2", "--out", "{out}/t.jsonl"], "laconic.engines.hf.load", "nothing was finished yet"),
    (["judge", "train", "-t", "x", "--out", "{out}"], "laconic.traces.read_traces", "nothing was finished yet"),
    (
        ["judge", "eval", "-t", "x", "-j", "jaccard", "-o", "{out}"],
        "laconic.traces.read_traces",
        "nothing was finished",
    ),
    (["judge", "ablate", "-t", "x", "--out", "{out}"], "laconic.traces.read_traces", "nothing was finished yet"),
    (["analyze", "x"], "laconic.lab.analyze.reading.read_traces", "the file of traces is as it was"),
    (["analyze", "--model", "bundled"], "laconic.engines.hf.load", "`laconic collect` would keep them"),
    (["think"], "laconic.engines.hf.load", "nothing is kept"),
    (["solve"], "laconic.engines.hf.load", "nothing is kept"),
    (["demo"], "laconic.engines.hf.load", "nothing is kept"),
]


@pytest.mark.parametrize(("words", "where", "said"), COMMANDS, ids=lambda value: str(value)[:24])
def test_every_long_command_says_how_to_go_on(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], where: str, said: str
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    result = invoke(*(word.format(out=tmp_path / "new") for word in words))
    assert result.exit_code == 130, (result.output, result.exception)
    assert result.stderr.startswith("interrupted; ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
