"""--engine: what it means, and what is refused before anything starts. Needs no vLLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.engines.vllm.tiny import tiny_tokenizer

from laconic.cli.common import choose_strategy
from laconic.cli.engines import EngineChoice, VLLMReasoner, choose_engine, open_reasoner
from laconic.compress import FullKV
from laconic.engines.vllm.engine.engine import VLLMEngine
from laconic.errors import LaconicError
from laconic.judges.baselines import RandomJudge
from laconic.judges.probe import ProbeJudge
from laconic.prune.needs import Needs


@pytest.mark.parametrize(
    ("spec", "model", "want"),
    [
        ("hf", None, EngineChoice("hf", None, {})),
        ("hf", "org/name", EngineChoice("hf", "org/name", {})),
        ("hf:org/name", None, EngineChoice("hf", "org/name", {})),
        ("vllm:org/name", None, EngineChoice("vllm", "org/name", {})),
        ("vllm:/a:b", None, EngineChoice("vllm", "/a:b", {})),
        ("vllm", "org/name", EngineChoice("vllm", "org/name", {})),
        ("vllm", None, EngineChoice("vllm", None, {})),
    ],
)
def test_an_engine_and_its_model(spec: str, model: str | None, want: EngineChoice) -> None:
    assert choose_engine(spec, model) == want


def test_the_bundled_reasoner_by_name_or_by_default() -> None:
    assert choose_engine("vllm:bundled", None).small
    assert choose_engine("vllm", None).small
    assert not choose_engine("vllm:org/name", None).small


def test_vllms_own_settings_are_typed_where_they_can_be() -> None:
    settings = ["tensor_parallel_size=2", "gpu_memory_utilization=0.5", "attention_backend=FLASH_ATTN", "eager=true"]
    assert choose_engine("vllm:m", None, settings).settings == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "attention_backend": "FLASH_ATTN",
        "eager": True,
    }


def test_the_tokenizer_is_the_one_that_the_engine_will_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("laconic.engines.vllm.engine.client.check_installed", lambda: None)
    tiny_tokenizer().save_pretrained(tmp_path)
    own = VLLMReasoner(choose_engine("vllm:bundled", None), "auto")
    other = VLLMReasoner(choose_engine("vllm:bundled", None, [f"tokenizer={tmp_path}"]), "auto")
    assert other.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert own.tokenizer.get_vocab() != other.tokenizer.get_vocab()
    assert other.generation_config == own.generation_config


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else found(name, *a))


def refused(invoke: Any, command: str, args: list[Any], says: str) -> None:
    result = invoke(command, "c d e", *args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["solve", "think"])
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--engine", "foo"], "engine 'foo' is unknown; expected hf, vllm:MODEL or openai:URL"),
        (["--engine", "openai:"], "--engine openai names no server; write openai:URL"),
        (["--engine", "openai:localhost:8000"], "is no address of a server"),
        (["--engine", "vllm:"], "--engine vllm: names no model"),
        (["--engine", "vllm:a", "--model", "b"], "both name a model"),
        (["--engine-set", "x=1"], "--engine-set x=1 is for vLLM"),
        (["--engine", "vllm:a", "--engine-set", "x"], "--engine-set x has no value"),
        (["--engine", "vllm:a", "--engine-set", "x=1", "--engine-set", "x=2"], "--engine-set gives x twice"),
    ],
)
def test_bad_choices(invoke: Any, command: str, args: list[str], says: str) -> None:
    refused(invoke, command, args, says)


@pytest.mark.parametrize("command", ["solve", "think"])
def test_without_vllm_a_sentence_says_what_to_do(invoke: Any, tiny: Path, no_vllm: None, command: str) -> None:
    judge = ["-j", "jaccard"] if command == "solve" else []
    refused(invoke, command, ["--engine", f"vllm:{tiny}", *judge], "vLLM is not installed: install vllm")


def test_without_vllm_the_engine_is_not_to_be_imported(no_vllm: None) -> None:
    with pytest.raises(LaconicError, match="vLLM is not installed"):
        from laconic.engines.vllm import VLLMEngine  # noqa: F401


def test_only_the_hf_engine_takes_a_device(invoke: Any) -> None:
    refused(invoke, "think", ["--engine", "vllm:m", "--device", "cpu"], "--device cpu is for the hf engine")


class StatesJudge(RandomJudge):
    """A judge that reads the hidden states of the first eight tokens, of one layer."""

    def needs(self) -> Needs:
        return Needs(state_tokens=8, state_layers=(1,))


@pytest.mark.parametrize(
    ("spec", "judge", "says"),
    [
        ("deepprune:excerpt=tokens:56", StatesJudge(), "the vllm engine gives no hidden states"),
        ("deepprune:excerpt=tokens:56", ProbeJudge(), "the vllm engine can't probe a trace"),
        ("deepprune:excerpt=kept:64", RandomJudge(), "the vllm engine does not tell what compression kept"),
        ("deepprune:excerpt=tokens:56", RandomJudge(), ""),
        ("deepprune:excerpt=words:25", RandomJudge(), ""),
        ("self-consistency", None, ""),
        ("deepconf:low", None, ""),
    ],
)
def test_a_judge_that_must_look_inside_is_refused(spec: str, judge: Any, says: str) -> None:
    """Real strategies, each with what it asks for: one that reads tokens alone is let through."""
    strategy = choose_strategy(spec, 8, judge, False)
    refusal = ""
    try:
        VLLMEngine.check_needs(strategy.needs())
    except LaconicError as error:
        refusal = str(error)
    assert bool(refusal) == bool(says)
    assert says in refusal


def test_the_hf_engine_notes_what_was_held_for_a_page(tiny: Path) -> None:
    reasoner = open_reasoner(choose_engine("hf", str(tiny)), "auto", "auto")
    for record in (False, True):
        with reasoner.engine(FullKV(), record_held=record) as engine:
            assert engine.record_held is record  # type: ignore[attr-defined]
