"""`laconic bench paper` from the command line: printed, run on small things, merged, and refused in a sentence."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.lab.paper.test_scored import of_lm_eval

from laconic.journal import read_journal
from laconic.lab.accuracy.run import FORMAT
from laconic.lab.harness.arguments import parse_arguments, read_arguments
from laconic.lab.paper import running

PLACE = Path("accuracy/r1-distill-qwen-7b/aime24")


@pytest.fixture
def called(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that ran, in this process, which saves their start."""
    commands: list[list[str]] = []

    def call(command: list[str]) -> int:
        commands.append(command)
        result = invoke(*command[1:])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return int(result.exit_code)

    monkeypatch.setattr(running, "call_command", call)
    return commands


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "aime24.jsonl"
    records = [{"problem": f"{a} plus 6 ?", "answer": f"{a}", "id": f"p{a}"} for a in range(3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def small(tiny: Path, problem_file: Path, out: Path) -> list[object]:
    return [
        "--model", tiny, "--source", f"aime24:{problem_file}", "--problems", 2, "--n", 2, "--max-new-tokens", 24, "--batch", 4,
        "--dtype", "float32", "--device", "cpu", "--out", out,
    ]  # fmt: skip


def test_what_is_printed_is_a_script_of_every_cell(invoke: Any) -> None:
    for paper, cell in (("rpc", "speed/r1-distill-qwen-7b/16x32768"), ("deepprune", "votes/qwen3-32b/aime24")):
        printed = invoke("bench", "paper", paper)
        assert printed.exit_code == 0, printed.output
        lines = printed.stdout.splitlines()
        commands = [line for line in lines if line and not line.startswith("#")]
        assert all(shlex.split(line)[0] in ("laconic", "python") for line in commands)
        told = json.loads(invoke("bench", "paper", paper, "--json").stdout)
        assert commands == [command for each in told for command in each["commands"]]
        for each in told:
            assert f"# {each['cell']}: published {each['published']}" in lines
            assert each["commands"] or f"no command: {each['lacks'][:20]}" in printed.stdout
        assert cell in {each["cell"] for each in told}
    assert "arXiv 2510.08483" in lines[0]


def test_hours_and_cells_are_narrowed_by_options(invoke: Any) -> None:
    printed = invoke("bench", "paper", "rpc", "--cells", "accuracy/qwq-32b/aime24/*", "--tokens-per-second", 2000)
    told = printed.stdout
    assert told.count("\nlaconic bench accuracy") == 4
    assert "at most 7.9 M tokens, 1.1 GPU hours" in told  # 240 traces of 32,768 tokens
    assert "# In all at most 7 GPU hours for the 6 cells that are estimated" in told
    known = invoke("bench", "paper", "rpc", "--cells", "accuracy/qwq-32b/aime24/tova*", "--mean-length", 9000)
    assert "--policies tova:budget=2250" in known.stdout
    assert "about 2.2 M tokens" in known.stdout


def test_two_cells_run_share_full_kv_and_stand_in_one_table(
    invoke: Any, called: list[list[str]], tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "paper", "rpc", *small(tiny, problem_file, out)]
    result = invoke(*arguments, "--run", f"{PLACE}/h2o-4x", "--run", f"{PLACE}/rpc-4x-p1024")
    assert result.exit_code == 0, result.output
    # Full KV first, since the budget follows its length; then the paper's order.
    policies = [command[command.index("--policies") + 1] for command in called]
    settings, records = read_journal(out / PLACE / "traces.jsonl", FORMAT)
    lengths = [r["length"] for r in records if r["kind"] == "trace" and r["row"] == "full"]
    budget = max(2, round(sum(lengths) / len(lengths) / 4))
    assert policies == ["rpc:interval=1024,ratio=4,window=32", f"h2o:budget={budget}"]
    assert settings["model"]["name"] == "tiny"
    assert len([r for r in records if r["kind"] == "trace"]) == 3 * 2 * 2  # full KV once
    report = json.loads((out / "results.json").read_text())
    ours = {row["method"]: row["ours"] for row in report["accuracy"]}
    assert [name for name, each in ours.items() if each] == ["full", "rpc-4x-p1024", "h2o-4x"]
    assert ours["h2o-4x"]["mean_kv_tokens"] < ours["full"]["mean_kv_tokens"]
    assert "55.5" in result.stdout
    assert "the model tiny (deepseek-ai/DeepSeek-R1-Distill-Qwen-7B)" in " ".join(result.stdout.split())
    assert str(tmp_path) not in (out / "results.json").read_text()

    before = (out / PLACE / "traces.jsonl").read_bytes()
    again = invoke(*arguments, "--run", f"{PLACE}/rpc*1024")
    assert again.exit_code == 0, again.output
    assert (out / PLACE / "traces.jsonl").read_bytes() == before


def test_a_fixed_budget_s_cell_alone_has_full_kv_run_first(
    invoke: Any, called: list[list[str]], tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    result = invoke("bench", "paper", "rpc", *small(tiny, problem_file, tmp_path / "out"), "--run", f"{PLACE}/tova-4x")
    assert result.exit_code == 0, result.output
    policies = [command[command.index("--policies") + 1].partition("=")[0] for command in called]
    assert policies == ["full", "tova:budget"]
    listing = ("bench", "paper", "rpc", "--out", tmp_path / "out", "--cells", f"{PLACE}/h2o*")
    assert "--policies h2o:budget=" in invoke(*listing).stdout  # now that the length is known
    # A run that was interrupted has short traces only: they end first.
    (tmp_path / "out" / PLACE / "results.json").unlink()
    assert "--policies h2o:budget=" not in invoke(*listing).stdout


def test_cells_of_a_pattern_that_have_no_command_are_left_out_and_said(
    invoke: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []

    def call(command: list[str]) -> int:
        """As lm-eval does, as far as its file of results goes."""
        ran.append(shlex.join(command))
        arguments = parse_arguments(command[command.index("--model_args") + 1])
        place = Path(command[command.index("--output_path") + 1], "Qwen__QwQ-32B")
        place.mkdir(parents=True)
        report = of_lm_eval(read_arguments(arguments).policy if "policy" in arguments else None)
        (place / "results_2026-01-02.json").write_text(json.dumps(report))
        return 0

    monkeypatch.setattr(running, "call_command", call)
    result = invoke("bench", "paper", "rpc", "--run", "accuracy/qwq-32b/ifeval/*", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert len(ran) == 4
    assert all(line.startswith("python -m laconic.lab.lm_eval run") for line in ran)
    assert "accuracy/qwq-32b/ifeval/h2o-4x is left out: its budget is 25 %" in result.stderr
    assert result.stdout.count("50.0 [46.1, 53.9]") == 4
    named = invoke(
        "bench", "paper", "rpc", "--run", "accuracy/qwq-32b/ifeval/*", "--run", "accuracy/qwq-32b/ifeval/h2o-4x"
    )
    assert named.exit_code == 2
    assert "h2o-4x can't be run: its budget" in named.stderr


def test_two_machines_results_are_merged_and_other_settings_refused(
    invoke: Any, called: list[list[str]], tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    for name, cell, extra in (
        ("one", "rpc-4x-p4096", ()),
        ("two", "rpc-8x-p4096", ()),
        ("odd", "full", ("--max-new-tokens", 20)),
    ):
        arguments = small(tiny, problem_file, tmp_path / name)
        result = invoke("bench", "paper", "rpc", *arguments, *extra, "--run", f"{PLACE}/{cell}")
        assert result.exit_code == 0, result.output
    merging = ["bench", "paper", "rpc", "--out", tmp_path / "merged", "--results", tmp_path / "one", "--results"]
    result = invoke(*merging, tmp_path / "two", "--cells", f"{PLACE}/*", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["method"]: row for row in json.loads(result.stdout)["accuracy"]}
    for name, cell in (("one", "rpc-4x-p4096"), ("two", "rpc-8x-p4096")):
        run = json.loads((tmp_path / name / PLACE / "results.json").read_text())["rows"][1]
        for key in ("accuracy", "difference", "mean_kv_tokens", "mean_length"):
            assert rows[cell]["ours"][key] == run[key]
    refused = invoke(*merging, tmp_path / "odd")
    assert refused.exit_code == 2
    assert "sampling.max_new_tokens is 24 in the one and 20 in the other" in refused.stderr
    assert refused.stderr.strip().count("\n") == 0


def test_votes_of_the_bundled_reasoner(invoke: Any, called: list[list[str]], tmp_path: Path) -> None:
    result = invoke(
        "bench", "paper", "deepprune", "--run", "votes/qwen3-32b/aime24", "--model", "qwen3-32b=bundled", "--source", "bundled",
        "--problems", 2, "--n", 3, "--max-new-tokens", 40, "--judge", "random", "--dtype", "float32", "--device", "cpu",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(called) == 1
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["votes"]
    assert [row["ours"]["n"] for row in rows] == [3] * 4
    assert rows[0]["ours"]["trace_tokens"] >= rows[-1]["ours"]["trace_tokens"] > 0
    assert "DeepPrune, random" in result.stdout


def test_traces_collected_first_are_the_ones_that_the_bench_votes_on(
    invoke: Any,
    called: list[list[str]],
    tiny: Path,
    problem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As vLLM collects them; here transformers, by taking the engine's name out of the first command."""
    call = running.call_command

    def without_engine(command: list[str]) -> int:
        place = command.index("--engine") if "--engine" in command else None
        return call(command if place is None else [*command[:place], *command[place + 2 :]])

    monkeypatch.setattr(running, "call_command", without_engine)
    arguments = small(tiny, problem_file, tmp_path / "out")
    result = invoke(
        "bench",
        "paper",
        "deepprune",
        *arguments,
        "--run",
        "votes/qwen3-32b/aime24",
        "--judge",
        "random",
        "--engine",
        "vllm",
    )
    assert result.exit_code == 0, result.output
    collect, _ = called
    path = Path(collect[collect.index("--out") + 1])
    assert path.name == "traces-none.jsonl"
    assert path.read_text().count("\n") == 1 + 2 * 2  # the header, and no trace was made a second time


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tova"], "The paper 'tova' is unknown; expected rpc or deepprune"),
        (
            ["rpc", "--run", "accuracy/llama"],
            "RPC (Reasoning Path Compression) has no cell accuracy/llama; expected a name",
        ),
        (["rpc", "--cells", "nothing*"], "has no cell nothing*"),
        (["rpc", "--run", "*/lightthinker"], "lightthinker can't be run: needs a model trained by its recipe"),
        (
            ["rpc", "--run", "speed/*", "--cells", "accuracy/*"],
            "None of the cells of --run is one of --cells accuracy/*",
        ),
        (["rpc", "--run", "*7b/ifeval/h2o-4x"], "not known yet: give --mean-length"),
        (["rpc", "--results", "nowhere"], "There is no directory of results nowhere"),
        (["rpc", "--n", 0], "--n is 0"),
        (["rpc", "--tokens-per-second", 0], "--tokens-per-second is 0"),
        (["rpc", "--source", "gsm8k"], "--source gsm8k is of gsm8k, which this paper has no cell of"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_runs(
    invoke: Any, called: list[list[str]], tmp_path: Path, arguments: list[object], says: str
) -> None:
    result = invoke("bench", "paper", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert called == []
    assert not (tmp_path / "out").exists()


def test_a_command_that_fails_ends_the_run(
    invoke: Any, called: list[list[str]], tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    problem_file.write_text('{"problem": "x", "answer": "many"}\n')
    result = invoke("bench", "paper", "rpc", *small(tiny, problem_file, tmp_path / "out"), "--run", f"{PLACE}/*p*")
    assert result.exit_code == 2
    assert len(called) == 1
    assert "accuracy/r1-distill-qwen-7b/aime24/rpc-4x-p4096: its command ended with exit code 2" in result.stderr


def test_a_command_runs_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert running.call_command(["python", "-c", "print('to stderr'); raise SystemExit(3)"]) == 3
    told = capfd.readouterr()
    assert told.out == ""
    assert "to stderr" in told.err
    assert running.call_command(["laconic", "bench", "accuracy", "--n", "0"]) == 2
    assert "--n is 0; expected at least 1" in capfd.readouterr().err
