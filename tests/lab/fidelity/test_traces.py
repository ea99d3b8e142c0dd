"""Where traces come from: files of records, texts; and what is refused in a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.engines.hf.tokens import tokenizer

from laconic.errors import LaconicError
from laconic.lab.fidelity.traces import (
    ForcedTrace,
    check_for_model,
    check_tokenizer,
    long_enough,
    recorded_traces,
    text_traces,
)
from laconic.traces import TraceRecord, tokenizer_fingerprint, write_traces


def record(problem: str, index: int, length: int = 9, **changes) -> TraceRecord:
    drawn = {"policy": "full", "temperature": 0.6, "top_p": 0.95, "top_k": 0, "tokenizer": "aa"}
    made = TraceRecord(
        problem, "q", "1", 0, index, 5, drawn, (1, 2), tuple(range(3, 3 + length)), "3", None, False, "length"
    )
    return dataclasses.replace(made, **changes)


def written(path: Path, *records: TraceRecord) -> Path:
    write_traces(path, records)
    return path


def test_the_first_traces_of_the_first_problems(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", *[record(p, i) for p in "abc" for i in (1, 0, 2)])
    found, tokens, broken = recorded_traces(path, problems=2, n=2, tokens=4)
    assert [trace.id for trace in found] == ["a/0", "a/1", "b/0", "b/1"]
    assert found[0] == ForcedTrace("a/0", "a", (1, 2), (3, 4, 5, 6))
    assert (tokens, broken) == ("aa", "")
    assert len(recorded_traces(path)[0]) == 9
    assert [trace.id for trace in recorded_traces(path, n=1, only={"c", "b", "z"})[0]] == ["b/0", "c/0"]
    assert found[0].digest == found[1].digest != recorded_traces(path)[0][0].digest
    assert found[0].number == int(found[0].digest[:8], 16)


def test_broken_lines_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", record("a", 0))
    path.write_text(path.read_text() + "{oops\n")
    found, _, broken = recorded_traces(path)
    assert len(found) == 1
    assert "1 line of" in broken


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record("a", 0, prompt_ids=())], "trace a/0 has no prompt_ids"),
        ([record("a", 0, token_ids=())], "no generated tokens"),
        ([record("a", 0), record("a", 0, seed=9)], "two traces a/0, of other seeds or settings"),
        ([record("a", 0), record("b", 0, settings={"tokenizer": "bb"})], r"traces of 2 tokenizers \(aa, bb\)"),
    ],
)
def test_files_that_cant_be_used(tmp_path: Path, records: list[TraceRecord], says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        recorded_traces(written(tmp_path / "t.jsonl", *records))


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="There is no trace file"):
        recorded_traces(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(LaconicError, match="holds no traces"):
        recorded_traces(tmp_path / "empty.jsonl")


def test_texts_begin_with_their_prompt(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{i}" for i in range(1, 21)))
    (whole,) = text_traces([path], tokenizer(), 5)
    assert whole == ForcedTrace("text.txt", "text.txt", (1, 2, 3, 4, 5), tuple(range(6, 21)))
    (cut,) = text_traces([path], tokenizer(), 5, 3)
    assert cut.token_ids == (6, 7, 8)
    (short,) = text_traces([path], tokenizer(), 30)
    assert (len(short.prompt_ids), short.token_ids) == (20, ())


def test_texts_that_cant_be_used(tmp_path: Path) -> None:
    empty, bytes_ = tmp_path / "empty.txt", tmp_path / "bytes.txt"
    empty.write_text(" \n")
    bytes_.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LaconicError, match=r"empty\.txt is empty; expected a text of more than 4 tokens"):
        text_traces([empty], tokenizer(), 4)
    with pytest.raises(LaconicError, match="is not UTF-8 text"):
        text_traces([bytes_], tokenizer(), 4)
    other = tmp_path / "other"
    other.mkdir()
    for folder in (tmp_path, other):
        (folder / "same.txt").write_text("w1 w2")
    with pytest.raises(LaconicError, match=r"two texts have the name same\.txt"):
        text_traces([tmp_path / "same.txt", other / "same.txt"], tokenizer(), 1)


def test_short_ones_are_left_out_and_none_left_is_refused() -> None:
    traces = [ForcedTrace(str(n), str(n), (1,), tuple([2] * n)) for n in (0, 5, 21, 22, 90)]
    assert [trace.id for trace in long_enough(traces, 20)] == ["22", "90"]
    assert [trace.id for trace in long_enough(traces, None)] == ["5", "21", "22", "90"]
    with pytest.raises(LaconicError, match=r"first compression comes after 4,096 .* the longest of 5 traces has 90"):
        long_enough(traces, 4096)


def test_another_tokenizer_or_vocabulary_or_too_long_a_trace_is_refused(tmp_path: Path) -> None:
    check_tokenizer(tmp_path, tokenizer_fingerprint(tokenizer()), tokenizer())
    check_tokenizer(tmp_path, None, tokenizer())
    with pytest.raises(LaconicError, match=r"written with another tokenizer \(its fingerprint is aa, this model's "):
        check_tokenizer(tmp_path, "aa", tokenizer())
    traces = [ForcedTrace("a", "a", (1, 2), (3, 4, 95))]
    check_for_model(traces, 96, 5)
    with pytest.raises(LaconicError, match="trace a has the token id 95, but the model's vocabulary ends at 94"):
        check_for_model(traces, 95, None)
    with pytest.raises(LaconicError, match=r"trace a has 5 tokens with its prompt, .* context is 4: give --tokens 2"):
        check_for_model(traces, 96, 4)
