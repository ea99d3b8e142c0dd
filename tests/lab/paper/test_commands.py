"""No cell's command can be wrong: each is parsed by the command line that would run it, and its specs by their registries."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import typer

from laconic.cli import build
from laconic.cli.lists import split_specs
from laconic.compress import parse as parse_policy
from laconic.engines.hf.shapes import get_shape
from laconic.errors import InputError
from laconic.judges.baselines import RandomJudge
from laconic.judges.registry import split as split_judge
from laconic.lab.harness.arguments import ModelArguments, parse_arguments, read_arguments
from laconic.lab.lighteval.command import arguments_for as lighteval_arguments
from laconic.lab.lm_eval.command import arguments_for as lm_eval_arguments
from laconic.lab.paper.cells import AccuracyCell, JudgeCell, SpeedCell, TracesCell, VotesCell
from laconic.lab.paper.commands import Command, RunChoices, chosen_models, chosen_sources, commands, lacking, shown
from laconic.lab.paper.deepprune import PAPER as DEEPPRUNE
from laconic.lab.paper.rpc import PAPER as RPC
from laconic.problems.benchmarks import find_benchmark
from laconic.prune.excerpts import parse as parse_excerpt
from laconic.prune.strategies.registry import parse as parse_strategy

CELLS = [*RPC.cells, *DEEPPRUNE.cells]
PUBLISHED = RunChoices(Path("out"), mean_length=12_000)
SMALLER = RunChoices(
    Path("out"),
    models={"": "bundled"},
    sources={"aime24": "aime24:some file.jsonl"},
    problems=2,
    n=3,
    repeats=1,
    max_new_tokens=50,
    mean_length=40,
    judge="jaccard",
    engine="vllm",
    engine_set=("max_model_len=4096",),
    dtype="float32",
    device="cuda:1",
)


@functools.cache
def built() -> Any:
    return typer.main.get_command(build())


def parsed(command: Command) -> tuple[str, dict[str, Any]]:
    """The path of a laconic command, and what its function would be called with."""
    words, node, path = command[1:], built(), []
    parent = typer.Context(node, info_name="laconic")
    while words[0] in getattr(node, "commands", {}):
        path.append(words.pop(0))
        node = node.commands[path[-1]]
        if getattr(node, "commands", {}):
            parent = typer.Context(node, info_name=path[-1], parent=parent)
    return " ".join(path), dict(node.make_context(path[-1], words, parent=parent).params)


def harness_arguments(command: Command) -> tuple[ModelArguments, str]:
    """What a harness's model gets, and the task."""
    assert command[:2] == ["python", "-m"]
    if command[2].endswith("lighteval"):
        model, task = lighteval_arguments(command[3:])[1], command[4]
        return read_arguments(parse_arguments(model)), task
    words = lm_eval_arguments(command[3:])
    assert words[:3] == ["run", "--model", "laconic"]
    given = dict(part.split("=", 1) for part in words[words.index("--model_args") + 1].split(","))
    return read_arguments({name: _number(value) for name, value in given.items()}), words[words.index("--tasks") + 1]


