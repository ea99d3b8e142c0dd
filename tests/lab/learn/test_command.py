"""`laconic learn` from the command line: a selector that `think` then uses, interrupted anywhere, and what can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engines.hf.families import family
from transformers import MambaConfig, MambaForCausalLM

from laconic.cli import build
from laconic.cli.progress import ProgressOrLines
from laconic.engines.hf import load
from laconic.errors import LaconicError
from laconic.files import lock_directory
from laconic.fingerprint import weights_fingerprint
from laconic.lab.learn import sampling
from laconic.lab.learn.prompts import PROMPTS
from laconic.lab.learn.sampling import choose_problems
from laconic.problems.benchmarks import filled
from laconic.selectors import place_of, read_selector, working_folder
from laconic.traces import TraceRecord, read_traces, write_traces

QUICK = ("--recipe", "group:epochs=1,hidden=8")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def recorded(invoke: Any, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 traces of 40 problems, 120 tokens each, by the tiny model."""
    place = tmp_path_factory.mktemp("learn")
    asked = [{"id": f"{a}{b}", "question": f"{a} plus {b} ?", "answer": a} for a in "1234567890" for b in "abcd"]
    (place / "problems.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    out = place / "traces.jsonl"
    result = invoke(
        "collect", "-m", tiny, "--source", place / "problems.jsonl", "-n", 1, "--temperature", 0, "--max-new-tokens", 120,
        "--batch", 40, "-o", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def interrupted_options(recorded: Path) -> tuple[object, ...]:
    source = recorded.with_name("problems.jsonl")
    return ("--source", source, "--max-new-tokens", 120, "--temperature", 0, "--batch", 16, *QUICK)


@pytest.fixture(scope="session")
def whole(invoke: Any, tiny: Path, recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody interrupts makes."""
    place = tmp_path_factory.mktemp("whole")
    out = place / "whole.safetensors"
    result = invoke("learn", tiny, *interrupted_options(recorded), "--work", place / "work", "--out", out)
    assert result.exit_code == 0, result.output
    return out


def fingerprint_of(tiny: Path) -> str:
    return weights_fingerprint(load(tiny)[0])


def test_traces_are_sampled_and_the_selector_is_found_by_itself(invoke: Any, tiny: Path, recorded: Path) -> None:
    source = recorded.with_name("problems.jsonl")
    options = ("--source", source, "--max-new-tokens", 120, "--temperature", 0, *QUICK)
    result = invoke("learn", tiny, *options)
    assert result.exit_code == 0, result.output
    told = {line[:10].strip(): line[10:] for line in result.stdout.splitlines()}
    mine = fingerprint_of(tiny)
    assert told["model"] == tiny.name
    assert told["traces"] == "24 to learn from, 16 for the check"
    assert told["tokens"] == "1,560 in each of 3 layers"
    assert told["rotation"] == "RoPE over 8 numbers of a key, by halves"
    assert told["hits"].endswith("%")
    assert told["check"].startswith(("closer to full KV than rpc, rkv and random on 16", "NOT shown to be better than"))
    assert told["file"].startswith(f"{place_of(mine)} (")
    assert told["file"].endswith("to be used as --policy learned")
    assert str(working_folder(mine)) in told["kept"]
    assert "The check: 16 traces, ratio 4, interval 32, window 8" in result.stdout
    for line in ("40 of 40 traces", "24 of 24 traces", "reading traces", "3 of 3 layers", "training", "checking"):
        assert line in result.stderr
    selector = read_selector(place_of(mine))
    assert selector.fingerprint == mine
    assert selector.recipe["model"] == tiny.name
    assert set(selector.recipe["check"]["kl"]) == {"learned", "rpc", "rkv", "random", "hindsight"}
    assert str(recorded.parent) not in json.dumps(dict(selector.recipe))

    used = invoke("think", "c d e", "-m", tiny, "-p", "learned:interval=16,window=8", "--temperature", 0, "--json")
    assert used.exit_code == 0, used.output
    assert json.loads(used.stdout)["evicted"] > 0

    more = invoke("learn", tiny, *options, "--problems", 38, "--json")  # of the traces that are there
    assert more.exit_code == 0, more.output
    assert more.stderr == ""
    record = json.loads(more.stdout)
    assert record["traces"] == {"learned": 22, "checked": 16}
    assert record["file"] == str(place_of(mine))


def test_recorded_traces_a_file_of_its_own_and_other_traces_to_check_on(
    invoke: Any, tiny: Path, recorded: Path, tmp_path: Path, cache: Path
) -> None:
    records = list(read_traces(recorded).records)
    write_traces(tmp_path / "mine.jsonl", records[:25])
    write_traces(tmp_path / "others.jsonl", records[25:30])
    out, work = tmp_path / "new" / "mine.safetensors", tmp_path / "work"
    result = invoke(
        "learn", tiny, "--traces", tmp_path / "mine.jsonl", "--check", tmp_path / "others.jsonl", "--out", out, "--work", work,
        "--recipe", "layer:features=size,epochs=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "25 to learn from, 5 for the check" in result.stdout
    assert f"--policy learned:{out}" in result.stdout
    assert not cache.exists()
    assert {path.name.partition("-")[0] for path in work.iterdir()} == {"harvest", "check"}
    selector = read_selector(out)
    assert (selector.features, selector.per_head, selector.rotation) == (("size",), False, None)
    used = invoke("think", "c d e", "-m", tiny, "-p", f"learned:{out},interval=16,window=8", "--temperature", 0)
    assert used.exit_code == 0, used.output
    other = invoke("think", "-p", f"learned:{out}", "--max-new-tokens", 40)
    assert other.exit_code == 2
    assert "expected a selector that laconic learn made for this model" in other.stderr


def test_a_check_is_on_problems_that_nothing_is_learned_from(
    invoke: Any, tiny: Path, recorded: Path, tmp_path: Path
) -> None:
    records = list(read_traces(recorded).records)
    write_traces(tmp_path / "mine.jsonl", records[:25])
    write_traces(tmp_path / "check.jsonl", records[20:30])
    options = ("--work", tmp_path / "work", "--recipe", "layer:features=size,epochs=1")
    result = invoke("learn", tiny, "--traces", tmp_path / "mine.jsonl", "--check", tmp_path / "check.jsonl", *options)
    assert result.exit_code == 0, result.output
    assert "5 of 10 traces of --check are of problems that the selector learns from, and are left out" in result.stderr
    assert "25 to learn from, 5 for the check" in result.stdout
    same = invoke("learn", tiny, "--traces", tmp_path / "mine.jsonl", "--check", tmp_path / "mine.jsonl", *options)
    assert same.exit_code == 2
    assert "every trace of --check is of a problem that the selector learns from" in same.stderr
    empty = [dataclasses.replace(record, token_ids=(), confidences=None) for record in records[:3]]
    write_traces(tmp_path / "empty.jsonl", empty)
    none = invoke("learn", tiny, "--traces", tmp_path / "mine.jsonl", "--check", tmp_path / "empty.jsonl", *options)
    assert none.exit_code == 2
    assert "no trace in" in none.stderr


def test_traces_too_short_to_check_on(invoke: Any, tiny: Path, recorded: Path, tmp_path: Path) -> None:
    records = list(read_traces(recorded).records)
    short = [dataclasses.replace(record, token_ids=record.token_ids[:30]) for record in records[:3]]
    write_traces(tmp_path / "short.jsonl", short)
    write_traces(tmp_path / "others.jsonl", records[3:])
    result = invoke("learn", tiny, "--traces", tmp_path / "others.jsonl", "--check", tmp_path / "short.jsonl", *QUICK)
    assert result.exit_code == 0, result.output
    assert "check     none: no trace for it is long enough to be compressed" in result.stdout
    assert read_selector(place_of(fingerprint_of(tiny))).recipe["check"] is None


@pytest.mark.parametrize("phase", ["sampling", "reading traces", "training", "checking"])
def test_an_interrupted_run_goes_on_to_the_same_selector(
    phase: str,
    invoke: Any,
    tiny: Path,
    recorded: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, tell = interrupted_options(recorded), ProgressOrLines.tell

    def interrupted(self: Any, label: str, done: int, total: int, note: str = "") -> None:
        tell(self, label, done, total, note)
        if label == phase and done >= total / 2:
            raise KeyboardInterrupt

    mine = ("--work", tmp_path / "cut", "--out", tmp_path / "cut.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(ProgressOrLines, "tell", interrupted)
        cut = invoke("learn", tiny, *options, *mine)
    assert cut.exit_code == 130
    assert (
        f"interrupted; what is finished is in {tmp_path / 'cut'}, and the same command goes on from there" in cut.stderr
    )
    assert not (tmp_path / "cut.safetensors").exists()
    again = invoke("learn", tiny, *options, *mine)
    assert again.exit_code == 0, again.output
    one, other = read_selector(whole), read_selector(tmp_path / "cut.safetensors")
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.recipe == other.recipe


# ---- what can be wrong ------------------------------------------------------------------------------------------------


def refused(invoke: Any, *arguments: object) -> str:
    result = invoke("learn", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


Change = Callable[[TraceRecord], TraceRecord]


def written(recorded: Path, path: Path, change: Change, count: int = 40) -> Path:
    write_traces(path, [change(record) for record in read_traces(recorded).records[:count]])
    return path


def cut(tokens: int) -> Change:
    return lambda record: dataclasses.replace(record, token_ids=record.token_ids[:tokens])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: dataclasses.replace(r, settings={**r.settings, "tokenizer": "abc"}), "with the tokenizer abc, the"),
        (lambda r: dataclasses.replace(r, token_ids=(*r.token_ids, 999)), "has the entry 999; the model has the token ids"),
        (lambda r: dataclasses.replace(r, prompt_ids=()), "has no prompt_ids, so nothing of it can be run again"),
        (lambda r: dataclasses.replace(r, problem="one", index=int(r.problem[0]) * 4 + ord(r.problem[1])), "40 traces of 1"),
        (cut(20), "the traces hold 0 tokens to learn from, in 0 traces (a token counts where 48 more follow it); expected"),
        (cut(70), "the traces hold 408 tokens to learn from, in 24 traces"),
        (lambda r: dataclasses.replace(r, token_ids=r.token_ids * 3), "the model's context is 256: cut it"),
    ],
)  # fmt: skip
def test_traces_that_will_not_do(
    change: Change, said: str, invoke: Any, tiny: Path, recorded: Path, tmp_path: Path
) -> None:
    assert said in refused(invoke, tiny, "--traces", written(recorded, tmp_path / "t.jsonl", change))


def test_files_that_will_not_do(invoke: Any, tiny: Path, recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text("{\n")
    for option in ("--traces", "--check"):
        given = () if option == "--traces" else ("--traces", recorded)
        assert "holds no traces" in refused(invoke, tiny, *given, option, tmp_path / "empty.jsonl")
        assert "holds no traces; line by line: line 1" in refused(
            invoke, tiny, *given, option, tmp_path / "broken.jsonl"
        )
        assert "There is no trace file" in refused(invoke, tiny, *given, option, tmp_path / "none.jsonl")
    few = written(recorded, tmp_path / "few.jsonl", lambda record: record, 12)
    assert "12 traces of 12 problems, and the last 16 are for the check" in refused(invoke, tiny, "--traces", few)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recipe", "best"), "recipe 'best' is unknown; expected one of group, layer"),
        (("--recipe", "group:loss=l2"), "loss of recipe group is 'l2'"),
        (("--learn-from", 999), "--learn-from is 999; expected at least 1,000 tokens"),
        (("--batch", 0), "--batch is 0; expected at least 1"),
        (("--problems", 0), "--problems is 0; expected at least 1"),
        (("--source", "no/such.jsonl"), "There is no problem file no/such.jsonl"),
        (("--temperature", -1, "--problems", 3), "temperature is -1"),
        (("--traces", "TRACES", "--problems", 3), "--problems has no effect with --traces; leave it out"),
        (("--traces", "TRACES", "--temperature", 1), "--temperature has no effect with --traces"),
        (("--device", "nonesuch"), "The device 'nonesuch' can't be used here"),
    ],
)
def test_options_that_will_not_do(
    options: tuple[object, ...], said: str, invoke: Any, tiny: Path, recorded: Path
) -> None:
    given = [recorded if option == "TRACES" else option for option in options]
    assert said in refused(invoke, tiny, *given)


def test_a_place_that_will_not_do_is_told_before_the_model_is_loaded(
    invoke: Any, recorded: Path, tmp_path: Path
) -> None:
    assert f"{tmp_path} is a directory; expected the name of a file for the selector" in refused(
        invoke, "./no/such/model", "--traces", recorded, "--out", tmp_path
    )
    assert "there is no model at ./no/such/model" in refused(invoke, "./no/such/model", "--traces", recorded)


def test_a_directory_in_use(invoke: Any, tiny: Path, recorded: Path, tmp_path: Path) -> None:
    with lock_directory(tmp_path / "work"):
        said = refused(invoke, tiny, "--traces", recorded, "--work", tmp_path / "work")
    assert "is in use by another run; wait for it, or name another" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deepseek-v3", "cache 1 KV heads with keys of 12 and values of 8: expected keys and values of one size"),
        ("mamba", "keeps a cache of its own class|has no plain full-attention layer|can't"),
    ],
)
def test_models_that_cannot_have_a_selector(
    name: str, said: str, invoke: Any, tiny: Path, recorded: Path, tmp_path: Path
) -> None:
    place = tmp_path / name
    model: Any = (
        family(name)
        if name != "mamba"
        else MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=32, state_size=4, num_hidden_layers=2))
    )
    model.save_pretrained(place)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / file, place)
    for template in tiny.glob("chat_template*"):
        shutil.copy(template, place)
    assert re.search(said, refused(invoke, place, "--traces", recorded))


# ---- whose traces -----------------------------------------------------------------------------------------------------


def test_what_traces_are_sampled_of(tmp_path: Path) -> None:
    bundled = choose_problems(None, None, 3, True)
    assert (len(bundled.problems), bundled.n, bundled.name) == (200, 1, "bundled, train, seed 3")
    assert all("-train-s3-" in problem.id for problem in bundled.problems)
    general = choose_problems(None, None, 0, False)
    assert (len(general.problems), general.n, general.name) == (len(PROMPTS), 4, "prompts")
    assert (len(choose_problems(None, 30, 0, False).problems), choose_problems(None, 30, 0, False).n) == (30, 1)
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "2+2?", "answer": 4}\n' * 3)
    from_file = choose_problems(str(path), 2, 0, False)
    assert (len(from_file.problems), from_file.n, from_file.name) == (2, 1, "p.jsonl")
    assert len(choose_problems("bundled", 5, 0, False).problems) == 5
    assert choose_problems("bundled", 5, 0, False) == choose_problems("bundled", 5, 3, False)
    named = choose_problems(f"gsm8k:{path}", 2, 0, False)
    assert (named.n, named.name, len(named.problems)) == (1, f"gsm8k, {path.name}", 2)
    assert named.problems[0].question == filled(named.prompt, question=from_file.problems[0].question)
    with pytest.raises(LaconicError, match="--problems is 0"):
        choose_problems(None, 0, 0, True)
    assert sampling.PROBLEMS == 200


def test_help_loads_no_torch() -> None:
    code = "import sys; from laconic.cli import build; build('learn'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert build("learn") is not None
