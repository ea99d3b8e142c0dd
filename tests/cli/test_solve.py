from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from laconic.answers import equivalent
from laconic.assets import reasoner_path
from laconic.calibrations import place_of, write_calibration
from laconic.cli.engines import identity_of
from laconic.compress import RPC, FullKV
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, batch, load
from laconic.judges.baselines import TokenJaccard
from laconic.judges.encoder import PairEncoder
from laconic.judges.input_spec import EncoderInputSpec
from laconic.judges.network import EncoderConfig
from laconic.judges.vectors import ReasonerStates
from laconic.problems import generate
from laconic.prune import DeepPrune, SelfConsistency
from laconic.prune.calibration import CalibratedRow, Calibration
from laconic.traces import tokenizer_fingerprint

EASY = ("--bundled", 1, "--level", 1)
PRUNE = ("--n", 6, "--judge", "jaccard", "--excerpt", "tokens:8", "--tau", 0.4, "--finish", 2)
FIGURES = ("answer", "votes", "traces", "tokens", "clusters", "kv", "settings", "strategy", "n", "complete", "note")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def alone(path: Path, policy: Any, strategy: Any, question: str, sampling: Sampling) -> dict[str, Any]:
    """The same verdict straight from the strategy."""
    model, tokenizer = load(path)
    verdict = strategy.solve(HFEngine(model, tokenizer, policy=policy), question, sampling)
    found: dict[str, Any] = json.loads(json.dumps(verdict.to_dict()))
    return found


def test_json_is_the_strategys_verdict_and_nothing_else(invoke: Any) -> None:
    result = invoke("solve", *EASY, *PRUNE, "--json", "--seed", 5)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    record = json.loads(result.stdout)
    problem = generate(1, seed=1, level=1)[0]
    strategy = DeepPrune(6, TokenJaccard(), tau=0.4, K2=2, excerpt="tokens:8")
    sampling = Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=5)
    told = alone(reasoner_path(), FullKV(), strategy, problem.question, sampling)
    assert {key: record[key] for key in FIGURES} == {key: told[key] for key in FIGURES}
    assert record["complete"] is True
    assert (record["problem"], record["gold"]) == (problem.question, problem.answer)
    assert record["right"] == equivalent(record["answer"], problem.answer)
    assert (record["judge"], record["policy"], record["model"]) == ("jaccard", "full", "bundled reasoner")
    assert record["sampling"]["seed"] == 5


def test_without_a_strategy_it_is_what_wins_and_a_judge_means_deepprune(invoke: Any) -> None:
    def run(*options: Any) -> tuple[str, Any, Any]:
        result = invoke("solve", *EASY, "--n", 4, "--json", *options)
        assert result.exit_code == 0, result.stderr
        record = json.loads(result.stdout)
        return record["strategy"], record["judge"], record["settings"]

    strategy, judge, settings = run()
    assert (strategy, judge) == ("priced-vote", None)
    assert (settings["price"], settings["first"], settings["parallel"]) == (0.012, 4, 4)
    assert run("--judge", "jaccard")[:2] == ("deepprune", "jaccard")
    for options in (("--excerpt", "tokens:56"), ("--tau", 0.4), ("--K", 3), ("--K1", 2), ("--K2", 2), ("--K3", 2)):
        assert run(*options)[:2] == ("deepprune", "bundled"), options
    assert run("--strategy", "cons")[0] == "self-consistency"