def _number(text: str) -> Any:
    """As lm-eval reads the values of --model_args."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@pytest.mark.parametrize("how", [PUBLISHED, SMALLER], ids=["published", "smaller"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_command_of_every_cell_is_one_that_the_command_line_takes(cell: Any, how: RunChoices) -> None:
    found = commands(cell, how)
    assert bool(found) == (not lacking(cell, how))
    for command in found:
        if command[0] == "python":
            arguments, task = harness_arguments(command)
            assert task == cell.benchmark.task
            assert arguments.policy == "none" or parse_policy(arguments.policy)
            assert arguments.max_gen_toks == (how.max_new_tokens or 32768)
            continue
        path, given = parsed(command)
        assert path in ("bench accuracy", "bench throughput", "bench parallel", "collect", "judge train", "judge eval")
        for spec in split_specs(given.get("policies") or ""):
            assert spec == "none" or parse_policy(spec)
        for spec in split_specs(given.get("strategies") or ""):
            parse_strategy(spec, 512, RandomJudge())
        for text in [given["judges"]] if isinstance(given.get("judges"), str) else given.get("judges") or []:
            for spec in split_specs(text):
                split_judge(spec)
        if given.get("excerpt"):
            parse_excerpt(given["excerpt"])
        if given.get("shapes"):
            get_shape(given["shapes"])
        if "source" in given:
            assert find_benchmark(given["source"]) is not None
        assert str(given["out"]).startswith(str(Path("out") / cell.place.removesuffix(".jsonl")))


def command_of(name: str, how: RunChoices = PUBLISHED) -> list[Command]:
    return commands(next(cell for cell in CELLS if cell.name == name), how)


def test_the_published_settings_are_in_the_commands() -> None:
    (rpc,) = command_of("accuracy/qwq-32b/aime24/rpc-8x-p4096")
    given = parsed(rpc)[1]
    assert given["model"] == "Qwen/QwQ-32B"
    assert parse_policy(given["policies"]) == parse_policy("rpc:interval=4096,ratio=8,window=32")
    assert [given[name] for name in ("samples", "temperature", "top_p", "top_k", "max_new_tokens", "dtype")] == [
        8, 0.6, 0.95, 40, 32768, "bfloat16",
    ]  # fmt: skip
    (speed,) = command_of("speed/r1-distill-qwen-7b/16x32768")
    told = parsed(speed)[1]
    assert (told["batches"], told["lengths"], told["prompt"], told["repeats"]) == ("16", "32768", 128, None)
    assert split_specs(told["policies"]) == [
        "rpc:interval=4096,ratio=4,window=32",
        "rpc:interval=1024,ratio=4,window=32",
    ]
    (votes,) = command_of("votes/gpt-oss-20b/gpqa-diamond")
    voted = parsed(votes)[1]
    assert (voted["n"], voted["few"], voted["timed"], voted["judges"]) == (
        "512",
        "",
        0,
        "llm:THU-KEG/DeepPrune-Judge-4B",
    )
    strategy: Any = parse_strategy(split_specs(voted["strategies"])[-1], 512, RandomJudge())
    assert (strategy.K, strategy.K1, strategy.survivors, strategy.tau) == (32, 10, 20, 0.5)
    assert (strategy.early_end, strategy.finish) == (False, "together")


def test_a_budget_is_a_quarter_of_full_kv_s_mean_length() -> None:
    cell = next(cell for cell in RPC.cells if cell.name == "accuracy/r1-distill-qwen-7b/aime24/h2o-4x")
    without = RunChoices(Path("out"))
    assert commands(cell, without) == []
    assert "25 % of full KV's mean length, not known yet: give --mean-length" in lacking(cell, without)
    assert parsed(commands(cell, without, 10_001.0)[0])[1]["policies"] == "h2o:budget=2500"
    assert parsed(commands(cell, PUBLISHED)[0])[1]["policies"] == "h2o:budget=3000"
    assert parsed(commands(cell, PUBLISHED, 400.0)[0])[1]["policies"] == "h2o:budget=100"  # what was found wins


def test_another_engine_collects_the_traces_first_where_the_bench_looks_for_them() -> None:
    first, second = command_of("votes/qwen3-32b/aime25", SMALLER)
    collected, benched = parsed(first)[1], parsed(second)[1]
    assert collected["out"] == benched["out"] / "traces-none.jsonl"
    assert (collected["engine"], collected["engine_set"], collected["n"]) == ("vllm", ["max_model_len=4096"], 3)
    assert collected["confidence_top_k"] == 20  # as DeepConf needs
    assert benched["judges"] == "jaccard"


def test_a_judge_s_four_commands_find_one_another_s_files() -> None:
    train, *evaluations = map(parsed, command_of("judge/words-25/focal".replace("25/", "25-")))
    assert train[0] == "judge train"
    assert (train[1]["focal"], train[1]["oversample"], train[1]["excerpt"]) == (True, 1, "words:25")
    assert str(train[1]["traces"]) == str(parsed(command_of("traces/r1-distill-llama-8b")[0])[1]["out"])
    assert [given["judges"] for _, given in evaluations] == [[f"llm:{train[1]['out']}"]] * 3
    traces = {
        str(parsed(commands(cell, PUBLISHED)[0])[1]["out"]) for cell in DEEPPRUNE.cells if isinstance(cell, TracesCell)
    }
    assert {str(given["traces"]) for _, given in evaluations} < traces
    assert len({given["out"] for _, given in evaluations}) == 3


def test_cells_are_counted_and_named_once() -> None:
    kinds = {kind: sum(isinstance(cell, kind) for cell in CELLS) for kind in (AccuracyCell, SpeedCell, VotesCell)}
    assert kinds == {AccuracyCell: 21 + 18, SpeedCell: 13, VotesCell: 9}
    assert sum(isinstance(cell, JudgeCell) for cell in CELLS) == 10
    for paper in (RPC, DEEPPRUNE):
        names = [cell.name for cell in paper.cells]
        assert len(set(names)) == len(names)


def test_derived_figures_that_the_papers_print_follow_from_the_cells() -> None:
    """Their savings and speed-ups were published by themselves, so a slip in one of these numbers shows."""
    saved = {
        "r1-0528-qwen3-8b": (-88.4, -91.6, -76.7),
        "qwen3-32b": (-86.5, -91.3, -85.6),
        "gpt-oss-20b": (-79.5, -81.9, -52.2),
    }
    for cell in DEEPPRUNE.cells:
        if isinstance(cell, VotesCell):
            place = ("aime24", "aime25", "gpqa-diamond").index(cell.benchmark.name)
            cons, *_, deepprune = (figures.tokens or 0.0 for figures in cell.published.values())
            assert 100 * (deepprune / cons - 1) == pytest.approx(saved[cell.model.name][place], abs=0.3)
    speed: Any = next(cell for cell in RPC.cells if cell.name == "speed/r1-distill-qwen-7b/16x32768")
    full, rpc, _ = speed.published.values()
    assert rpc.tokens_per_second / full.tokens_per_second == pytest.approx(1.68, abs=0.005)
    assert (full.gigabytes, rpc.gigabytes) == (75.7, 36.2)


def test_models_and_sources_are_given_by_name_or_for_all() -> None:
    assert chosen_models(["qwq-32b=/a/b", "bundled"], RPC) == {"qwq-32b": "/a/b", "": "bundled"}
    assert chosen_models(["/a=b/c"], RPC) == {"": "/a=b/c"}
    assert chosen_sources(["aime24:x.jsonl", "mine.jsonl"], RPC) == {"aime24": "aime24:x.jsonl", "": "mine.jsonl"}
    how = RunChoices(Path("out"), models={"qwq-32b": "/a/b"}, sources={"aime24": "aime24:x y.jsonl"})
    (command,) = command_of("accuracy/qwq-32b/aime24/full", how)
    assert "--model /a/b --source 'aime24:x y.jsonl'" in shown(command)
    assert "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B" in command_of("accuracy/r1-distill-qwen-7b/aime24/full", how)[0]


@pytest.mark.parametrize(
    ("choose", "given", "says"),
    [
        (chosen_models, ["a", "b"], "--model b and a are for the same models; expected one MODEL for all"),
        (chosen_models, ["qwq-32b="], "--model qwq-32b= names no model; expected qwq-32b=MODEL"),
        (chosen_sources, ["gsm8k:x"], "--source gsm8k:x is of gsm8k, which this paper has no cell of; it has aime24"),
        (chosen_sources, ["ifeval:x"], "--source ifeval:x has no effect: lm-eval brings the problems of ifeval along"),
        (chosen_sources, ["aime24:x", "aime24:y"], "--source aime24:y and aime24:x are for the same cells"),
        (chosen_sources, ["aime24:"], "lacks the file"),
    ],
)
def test_models_and_sources_that_do_not_fit(choose: Any, given: list[str], says: str) -> None:
    with pytest.raises(InputError) as error:
        choose(given, RPC)
    assert says in str(error.value)
