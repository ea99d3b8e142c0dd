"""Traces from files, and the report about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.lab.analyze.entropy import ngram_entropy
from laconic.lab.analyze.reading import WrittenTrace, read_traces
from laconic.lab.analyze.redundancy import redundancy
from laconic.lab.analyze.run import SPAN_TOKENS, analyse


def write(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_file_gives_its_traces(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"kind": "header", "settings": {}},
        {"kind": "trace", "row": "rpc c=4", "token_ids": [1, 2]},
        {"kind": "clock", "seconds": 1},
        "",
        {"policy": "full", "text": "a b c", "problem": "p1", "question": "What?"},
        {"text": "d e", "token_ids": [4, 5], "question": "What?"},
    )
    traces = read_traces(
        path, tokenize=lambda text: [len(w) for w in text.split()], detokenize=lambda ids: f"{len(ids)}"
    )
    assert traces == [
        WrittenTrace((1, 2), "2", "rpc c=4"),
        WrittenTrace((1, 1, 1), "a b c", "full", "p1"),
        WrittenTrace((4, 5), "d e", "all", "What?"),
    ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"token_ids": [1]}, "{broken"], "Line 2 of .* is not JSON"),
        (["[1]"], "Line 1 of .* is not a JSON object"),
        ([{"length": 4}], "Line 1 of .* has neither token_ids nor text.*--keep-tokens"),
        ([{"text": "a"}], "Line 1 of .* say with --tokenizer"),
        ([{"text": 3}], "text that is no string"),
        ([{"token_ids": "abc"}], "no list of whole numbers"),
        ([{"token_ids": [1, 2.5]}], "no list of whole numbers"),
        ([{"token_ids": [True]}], "no list of whole numbers"),
        ([], "holds no traces"),
        ([{"kind": "header"}], "holds no traces"),
    ],
)
def test_broken_files_are_named_by_their_line(tmp_path: Path, lines: list, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        read_traces(write(tmp_path / "t.jsonl", *lines))


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="There is no file"):
        read_traces(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(LaconicError, match="not UTF-8"):
        read_traces(tmp_path / "b.jsonl")


def test_the_report_is_by_group_and_by_hand() -> None:
    loop = WrittenTrace(tuple([1, 2, 3, 4] * 30), group="loop")
    other = WrittenTrace(tuple(range(120)), group="fresh")
    report = analyse([loop, other, loop], lengths=[100], span_tokens=12)
    assert [group["group"] for group in report] == ["loop", "fresh"]
    first, second = report
    assert (first["traces"], second["traces"]) == (2, 1)
    assert first["entropy"][0]["bits"][2] == pytest.approx(ngram_entropy(loop.token_ids[:100], 2))
    assert first["spans"] == 10
    assert first["redundancy"]["mean"] == pytest.approx(0.9)  # ten equal spans, the first of them new
    assert second["redundancy"]["mean"] == 0.0
    assert json.loads(json.dumps(report))[0]["group"] == "loop"


def test_traces_of_one_problem_are_one_observation() -> None:
    def written(problem: str | None, start: int, loops: bool) -> WrittenTrace:
        ids = [start + i % 12 for i in range(72)] if loops else [start + i for i in range(72)]
        return WrittenTrace(tuple(ids), problem=problem)

    once = [written(f"p{i}", 100 * i, i % 3 == 0) for i in range(9)]
    (alone,) = analyse(once, lengths=[10], span_tokens=12)
    (many,) = analyse(once * 16, lengths=[10], span_tokens=12)
    assert (alone["problems"], many["problems"], many["traces"]) == (9, 9, 144)
    assert many["redundancy"] == pytest.approx(alone["redundancy"])
    # Problems weigh alike, however many traces they have.
    (uneven,) = analyse([*once, *once[:1] * 20], lengths=[10], span_tokens=12)
    assert uneven["redundancy"] == pytest.approx(alone["redundancy"])
    # Without names nobody can tell, and each trace counts.
    (unnamed,) = analyse([written(None, 0, i % 3 == 0) for i in range(144)], lengths=[10], span_tokens=12)
    assert unnamed["problems"] is None
    width = many["redundancy"]["high"] - many["redundancy"]["low"]
    assert unnamed["redundancy"]["high"] - unnamed["redundancy"]["low"] < width / 3


def test_one_problem_has_no_interval() -> None:
    (group,) = analyse([WrittenTrace(tuple([1, 2, 3, 4] * 30), problem="p")] * 16, lengths=[10], span_tokens=12)
    assert group["redundancy"] == {"mean": pytest.approx(0.9), "low": 0.0, "high": 1.0}


def test_text_is_cut_into_sentences_and_ids_into_windows() -> None:
    text = "now h is 6 . now k is 7 . now h is 6 ."
    (group,) = analyse([WrittenTrace((1,) * 40, text)], lengths=[10])
    assert group["spans"] == 3
    sentences = [s.split() for s in ("now h is 6 .", "now k is 7 .", "now h is 6 .")]
    assert group["redundancy"]["mean"] == redundancy(sentences, [])
    (group,) = analyse([WrittenTrace(tuple(range(2 * SPAN_TOKENS + 5)))], lengths=[10])
    assert group["spans"] == 2


def test_a_trace_without_spans_has_no_rate() -> None:
    (group,) = analyse([WrittenTrace((1, 2))], lengths=[2])
    assert group["redundancy"] is None
    with pytest.raises(LaconicError, match="no traces"):
        analyse([])
