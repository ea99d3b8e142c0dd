"""`laconic bench accuracy --engine vllm`: the HF engine's traces, one vLLM for all policies, none for what is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.reference.selectors import selector_for

from laconic.assets import reasoner_path
from laconic.engines.hf import load
from laconic.engines.vllm.engine.client import VLLMClient
from laconic.selectors import place_of, write_selector

ARGUMENTS = (
    "bench",
    "accuracy",
    "--problems",
    2,
    "--n",
    2,
    "-p",
    "rpc;snapkv:budget=64,window=16,buffer=32;learned",
    "-c",
    4,
)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[VLLMClient]:
    """Those that were started."""
    found: list[VLLMClient] = []
    start = VLLMClient.__init__

    def noted(self: VLLMClient, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(VLLMClient, "__init__", noted)
    return found


@pytest.fixture
def selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random one for the bundled reasoner, found by its weights on either engine."""
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    made = selector_for(load(reasoner_path(), dtype="float32")[0])
    write_selector(place_of(made.fingerprint), made)


def traces(out: Path) -> dict[tuple[str, str, int], Any]:
    lines = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    return {(line["row"], line["problem"], line["sample"]): line for line in lines if line["kind"] == "trace"}


def test_the_same_traces_as_on_the_hf_engine(
    invoke: Any, clients: list[VLLMClient], selector: None, tmp_path: Path
) -> None:
    found = {}
    for engine in ("hf", "vllm"):
        result = invoke(*ARGUMENTS, "--engine", engine, "--keep-tokens", "-o", tmp_path / engine)
        assert result.exit_code == 0, result.output
        found[engine] = traces(tmp_path / engine)
    assert len(clients) == 1
    assert clients[0].closed
    assert len(found["vllm"]) == 4 * 2 * 2
    assert found["vllm"] == found["hf"]  # text, answers and what was held
    assert len({tuple(trace["token_ids"]) for trace in found["vllm"].values()}) > 4  # policies differ
    reports = {engine: json.loads((tmp_path / engine / "results.json").read_text()) for engine in found}
    rows = {engine: [{**row, "tokens_per_second": 0} for row in report["rows"]] for engine, report in reports.items()}
    assert rows["vllm"] == rows["hf"]
    settings = {engine: report["settings"] for engine, report in reports.items()}
    assert settings["hf"].pop("engine") == {"name": "hf"}
    assert settings["vllm"].pop("engine") == {"name": "vllm", "version": "0.32.0"}
    assert settings["vllm"] == settings["hf"]  # the fingerprint and the number format too
    assert (tmp_path / "vllm" / "table.md").read_text().count("inside vLLM 0.32.0") == 1

    # The same again starts nothing. That what is missing alone is run: test_run.py, on any engine.
    assert invoke(*ARGUMENTS, "--engine", "vllm", "--keep-tokens", "-o", tmp_path / "vllm").exit_code == 0
    assert len(clients) == 1
