"""How vLLM starts with laconic: a context that only a compressed cache holds, and what is refused, in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.errors import LaconicError
from tests.engines.vllm.live import assert_same, generate, greedy, prompts_of, reference_of
from tests.engines.vllm.tiny import engine_args, in_process, running, scheduler_of, tiny_model

RPC = {"policy": "rpc", "interval": 1024, "ratio": 4, "window": 8}
TOKEN_BYTES = 1024  # of the tiny model: two layers, two heads, 32 numbers of key and of value
LONG = 32768


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("long"), max_positions=LONG)


def test_a_context_that_only_its_compressed_cache_holds(long: Path) -> None:
    """32,768 tokens where 10,240 fit. At its end a text holds a quarter of what was written, and an interval besides."""
    from vllm.exceptions import VLLMValidationError

    room = {"max_model_len": LONG, "kv_cache_memory_bytes": 10240 * TOKEN_BYTES, "max_num_seqs": 4}
    with pytest.raises(ValueError, match="larger than the available KV cache"), running(long, **room):
        pass
    with running(long, additional_config={"laconic": RPC}, **room) as llm:
        pool = scheduler_of(llm).kv_cache_manager.block_pool
        assert pool.num_gpu_blocks == 320
        (prompt,) = prompts_of([100], seed=40)
        (generated,) = prompts_of([31000], seed=41)
        fewest = pool.get_num_free_blocks()
        engine = llm.llm_engine
        params = greedy(LONG - 31100, {"prompt_tokens": 100})  # up to the very last token
        engine.add_request("long", {"prompt_token_ids": prompt + generated}, params)
        text: list[int] = []
        while engine.has_unfinished_requests():
            for out in engine.step():
                text = list(out.outputs[0].token_ids)
            fewest = min(fewest, pool.get_num_free_blocks())
        assert len(text) == LONG - 31100
        # At its end: 100 of prompt, 31 x 256 kept, 8 of the window, and 915 since: 8 + 31 x 1,024 + 915 are the 32,667
        # generated tokens whose KV was computed. Earlier it had at most 100 + 30 x 256 + 8 + 1,024, which is less.
        assert 319 - fewest == -(-8959 // 32)

        # A prompt isn't compressed, so this one can never fit; one without compression that fits is served.
        with pytest.raises(VLLMValidationError, match=r"would hold 20009 tokens at its peak .* room for 10208"):
            generate(llm, [((prompt * 200), greedy(10))])
        with pytest.raises(VLLMValidationError, match=r"policy full.* room for 10208"):
            generate(llm, [(prompt, greedy(20000, {"policy": "none"}))])
        got = generate(llm, [(prompt, greedy(40, {"policy": "none"}))])
        assert_same(got, [reference_of(long)(prompt, "full", 40)])


def test_the_line_in_the_log() -> None:
    from laconic.engines.vllm.plugin.ring import QueryRing
    from laconic.engines.vllm.plugin.settings import parse_launch
    from laconic.engines.vllm.plugin.worker import start_line

    ring = QueryRing({"a": (4, 32), "b": (4, 32)}, 31, 8, 10, torch.float32, torch.device("cpu"))
    line = start_line(parse_launch(RPC), LONG, 31, ring)
    for part in (
        "policy rpc:interval=1024,ratio=4,window=8",
        "first compression at 1032 generated tokens, then every 1024",
        f"{LONG} tokens take the memory of 8960 at most",  # 1 of prompt; 8 + 31 x 256 + 1,015 of 32,767
        "8 queries a request kept, 0.2 MiB for 31 requests",  # 2 layers x 32 x 8 x 4 x 32 numbers of 4 bytes
    ):
        assert part in line
    assert "no compression; 512 tokens take the memory of 512" in start_line(parse_launch("none"), 512, 31, None)


# ---- refused ----------------------------------------------------------------------------------------------------------


def refused(path: Path, **arguments: Any) -> str:
    """What `vllm.LLM` says as it refuses to start: our sentence and nothing else."""
    from vllm import LLM

    with in_process(), pytest.raises(LaconicError) as error:
        LLM(**engine_args(path, **arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("laconic", "says"),
    [
        ({"policy": "nonesuch"}, ["policy 'nonesuch' is unknown", "none, rpc, streamingllm, rkv"]),
        ({"policy": "h2o"}, ["policy h2o can't run inside vLLM: it accumulates the attention of every step", "rpc"]),
        ({"policy": "rpc", "interval": 64, "ratio": 0.5}, ["ratio is 0.5", "at least 1"]),
        ({"policy": "rpc", "interval": 16}, ["interval is 16, smaller than window 32"]),
        ({"policy": "rpc", "intervall": 16}, ["'intervall'", "unknown", "interval, ratio, window", "queries"]),
        ({"interval": 64}, ["name no policy", "rpc"]),
        ({"policy": "rpc", "queries": 8}, ["queries is 8", "reads the latest 32"]),
        ({"policy": "rpc", "queries": -1}, ["queries is -1"]),
        (["rpc"], ["laconic's settings are ['rpc']; expected a mapping"]),
        ("rpc:interval=64,ratio=four", ["ratio of policy rpc is 'four'; expected a number"]),
    ],
)
def test_bad_settings(tiny: Path, laconic: Any, says: list[str]) -> None:
    sentence = refused(tiny, additional_config={"laconic": laconic})
    for part in says:
        assert part in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"block_size": 48}, "block"),
        ({"scheduler_cls": "vllm.v1.core.sched.scheduler.Scheduler"}, "is not laconic's; leave --scheduler-cls out"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "leave --speculative-config out"),
        ({"kv_cache_dtype": "fp8"}, "a quantized KV cache"),
    ],
    ids=["block-size", "scheduler", "speculative", "fp8"],
)
def test_a_bad_configuration(tiny: Path, arguments: dict[str, Any], says: str) -> None:
    assert says in refused(tiny, additional_config={"laconic": RPC}, **arguments)


@pytest.mark.parametrize("name", ["CompressionScheduler", "AsyncCompressionScheduler"])
def test_our_scheduler_without_settings(tiny: Path, name: str) -> None:
    sentence = refused(tiny, scheduler_cls=f"laconic.engines.vllm.plugin.scheduler.{name}")
    assert "--additional-config has no settings" in sentence


def test_a_version_that_was_not_tested(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.33.0")
    sentence = refused(tiny, additional_config={"laconic": RPC})
    assert "vLLM is 0.33.0" in sentence
    assert "0.32.0" in sentence


def test_a_function_that_changed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    monkeypatch.setattr(Scheduler, "_reserve_prefill_lookahead", lambda self, request, tokens: tokens)
    sentence = refused(tiny, additional_config={"laconic": RPC})
    assert "Scheduler._reserve_prefill_lookahead of this vLLM takes (self request tokens)" in sentence


def test_a_function_that_is_gone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    monkeypatch.delattr(Scheduler, "_reserve_prefill_lookahead")
    assert "has no" in refused(tiny, additional_config={"laconic": RPC})


def test_a_model_with_a_sliding_window(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "sliding"
    shutil.copytree(tiny, path)
    config = json.loads((path / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    config["layer_types"] = ["full_attention", "sliding_attention"]
    (path / "config.json").write_text(json.dumps(config))
    assert "sliding" in refused(path, additional_config={"laconic": RPC})


# ---- from the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--additional-config", '{"laconic": {"policy": "h2o"}}'], "laconic: policy h2o can't run inside vLLM"),
        (
            ["--block-size", "48", "--additional-config", json.dumps({"laconic": RPC})],
            "laconic can't compress under this configuration",
        ),
    ],
    ids=["policy", "block-size"],
)
def test_a_servers_start_ends_with_the_sentence(tiny: Path, arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny), "--dtype", "float32"]
    ran = subprocess.run(
        [*command, "--max-model-len", "256", "--enforce-eager", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"},
        timeout=600,
    )
    assert ran.returncode not in (0, None)
    lines = ran.stderr.strip().splitlines()
    assert lines[-1].startswith(says), ran.stderr[-2000:]
    assert "Traceback" not in ran.stderr