def test_a_budget_buys_what_the_calibration_chooses(
    invoke: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))

    def run(*options: Any) -> dict[str, Any]:
        result = invoke("solve", "c d e", "-m", tiny, "--n", 3, "--max-new-tokens", 20, "--json", *options)
        assert result.exit_code in (0, 1), result.stderr
        record: dict[str, Any] = json.loads(result.stdout)
        return record

    shipped = run("--spend", "1x")
    assert (shipped["strategy"], shipped["n"], shipped["settings"]["ties"]) == ("self-consistency", 1, "confidence")
    assert "chosen for one trace a problem: " in shipped["note"]
    mine, _ = identity_of(load(tiny)[0])
    rows = (
        CalibratedRow("self-consistency", 1, 1.0, 0.2),
        CalibratedRow("adaptive-consistency", 8, 2.0, 0.4, 0.1, 0, 0.2),
    )
    own = Calibration("tiny", mine, 60, 8, 100.0, rows)
    write_calibration(tmp_path / "own.json", own)
    named = run("--spend", "300", "--calibration", tmp_path / "own.json")
    assert (named["strategy"], named["n"]) == ("adaptive-consistency", 3)
    assert "on 60 problems of tiny" in named["note"]
    write_calibration(place_of(mine), own)
    assert run("--strategy", "auto:spend=300")["note"] == named["note"]

    write_calibration(tmp_path / "other.json", dataclasses.replace(own, weights="0" * 16))
    common = ("solve", "c d e", "-m", tiny)
    for args, says in (
        (
            ("--calibration", tmp_path / "other.json"),
            "was made of tiny (fingerprint 0000000000000000), and this model is",
        ),
        (("--calibration", tmp_path / "no.json"), "there is no calibration file"),
        (("--calibration", tmp_path / "own.json", "-s", "cons"), "strategy cons chooses by no calibration; leave"),
        (("--spend", "0.5x"), "traces is 0.5"),
        (("--spend", "10"), "a budget of 10 tokens is below one trace"),
        (("--spend", "30min"), "the budget '30min' is neither"),
        (("--spend", "2x", "-s", "cons"), "setting 'spend' of strategy self-consistency is unknown"),
    ):
        result = invoke(*common, *args)
        assert (result.exit_code, result.stdout) == (2, ""), (args, result.output)
        assert says in result.stderr, (args, result.stderr)
        assert result.stderr.count("\n") == 1


