"""`laconic bench parallel` from the command line: a tiny model's real traces, files, resumption, and sentences."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    # A tiny random model writes no \boxed{}; what counts here is that everything runs and is written.
    records = [{"question": f"{a} plus b ?", "answer": f"{a}"} for a in "123"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def arguments(tiny: Path, problem_file: Path, out: Path, judges: str = "probe;perfect") -> list[object]:
    return [
        "bench", "parallel", "-m", tiny, "--source", problem_file, "--n", "2,4", "--few", "1", "--judges", judges,
        "--policies", "rpc:interval=4,ratio=4,window=2", "--strategies", "deepconf:low,window=4;deepprune:K2=1",
        "--excerpt", "tokens:4", "--timed", 1, "--max-new-tokens", 14, "--temperature", 1, "--batch", 8, "-o", out,
    ]  # fmt: skip


FILES = ["plot.png", "results.json", "results.jsonl", "table.md", "traces-none.jsonl"]


def test_it_writes_all_it_says_and_goes_on_from_it(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(*arguments(tiny, problem_file, out))
    assert result.exit_code == 0, result.output
    other = "traces-rpc-interval-4-ratio-4-window-2.jsonl"
    assert sorted(path.name for path in out.iterdir()) == [*FILES, other]
    report = json.loads((out / "results.json").read_text())
    families = ["pass@1", "cons", "cons, early end", "deepconf:low,window=4"]
    families += [f"deepprune:K2=1, {judge}" for judge in ("probe", "perfect")]
    policies = ("none", "rpc:interval=4,ratio=4,window=2")
    assert [(row["block"], row["family"], row["n"], row["compress"]) for row in report["rows"]] == [
        (n, family, m, policy)
        for n in (2, 4)
        for policy in policies
        for family, m in [("cons", 1), *((family, n) for family in families)]
    ]
    for row in report["rows"]:
        assert row["problems"] == 3
        assert row["accuracy"]["mean"] == 0
        assert row["live"]["problems"] == 1
        assert row["live"]["agreement"]["answers"] == 1
    shares = {(row["family"], row["compress"]): row["kv_share"] for row in report["rows"] if row["block"] == 4}
    assert shares["cons", "none"] == 1
    assert shares["cons", policies[1]] < 1
    judged = {row["judge"]: row["judge_tokens"] for row in report["rows"] if row["n"] == 4}
    assert judged["probe"] > 0
    assert judged["perfect"] == judged[None] == 0
    assert report["entries"]["deepconf:low,window=4 n=4 none"]["warmup"] == 1  # a quarter of the traces
    assert report["entries"]["deepprune:K2=1, perfect n=4 none"]["excerpt"] == "tokens:4"
    text = (out / "results.json").read_text()
    assert str(tiny.parent) not in text  # no directory of this machine
    assert str(tmp_path) not in text
    assert "n = 4, replayed" in result.stdout
    assert "n = 4, live" in (out / "table.md").read_text()
    # The same traces, the first ones of which serve n = 2.
    traces = [json.loads(line) for line in (out / other).read_text().splitlines()][1:]
    assert Counter(trace["problem"] for trace in traces) == {f"line-{i}": 4 for i in (1, 2, 3)}
    assert all(len(trace["logprobs"]) == len(trace["token_ids"]) for trace in traces)
    for row in report["rows"]:
        if row["family"] == "cons" and row["compress"] != "none":
            mine = [len(trace["token_ids"]) for trace in traces if trace["index"] < row["n"]]
            assert row["trace_tokens"] == pytest.approx(sum(mine) / 3)

    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"}
    again = invoke(*arguments(tiny, problem_file, out), "--json", "--no-plot")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == report["rows"]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"} == before


SMALLER = ["--n", "2", "--few", "", "--policies", "none", "--no-plot"]


def replayed(out: Path) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "live"} for row in rows]


def test_files_cut_short_go_on_and_end_the_same(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke(*arguments(tiny, problem_file, out), *SMALLER).exit_code == 0
    whole = replayed(out)
    for name in ("traces-none.jsonl", "results.jsonl"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[: len(data) // 2])
    result = invoke(*arguments(tiny, problem_file, out), *SMALLER)
    assert result.exit_code == 0, result.output
    assert "was cut short" in result.output
    assert replayed(out) == whole


def test_a_judge_may_be_added_but_nothing_changed(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke(*arguments(tiny, problem_file, out, "random"), *SMALLER, "--timed", 0).exit_code == 0
    results = (out / "results.jsonl").read_bytes()
    assert invoke(*arguments(tiny, problem_file, out, "random;perfect"), *SMALLER, "--timed", 0).exit_code == 0
    after = (out / "results.jsonl").read_bytes()
    assert after.startswith(results)
    new = [json.loads(line) for line in after[len(results) :].splitlines()]
    assert {record["entry"].partition(" n=")[0] for record in new} == {"deepprune:K2=1, perfect"}
    for change, says in (
        (["--sample-seed", 5], "sampling.seed was 0, now 5"),
        (["--excerpt", "tokens:7"], "excerpt was 'tokens:4', now 'tokens:7'"),
    ):
        result = invoke(*arguments(tiny, problem_file, out, "random"), *SMALLER, *change)
        assert result.exit_code == 2
        assert says in result.output.splitlines()[-1]
        assert result.output.count("error: ") == 1
        assert (out / "results.jsonl").read_bytes() == after


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--n", "0"], "--n has 0"),
        (["--n", "two"], "--n has 'two'"),
        (["--n", ""], "no numbers of traces"),
        (["--few", "-3"], "--few has -3"),
        (
            ["--strategies", "best"],
            "strategy 'best' is unknown; expected one of self-consistency, priced-vote, adaptive-consistency, auto, deepprune",
        ),
        (["--strategies", "deepprune:tau=2"], "tau"),
        (["--strategies", "deepconf:low,top_k=5;deepconf:high"], "different numbers of candidates (5, 20)"),
        (["--judges", "oracle"], "'oracle' is unknown"),
        (["--judges", ""], "needs a judge"),
        (["--excerpt", "lines:3"], "lines:3"),
        (["--policies", "zip"], "policy 'zip' is unknown"),
        (["--policies", "rpc:ratio=4;rpc:ratio=4"], "asked for twice"),
        (["--timed", -1], "timed is -1"),
        (["--batch", 0], "--batch is 0"),
        (["--problems", 0], "number of problems is 0"),
        (["--source", "nowhere.jsonl"], "no problem file nowhere.jsonl"),
        (
            ["--source", "livecodebench"],
            "lighteval's task lcb:codegeneration_release_v5, which can ask `laconic serve`",
        ),
        (["-m", "/no/such/model"], "no model at /no/such/model"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path, extra: list, says: str
) -> None:
    result = invoke(*arguments(tiny, problem_file, tmp_path / "out"), *extra)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0
    assert not (tmp_path / "out" / "traces-none.jsonl").exists()  # refused before any work


def test_a_problem_beyond_the_context_is_named(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    with problem_file.open("a") as file:
        file.write(json.dumps({"question": "a " * 300, "answer": "1"}) + "\n")
    result = invoke(*arguments(tiny, problem_file, tmp_path / "out"))
    assert result.exit_code == 2
    assert "1 of 4 problems can't be run, the first, line-4" in result.output


def test_plots_without_matplotlib_are_refused_before_the_work(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.lab.shared.figure.available", lambda: False)
    result = invoke(*arguments(tiny, problem_file, tmp_path / "out"), "--plot")
    assert result.exit_code == 2
    assert "laconic-llm[plots]" in result.output
    assert not (tmp_path / "out").exists()
