"""`laconic bench fidelity` from the command line: runs of a tiny model, files, resumption, and sentences for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import WORDS

from laconic.engines.hf.loading import load_tokenizer
from laconic.traces import TraceRecord, tokenizer_fingerprint, write_traces


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{a} plus 6 ?", "answer": a}) + "\n" for a in "12345"))
    return path


@pytest.fixture
def text_files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, length in enumerate((90, 70, 20)):
        paths.append(tmp_path / f"text{number}.txt")
        paths[-1].write_text(" ".join(WORDS[6 + (number + 3) * i * i % 36] for i in range(length)))
    return paths


def written(path: Path, tiny: Path, length: int = 60, **changes: object) -> Path:
    settings = {"policy": "full", "tokenizer": tokenizer_fingerprint(load_tokenizer(str(tiny)))} | changes
    records = [
        TraceRecord(
            f"p{problem}", "q", "1", 0, index, 5, settings, (7, 8, 9),
            tuple(6 + (problem + 2) * i * i % 36 for i in range(length)), "x", None, False, "length",
        )
        for problem in range(3)
        for index in range(2)
    ]  # fmt: skip
    write_traces(path, records)
    return path


def arguments(tiny: Path, out: Path, *more: object) -> list[object]:
    start = ["bench", "fidelity", "-m", tiny, "-p", "full;rpc;random;hindsight", "-c", "2,4", "--interval", 16]
    return [*start, "--window", 8, "--batch", 2, "-o", out, *more]


def test_sampled_traces_are_kept_and_the_run_goes_on(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    typed = arguments(tiny, out, "--source", problem_file, "--tokens", 50)
    result = invoke(*typed)
    assert result.exit_code == 0, result.output
    names = ["plot.png", "records.jsonl", "results.json", "table.md", "traces.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == names
    report = json.loads((out / "results.json").read_text())
    cells = [f"{name} c={c} P=16 R=8" for name in ("rpc", "random", "hindsight") for c in (2, 4)]
    assert [row["label"] for row in report["rows"]] == ["full", *cells]
    assert report["rows"][0]["kl"]["mean"]["mean"] == 0
    assert report["settings"]["model"]["name"] == "tiny"
    assert str(tiny) not in (out / "results.json").read_text() + (out / "records.jsonl").read_text()
    by_label = {row["label"]: row for row in report["rows"]}
    lengths = [len(json.loads(line).get("token_ids", ())) for line in (out / "traces.jsonl").read_text().splitlines()]
    kept = sum(length > 25 for length in lengths)  # nothing of shorter ones is ever compressed
    assert kept >= 3
    assert by_label[cells[0]]["traces"] == kept
    assert by_label[cells[0]]["mean_kv_tokens"] == by_label[cells[2]]["mean_kv_tokens"]
    assert "KL(full KV || policy) of tiny" in result.stdout
    assert "KL(full KV || policy) by place in the trace" in (out / "table.md").read_text()
    first = (out / "records.jsonl").read_bytes()
    again = invoke(*typed, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == report["rows"]
    assert (out / "records.jsonl").read_bytes() == first
    assert f"{7 * kept} finished pairs" in again.stderr
    more = invoke(*typed[:5], "rkv", *typed[6:])
    assert more.exit_code == 0, more.output
    assert (out / "records.jsonl").read_bytes().startswith(first)


def test_recorded_traces_and_lists(invoke, tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", tiny)
    typed = ["bench", "fidelity", "-m", tiny, "--traces", path, "-p", "rpc,tova", "-c", "4", "--interval", "16,24"]
    result = invoke(
        *typed, "--window", "4,8", "--tokens", 50, "--n", 2, "--problems", 2, "-o", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["label"] for row in rows] == [
        f"{name} c=4 P={p} R={r}" for name in ("rpc", "tova") for p in (16, 24) for r in (4, 8)
    ]
    assert [(row["traces"], row["problems"], row["tokens"]) for row in rows] == [(4, 2, 200)] * 8


def test_own_schedules_at_equal_mean_cache(invoke, tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", tiny)
    result = invoke(
        "bench", "fidelity", "-m", tiny, "--traces", path, "-p", "rpc;h2o;rkv:budget=20,buffer=8", "-c", 4, "--interval", 16,
        "--window", 8, "--schedule", "own", "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["label"] for row in rows] == ["rpc c=4 P=16 R=8", "h2o c=4 P=16 R=8", "rkv:budget=20,buffer=8"]
    assert rows[1]["mean_kv_tokens"] == pytest.approx(rows[0]["mean_kv_tokens"], rel=0.03)


def test_texts(invoke, tiny: Path, text_files: list[Path], tmp_path: Path) -> None:
    named = [word for path in text_files for word in ("--texts", path)]
    result = invoke(*arguments(tiny, tmp_path / "out", *named, "--prompt-tokens", 10, "--json"))
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["traces"], row["tokens"]) for row in rows] == [(2, 140)] * 7
    assert (
        "1 of 3 traces are left out: they end before the first compression, after 24 generated tokens." in result.stderr
    )


def test_an_oracle(invoke, tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", tiny)
    typed = [
        "bench",
        "fidelity",
        "-m",
        tiny,
        "--traces",
        path,
        "-p",
        "oracle,rpc",
        "-c",
        "4",
        "--interval",
        16,
        "--window",
        8,
    ]
    result = invoke(*typed, "--oracle-pattern", "[0-9]", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"][0]["label"] == "oracle c=4 P=16 R=8"


def test_what_is_wrong_is_one_sentence(invoke, tiny: Path, text_files: list[Path], tmp_path: Path) -> None:
    path, empty, out = written(tmp_path / "t.jsonl", tiny), tmp_path / "empty.txt", tmp_path / "out"
    empty.touch()
    other = written(tmp_path / "other.jsonl", tiny, tokenizer="aa")
    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare)
    for file in bare.glob("token*"):
        file.unlink()
    beyond = tmp_path / "beyond.jsonl"
    write_traces(beyond, [TraceRecord("p", "q", "1", 0, 0, 5, {}, (7,), (999,) * 60, "x", None, False, "length")])
    short = ["--texts", text_files[2], "--prompt-tokens", 10]
    cases: list[tuple[list[object], str]] = [
        (["--traces", path, "--texts", empty], "--traces and --texts each say what is fed"),
        (["--traces", tmp_path / "no"], "There is no trace file"),
        (["--traces", empty], "holds no traces"),
        (["--traces", other], "written with another tokenizer (its fingerprint is aa"),
        (["--traces", beyond], "trace p/0 has the token id 999, but the model's vocabulary ends at 42"),
        (["--traces", path, "--source", "x"], "--source has no effect with --traces"),
        (["--texts", empty], "empty.txt is empty"),
        (["--texts", empty, "--problems", 3], "--problems has no effect with --texts"),
        ([*short], "longest of 1 traces has 10 beside its prompt"),
        (["--traces", path, "--prompt-tokens", 3], "--prompt-tokens has no effect without --texts"),
        (["--traces", path, "--interval", 64], "the first compression comes after 72 generated tokens"),
        (["--traces", path, "--interval", "16,64"], "rpc c=2 P=64 R=8 first compresses after 72"),
        (["--traces", path, "--interval", "16,x"], "--interval has 'x'; expected numbers"),
        (["--traces", path, "--interval", "16.5"], "--interval has 16.5; expected whole numbers"),
        (["--traces", path, "-c", "4,4"], "rpc c=4 P=16 R=8 is asked for twice"),
        (["--traces", path, "-p", "rpc:ratio=3"], "ratio is given in rpc:ratio=3"),
        (["--traces", path, "--schedule", "mine"], "schedule is 'mine'; expected one of common, own"),
        (["--traces", path, "--tokens", 0], "--tokens is 0"),
        (["--traces", path, "--n", 0], "--n is 0"),
        (["--traces", path, "--batch", 0], "--batch is 0"),
        (["--traces", path, "--oracle-pattern", "x"], "--oracle-pattern has no effect without the policy oracle"),
        (["--traces", path, "-p", "learned"], "there is no selector for this model"),
        (["--texts", text_files[0], "-m", bare], "has no tokenizer"),
    ]
    for more, says in cases:
        result = invoke(*arguments(tiny, out, *more))
        assert result.exit_code == 2, (more, result.output)
        assert says in result.stderr, (more, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not out.exists() or not list(out.iterdir())


def test_other_settings_in_out_are_refused(invoke, tiny: Path, tmp_path: Path) -> None:
    path, out = written(tmp_path / "t.jsonl", tiny), tmp_path / "out"
    assert invoke(*arguments(tiny, out, "--traces", path)).exit_code == 0
    for more, says in (
        (["--tokens", 50], "tokens was None, now 50"),
        (["--schedule", "own"], "schedule was 'common', now 'own'"),
        (["--dtype", "bfloat16"], "model.fingerprint was"),
    ):
        result = invoke(*arguments(tiny, out, "--traces", path, *more))
        assert result.exit_code == 2
        assert says in result.stderr


def test_all_problems_of_a_benchmark_are_sampled_with_its_prompt_and_fed(invoke, tiny: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "ifeval.jsonl", tmp_path / "out"
    records = [{"prompt": f"say {number}", "instruction_id_list": ["a"], "kwargs": [{}]} for number in range(60)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    result = invoke(
        "bench", "fidelity", "-m", tiny, "--source", f"ifeval:{path}", "--tokens", 30, "-p", "rpc", "-c", 2, "--interval", 16,
        "--window", 8, "--batch", 16, "--no-plot", "-o", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    header, *lines = map(json.loads, (out / "traces.jsonl").read_text().splitlines())
    assert (header["settings"]["problems"], header["settings"]["prompt"]) == ("ifeval, ifeval.jsonl", "{question}")
    long = [line for line in lines if len(line["token_ids"]) > 24]  # shorter ones are never compressed
    assert len(lines) == 60
    assert json.loads(result.stdout)["rows"][0]["traces"] == len(long) > 32


def test_a_source_that_can_not_be_read_is_refused_before_the_model(invoke, tmp_path: Path) -> None:
    result = invoke(
        "bench", "fidelity", "-m", tmp_path / "none", "--source", "aime24:none.jsonl", "-o", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "There is no problem file none.jsonl" in result.stderr


def test_policies_that_know_the_end_are_refused_elsewhere(
    invoke, problem_file: Path, tiny: Path, tmp_path: Path
) -> None:
    for command in (["bench", "accuracy", "-p"], ["collect", "--policy"]):
        result = invoke(*command, "hindsight", "-m", tiny, "--source", problem_file, "-o", tmp_path / "x")
        assert result.exit_code == 2
        assert "policy hindsight reads what later tokens will attend to" in result.stderr