def test_decisions_are_lines_and_stdout_is_the_answer(invoke: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "deeper" / "verdict.json"
    result = invoke("solve", *EASY, *PRUNE, "--out", out)
    assert result.exit_code == 0, result.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert result.stdout.startswith(f"answer {record['answer']}, ")
    assert result.stdout.count("\n") == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith("explore phase (")
    placed = [line for line in lines if "pruned: agrees with cluster" in line]
    assert len(placed) == sum(len(cluster) - 1 for cluster in record["clusters"]) > 0
    assert sum("opens cluster" in line for line in lines) == len(record["clusters"])
    assert any(line.startswith("traces: 6: ") for line in lines)
    assert any(line.startswith("saved: ") and "estimate from" in line for line in lines)
    assert lines[-1] == f"wrote {out}"


def test_compression_is_the_engines(invoke: Any, tiny: Path) -> None:
    options = ("-m", tiny, "--n", 3, "-s", "self-consistency", "--temperature", 0.9, "--json")
    full = json.loads(invoke("solve", "c d e", *options).stdout)
    rpc = ("--policy", "rpc", "--interval", 16, "--ratio", 4, "--window", 8)
    pruned = json.loads(invoke("solve", "c d e", *options, *rpc).stdout)
    told = alone(
        tiny,
        RPC(interval=16, ratio=4, window=8),
        SelfConsistency(3),
        "c d e",
        Sampling(max_new_tokens=60, temperature=0.9, top_p=0.95),
    )
    assert (full["policy"], pruned["policy"]) == ("full", "rpc:interval=16,ratio=4,window=8")
    assert pruned["kv"] == told["kv"]
    assert pruned["kv"]["token_steps"] < full["kv"]["token_steps"]


def test_a_trained_judge_reads_states_that_the_engine_noted(
    invoke: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = EncoderInputSpec("tokens:8", "states", layers=(1, 2))
    PairEncoder(made, EncoderConfig(given=64, tokens=8), ReasonerStates(64, (1, 2))).save(tmp_path)
    engines: list[HFEngine] = []

    def noted(*args: Any, **more: Any) -> HFEngine:
        engines.append(HFEngine(*args, **more))
        return engines[-1]

    monkeypatch.setattr("laconic.engines.hf.HFEngine", noted)
    options = ("-m", tiny, "-j", f"encoder:{tmp_path}", "-n", 4, "--temperature", 1, "--json")
    record = json.loads(invoke("solve", "c d e", *options).stdout)
    assert record["settings"]["excerpt"] == "tokens:8"
    assert record["tokens"]["judged"] == 0
    assert engines[0].stats.side_tokens == 0
    assert len(record["clusters"]) > 0


def test_the_kept_tokens_of_stopped_traces_can_be_read(invoke: Any, tiny: Path) -> None:
    rpc = ("--policy", "rpc", "--interval", 16, "--ratio", 4, "--window", 8)
    options = ("-m", tiny, "-j", "jaccard", "--excerpt", "kept", "-n", 3, "--temperature", 1, "--json")
    result = invoke("solve", "c d e", *options, *rpc)
    assert result.exit_code in (0, 1), result.stderr
    assert json.loads(result.stdout)["settings"]["excerpt"] == "kept"


def test_a_judge_made_for_another_tokenizer_or_excerpt_is_refused_naming_both(
    invoke: Any, tiny: Path, tmp_path: Path
) -> None:
    PairEncoder(EncoderInputSpec("tokens:8", tokenizer="0" * 16), EncoderConfig(vocabulary=43, tokens=8)).save(tmp_path)
    options = ("-m", tiny, "-j", f"encoder:{tmp_path}")
    _, tokenizer = load(tiny)
    result = invoke("solve", "c d e", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "0" * 16 in result.stderr
    assert tokenizer_fingerprint(tokenizer) in result.stderr
    PairEncoder(EncoderInputSpec("tokens:8"), EncoderConfig(vocabulary=43, tokens=8)).save(tmp_path)
    result = invoke("solve", "c d e", *options, "--excerpt", "tokens:9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tokens:8" in result.stderr
    assert "tokens:9" in result.stderr


def test_no_answer_at_all_is_said_and_exit_1(invoke: Any, tiny: Path) -> None:
    options = ("-m", tiny, "--n", 2, "-s", "self-consistency", "--temperature", 0)
    result = invoke("solve", "c d e", *options, "--gold", 7)
    assert result.exit_code == 1, result.stderr
    assert result.stdout == "no answer (it is 7)\n"
    result = invoke("solve", "c d e", *options, "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["answer"], record["complete"], record["gold"], record["right"]) == (
        1, None, True, None, None,
    )  # fmt: skip


def test_the_gold_answer_of_the_option_beats_the_files(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "c d e", "answer": "7"}\n')
    options = ("--file", path, "-m", tiny, "-n", 1, "-s", "cons", "--max-new-tokens", 3, "--json")
    assert json.loads(invoke("solve", *options).stdout)["gold"] == "7"
    assert json.loads(invoke("solve", *options, "--gold", "8").stdout)["gold"] == "8"


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_step_of_the_engine_ends_with_the_verdict_so_far(
    invoke: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    """Pressed between the forward pass and the drawing of the tenth tokens; the second press breaks the step off there."""
    draw_next, steps = batch.draw_next, []

    def pressed(entries: Any, logits: Any, policy: Any) -> Any:
        steps.append(len(entries))
        if len(steps) == 10:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return draw_next(entries, logits, policy)

    monkeypatch.setattr(batch, "draw_next", pressed)
    before = signal.getsignal(signal.SIGINT)
    options = ("-m", tiny, "-n", 4, "-s", "self-consistency", "--temperature", 0)
    result = invoke("solve", "c d e", *options, "--json")
    assert result.exit_code == 130, (result.stderr, result.exception)
    assert signal.getsignal(signal.SIGINT) is before
    record = json.loads(result.stdout)
    assert record["complete"] is False
    assert {trace["fate"] for trace in record["traces"]} == {"interrupted"}
    counts = [trace["tokens"] for trace in record["traces"]]
    assert record["tokens"]["generated"] == sum(counts)
    # The first press lets the step end, and the strategy see of it what tells that it has; the second one doesn't.
    assert counts == [9] * 4 if presses == 2 else all(10 <= count <= 11 for count in counts)
    assert len(steps) <= 11


def test_the_winners_text_is_shown_on_request_and_every_text_is_in_the_verdict(invoke: Any, tmp_path: Path) -> None:
    out = tmp_path / "verdict.json"
    result = invoke("solve", *EASY, *PRUNE, "--policy", "rpc:interval=16,window=8", "--show", "winner", "--out", out)
    assert result.exit_code in (0, 1), result.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert all(trace["text"] for trace in record["traces"] if trace["tokens"])
    winner = record["traces"][record["winner"]]
    assert winner["answer"] == record["answer"]
    assert f"== trace {winner['index']}, the winner: answer {winner['answer']}" in result.stdout
    assert winner["text"].strip("\n") in result.stdout
    assert result.stdout.count("== trace ") == 1
    assert record["kv"]["compressions"] > 0
    assert record["kv"]["evicted"] > 0
    assert f"evicted: {record['kv']['evicted']:,} tokens in {record['kv']['compressions']:,} comp" in result.stderr
    assert f"KV, mean: {record['kv']['mean_tokens']:,.0f} tokens a trace" in result.stderr


def test_bad_input_is_one_sentence(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    strategies = "expected one of self-consistency, priced-vote, adaptive-consistency, auto, deepprune, judged-vote, "
    jaccard = ("-m", tiny, "-j", "jaccard")
    blocked = tmp_path / "file"
    blocked.touch()
    cases: list[tuple[list[Any], str]] = [
        (["c", "-m", tiny, "-s", "magic"], f"strategy 'magic' is unknown; {strategies}"),
        (
            ["c", "-m", tiny, "-j", "delphi"],
            "judge 'delphi' is unknown; expected one of bundled, encoder:DIRECTORY, llm:",
        ),
        (["c", "-m", tiny, "-j", "encoder"], "judge encoder needs to know which"),
        (["c", "-m", tiny, "-j", "perfect"], "judge perfect needs the answers of finished traces"),
        (["c", *jaccard, "--excerpt", "pages:3"], "tokens:"),
        (["c", *jaccard, "--excerpt", "tokens:0"], "tokens:0"),
        (["c", *jaccard, "--n", 0], "n is 0; expected"),
        (["c", *jaccard, "--n", 5000], "n is 5000; expected"),
        (["c", *jaccard, "--tau", 1.5], "tau is 1.5"),
        (["c", *jaccard, "--clusters", 0], "K is 0"),
        (["c", *jaccard, "--compare", 0], "K1 is 0"),
        (["c", *jaccard, "--finish", 0], "K2 is 0"),
        (["c", *jaccard, "--fallback", 0], "K3 is 0"),
        (["c", *jaccard, "-s", "deepprune:K=3", "--K", 4], "K is given both in --strategy"),
        (["c", *jaccard, "-s", "cons"], "strategy cons asks no judge"),
        (["c", "-m", tiny, "-s", "cons", "--tau", 0.5], "setting 'tau' of strategy self-consistency is unknown"),
        (["  ", *jaccard], "the problem is empty"),
        ([*jaccard], "there is no problem"),
        (["c", "--bundled", 1, *jaccard], "PROBLEM and --bundled each name a problem"),
        (["c " * 300, *jaccard], "the model's context is 256"),
        (["c", *jaccard, "-p", "nonsense"], "policy 'nonsense' is unknown"),
        (["c", *jaccard, "--ratio", 4], "setting 'ratio' of policy full is unknown"),
        (["c", *jaccard, "--temperature", -1], "temperature is -1"),
        (["c", *jaccard, "--batch", 0], "--batch is 0"),
        (["c", *jaccard, "--out", tmp_path], "is a directory"),
        (["c", *jaccard, "--out", blocked / "x.json"], f"{blocked} can't be made a directory, as a file is in the way"),
        (["c", *jaccard, "--out", blocked / "no" / "x.json"], "can't be made a directory, as a file is in the way"),
        (["c", *jaccard, "--show", "best"], "--show is 'best'; expected winner or all"),
        (["c", *jaccard, "--show", "all", "--json"], "--json prints every trace's text anyway"),
        (["c", "-m", tmp_path / "nowhere", "-j", "jaccard"], "there is no model at"),
        (["what is 2+2?", "-j", "jaccard"], "only reads the notation that `laconic problems` prints"),
    ]
    for args, said in cases:
        result = invoke("solve", *args)
        assert result.exit_code == 2, (args, result.output, result.exception)
        assert result.stdout == "", args
        assert said in result.stderr, (args, result.stderr)
        assert result.stderr.startswith("error: "), args
        assert result.stderr.count("\n") == 1, (args, result.stderr)


def test_what_is_wrong_with_a_strategy_is_refused_before_a_model_is_loaded(
    invoke: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("laconic.engines.hf.load", never)
    for args in (["-s", "magic"], ["-j", "delphi"], ["--tau", 2], ["--n", 0], ["--excerpt", "pages:3"], ["--batch", 0]):
        assert invoke("solve", "c", "-m", tiny, *args).exit_code == 2, args


def test_a_verdict_that_could_not_be_written_is_refused_before_the_work(
    invoke: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = invoke("solve", "c", "-m", tiny, "-j", "jaccard", "--out", tmp_path / "x.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "can't be written" in result.stderr
