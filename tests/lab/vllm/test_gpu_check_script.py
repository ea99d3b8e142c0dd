"""The script that checks compression on a GPU: what it compares and refuses. Its engines are in test_live_vllm_gpu_check.py."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "vllm_gpu_check.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("vllm_gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def did(shift: float, kept: range = range(0, 40, 2)) -> dict[str, Any]:
    """One request of two tokens; `shift` is added to every log-probability."""
    steps = [{5: -0.1 + shift, 6: -2.0 + shift}, {6: -0.2 + shift, 7: -3.0 + shift}]
    return {"tokens": [[5, 6]], "logprobs": [steps], "kept": [{"a": [list(kept)]}], "wrong_blocks": []}


@pytest.fixture
def right() -> tuple[dict[Any, Any], dict[str, Any]]:
    """Runs of two modes in which everything is as it should be, and the reference."""
    expected = {"none": did(0.0), "rpc, layer": did(0.3), "rpc, group": did(0.4)}
    about = {"runner": "v2", "graphs": "FULL", "block_size": 16, "layouts": ["", ""]}
    runs = {}
    for mode, noise in (("eager", 0.01), ("graphs", 0.02)):
        made = {name: did(shift + noise) for name, shift in (("none", 0.0), ("rpc, layer", 0.3), ("rpc, group", 0.4))}
        runs[mode, False] = {"made": {"stock": did(noise)}, "about": {**about}}
        runs[mode, True] = {"made": made, "about": {**about}}
    return copy.deepcopy(runs), expected


def failed(script: Any, runs: Any, expected: Any) -> list[str]:
    return [what for what, passed, _ in script.rows_of("bfloat16", runs, expected) if not passed]


def test_all_is_well(script: Any, right: Any) -> None:
    rows = script.rows_of("bfloat16", *right)
    assert [what for what, passed, _ in rows if not passed] == []
    assert [what for what, _, _ in rows] == [
        "CUDA graphs are captured",
        "stock: eager and graphs say the same cycle",
        *(
            f"{mode}: {what}"
            for mode in ("eager", "graphs")
            for what in (
                "layout round trip",
                "blocks after every step",
                "policy none = stock",
                "none = reference",
                "rpc, layer = reference",
                "rpc, group = reference",
            )
        ),
        "rpc, layer: eager = graphs",
        "rpc, group: eager = graphs",
    ]


def test_what_is_wrong_is_found(script: Any, right: Any) -> None:
    def after(change: Any) -> list[str]:
        runs, expected = copy.deepcopy(right)
        change(runs)
        return failed(script, runs, expected)

    def made(runs: Any, mode: str = "graphs") -> Any:
        return runs[mode, True]["made"]

    assert after(lambda runs: runs["eager", True].update(error="out of memory")) == ["laconic, eager: the engine ran"]
    assert after(lambda runs: runs["graphs", True]["about"].update(graphs="NONE"))[0] == "CUDA graphs are captured"
    assert after(lambda runs: made(runs).update({"none": did(0.1)})) == [
        "graphs: policy none = stock",
        "graphs: none = reference",
    ]
    # Half of what compression changes, and more than stock's own difference.
    assert after(lambda runs: made(runs).update({"rpc, layer": did(0.15)})) == [
        "graphs: rpc, layer = reference",
        "rpc, layer: eager = graphs",
    ]
    # Not compressed at all.
    assert "eager: rpc, layer = reference" in after(lambda runs: made(runs, "eager").update({"rpc, layer": did(0.01)}))
    # Queries that a graph did not keep: other tokens stay.
    assert after(lambda runs: made(runs).update({"rpc, group": did(0.42, range(0, 60, 3))})) == [
        "graphs: rpc, group = reference",
        "rpc, group: eager = graphs",
    ]
    assert after(lambda runs: made(runs)["rpc, group"].update(kept=[{}])) == [
        "graphs: rpc, group = reference",
        "rpc, group: eager = graphs",
    ]
    assert "graphs: none = reference" in after(lambda runs: made(runs)["none"].update(tokens=[[5, 7]]))
    assert after(lambda runs: runs["eager", True]["about"].update(layouts=["", "other"])) == [
        "eager: layout round trip"
    ]
    assert after(lambda runs: runs["eager", True]["about"].update(layouts=[])) == ["eager: layout round trip"]
    assert after(lambda runs: made(runs)["none"].update(wrong_blocks=["step 3"])) == ["graphs: blocks after every step"]


def test_shared_is_of_the_worst_layer(script: Any) -> None:
    mine = [{"a": [[0, 1, 2, 3]], "b": [[0, 1], [4, 5]]}]
    theirs = [{"a": [[0, 1, 2, 9]], "b": [[0, 1], [4, 6]]}]
    assert script.shared(mine, theirs) == 0.75
    assert script.shared(mine, [{"a": [[0, 1, 2, 3]], "b": [[0, 9], [8, 7]]}]) == 0.25


def test_the_round_trip_reads_what_it_wrote(script: Any) -> None:
    cache = torch.zeros(40, 2, 16, 8)

    def write(key: Any, value: Any, cache: Any, slots: Any) -> None:
        cache[slots // 16, :, slots % 16] = torch.cat((key, value), dim=-1)

    def layer(read: Any) -> Any:
        layout = SimpleNamespace(size=16, read=read)
        return SimpleNamespace(name="one", cache=lambda: cache, layout=layout, kv_heads=2, head_size=4, write=write)

    def pairs(cache: Any, slots: Any) -> Any:
        return cache[slots // 16, :, slots % 16].split(4, dim=-1)

    assert script._round_trip(layer(pairs)) == ""
    assert "one: what is read" in script._round_trip(layer(lambda cache, slots: pairs(cache, slots)[::-1]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "CPU"], "--backend has 'CPU'; expected some of FLASH_ATTN, TRITON_ATTN, FLASHINFER, CPU_ATTN"),
        (["--backend", "CPU_ATTN", "--dtype", "fp8"], "--dtype has 'fp8'; expected some of bfloat16, float16, float32"),
        (["--backend", "CPU_ATTN", "--tokens", "60"], "--tokens is 60; expected 140 to 400"),
    ],
)
def test_bad_input(script: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        script.main(arguments)
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_gpu_is_needed(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert capsys.readouterr().err == "error: torch sees no GPU; on a CPU only --backend CPU_ATTN can be checked\n"


def test_vllm_is_needed(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script.util, "find_spec", lambda name: None)
    assert script.main(["--backend", "CPU_ATTN"]) == 2
    assert "vllm is not installed" in capsys.readouterr().err
