"""Two engines behind two front ends, which `vllm serve --data-parallel-size 2` starts: every process knows the settings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.engines.vllm.live import assert_same, policy_of, reference_of
from tests.engines.vllm.plugin.served import PROMPT, complete, metric, served

RPC = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
OWN = [None, "none", "rpc:interval=48,ratio=2,window=8"]


def test_requests_spread_over_two_engines(tiny: Path, tmp_path: Path) -> None:
    asked = OWN * 8
    policies = [policy_of(RPC) if own is None else "full" if own == "none" else own for own in asked]
    wanted = [reference_of(tiny)(PROMPT, policy, 150) for policy in policies]
    with served(tiny, tmp_path, RPC, "--data-parallel-size", "2") as (address, log):
        assert log.read_text().count("laconic: policy rpc:interval=48,ratio=4,window=8") == 2
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = list(threads.map(lambda own: complete(address, 150, own), asked))
            bad = list(threads.map(lambda _: complete(address, 150, '{"ratio": 0.5}'), range(8)))
        assert {status for status, _ in answers} == {200}
        assert_same([body["choices"][0]["token_ids"] for _, body in answers], wanted, asked)
        for status, body in bad:
            assert status == 400
            assert "ratio is 0.5" in body["error"]["message"]
        compressions = metric(address, "compressions_total")
        assert len(compressions) == 2
        assert min(compressions) > 0
        assert sum(compressions) >= 2 * 8 * 2  # what a full cache preempted is compressed again
