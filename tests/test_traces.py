"""Trace files: what is written is read back, and a broken line costs itself only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from laconic.answers import answer_of
from laconic.assets import reasoner_path
from laconic.errors import LaconicError
from laconic.traces import TraceFile, TraceRecord, read_traces, tokenizer_fingerprint, write_traces


def record(problem: str = "p0", index: int = 0, **changes: Any) -> TraceRecord:
    made = TraceRecord(
        problem=problem,
        question=f"what is {problem} ?",
        gold="7",
        level=5,
        index=index,
        seed=3,
        settings={"model": "bundled", "policy": "full", "temperature": 1.0},
        prompt_ids=(1, 2, 3),
        token_ids=(9, 8, index),
        text="zwölf \\boxed{7}",
        answer="7",
        correct=True,
        finish_reason="stop",
        confidences=(0.5, 1.25, 3.0),
        kv={"peak": 5, "mean": 4.5, "bytes_per_token": 768},
    )
    return replace(made, **changes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = [record(problem, index) for problem in ("p1", "p0") for index in (1, 0)]
    records.append(record("p0", 2, answer=None, correct=False, finish_reason="length", confidences=None))
    write_traces(tmp_path / "t.jsonl", records)
    found = read_traces(tmp_path / "t.jsonl")
    assert list(found.records) == records
    assert found.broken == ()
    assert found.describe_broken("t.jsonl") == ""
    assert {name: [r.index for r in of] for name, of in found.by_problem().items()} == {"p1": [0, 1], "p0": [0, 1, 2]}
    assert list(found.by_problem()) == ["p1", "p0"]
    assert found.records[0].settings is found.records[4].settings, "equal settings are held once"
    assert found.records[0].prompt_ids is found.records[4].prompt_ids
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert next(iter(first)) == "kind"


def test_broken_lines_are_skipped_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    good = [json.dumps(record(index=i).to_json()) for i in range(4)]
    lacking = json.loads(good[0]) | {"index": 9}
    del lacking["token_ids"]
    lines = [
        json.dumps({"kind": "header", "format": "laconic.traces/1"}).encode(),
        good[0].encode(),
        good[1][:70].encode(),
        b"[1, 2]",
        b"",
        json.dumps(lacking).encode(),
        good[1].encode(),
        b'{"kind": "clock", "seconds": 3}',
        good[0].encode(),
        json.dumps(json.loads(good[2]) | {"correct": "yes"}).encode(),
        "é".encode()[:1],
        good[3].encode(),
        good[2][:-9].encode(),
    ]
    path.write_bytes(b"\n".join(lines))
    found = read_traces(path)
    assert [r.index for r in found.records] == [0, 1, 3]
    assert found.broken == (
        "line 3 is not JSON",
        "line 4 is not a JSON object",
        "line 6: lacks token_ids",
        "line 9 repeats trace 0 of problem p0",
        "line 10: correct is 'yes'; expected true or false",
        "line 11 is not JSON",
        "line 13 is not JSON",
    )
    told = found.describe_broken(path.name, most=2)
    assert told == "7 lines of t.jsonl skipped: line 3 is not JSON; line 4 is not a JSON object and 5 more."


def test_the_same_index_under_other_settings_or_seeds_is_another_trace(tmp_path: Path) -> None:
    records = [record(), record(seed=4), record(settings={"model": "bundled", "policy": "rpc"})]
    write_traces(tmp_path / "t.jsonl", records)
    assert list(read_traces(tmp_path / "t.jsonl").records) == records


def test_a_file_without_traces_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(LaconicError, match="no trace file"):
        read_traces(path)
    path.write_text("")
    with pytest.raises(LaconicError, match=r"holds no traces; expected"):
        read_traces(path)
    path.write_text("{\n")
    with pytest.raises(LaconicError, match="line 1 is not JSON"):
        read_traces(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problem": 3}, "problem is '3'; expected a text"),
        ({"index": -1}, "index is -1"),
        ({"index": True}, "index is 'True'; expected a whole number"),
        ({"seed": 1.5}, "seed is '1.5'"),
        ({"settings": None}, "settings is 'None'; expected an object"),
        ({"token_ids": (1, "2", 3)}, "token_ids has an entry that is no whole number"),
        ({"prompt_ids": (1.0,)}, "prompt_ids has an entry"),
        ({"answer": 7}, "answer is '7'; expected a text or null"),
        ({"correct": 1}, "correct is 1; expected true or false"),
        ({"finish_reason": "stopped"}, "finish_reason is 'stopped'; expected stop or length"),
        ({"confidences": (1.0,)}, "confidences has 1 entries for 3 token_ids"),
        ({"confidences": (1.0, float("nan"), 1.0)}, "confidences has an entry that is no number"),
        ({"token_ids": (1, -1, 3)}, "token_ids has the entry -1, which is no token id; expected 0 to"),
        ({"prompt_ids": (10**30,)}, f"prompt_ids has the entry {10**30}"),
        ({"kv": {"peak": "x"}}, "kv.peak is 'x'; expected a number"),
        ({"kv": {"bytes_per_token": None}}, "kv.bytes_per_token is None"),
    ],
)
def test_a_record_checks_itself(change: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        record(**change)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"token_ids": "123"}, "token_ids is no list"), ({"prompt_ids": None}, "prompt_ids is no list")],
)
def test_json_of_another_shape_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        TraceRecord.from_json(record().to_json() | change)


def test_fields_of_others_are_left_out() -> None:
    assert TraceRecord.from_json(record().to_json() | {"note": "x"}) == record()


def test_a_tokenizer_is_known_by_its_vocabulary_and_its_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    first = tokenizer_fingerprint(tokenizer)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(reasoner_path())) == first
    tokenizer.chat_template = "{{ messages }}"
    second = tokenizer_fingerprint(tokenizer)
    tokenizer.add_tokens(["another"])
    assert len({first, second, tokenizer_fingerprint(tokenizer)}) == 3


@pytest.mark.parametrize(
    ("text", "finish_reason", "answer", "thinking"),
    [
        ("so \\boxed{7}", "length", None, True),
        ("so \\boxed{7}", "length", "7", False),
        ("so \\boxed{7}", "stop", "7", False),
        ("so it is 7", "length", None, False),
        ("hm </think> \\boxed{7}", "stop", "7", False),
    ],
)
def test_what_stood_in_thinking_was_recorded_as_no_answer(
    text: str, finish_reason: str, answer: str | None, thinking: bool
) -> None:
    trace = record(text=text, finish_reason=finish_reason, answer=answer)
    assert trace.thinking is thinking
    assert answer_of(trace) == answer


def test_lines_that_python_fails_on_are_broken_lines_and_a_mark_is_none(tmp_path: Path) -> None:
    good = json.dumps(record().to_json())
    half = good.replace('"gold": "7"', '"gold": "\\ud800"')
    vast = good.replace('"seed": 3', '"seed": ' + "9" * 5000)
    deep = good.replace('"settings": {', '"settings": {"a": ' + "[" * 500 + "]" * 500 + ", ")
    assert len({good, half, vast, deep}) == 4
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join([good, "[" * 100_000 + "]" * 100_000, half, vast, deep]).encode())
    found = read_traces(path)
    assert found.records == (record(),)
    assert [line.split(" (")[0].split(";")[0] for line in found.broken] == [
        "line 2 is nested too deeply",
        "line 3 holds a text that has half a character in it",
        "line 4 has a number of thousands of digits",
        "line 5 is nested too deeply",
    ]


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_traces(path, [record()])
    before = path.read_bytes()

    def broken() -> Iterator[TraceRecord]:
        yield record(index=1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_traces(path, broken())
    assert path.read_bytes() == before
    with pytest.raises(LaconicError, match="is a device"):
        write_traces("/dev/full", [record()])


def test_rescored_goes_by_the_texts() -> None:
    """Strategies that are played back read the texts; what is compared with them has to as well."""
    old = record(answer="7 apples", correct=False)
    found = TraceFile((old, record(index=1, text="nothing", answer="7"), record(index=2))).rescored().records
    assert [(each.answer, each.correct) for each in found] == [("7", True), (None, False), ("7", True)]
    assert found[2] == record(index=2)


def test_one_id_of_two_questions_is_refused() -> None:
    both = TraceFile((record("line-1"), record("line-1", 1, question="another ?")))
    with pytest.raises(LaconicError, match=r"'line-1' stands for two questions, 'what is line-1 \?' and 'another \?'"):
        both.by_problem()
