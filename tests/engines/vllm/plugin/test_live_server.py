"""vLLM's own server with laconic's settings and nothing else: tokens, per-request settings, a bad request, metrics.

Two engines behind two front ends, which `--data-parallel-size 2` starts: every process knows the settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines.vllm.live import assert_same, policy_of, reference_of
from tests.engines.vllm.plugin.served import PROMPT, complete, metric, served

RPC = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
OWN = [None, "none", "rpc:interval=48,ratio=2,window=8"]


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with served(tiny, tmp_path_factory.mktemp("server"), RPC, "--data-parallel-size", "2") as (address, log):
        assert log.read_text().count("laconic: policy rpc:interval=48,ratio=4,window=8: first compression at 56") == 2
        yield address


def test_a_server(server: str, tiny: Path) -> None:
    """One after another: as it was started; a request of other settings; bad ones, refused alone; as it was started again."""
    wanted = reference_of(tiny)(PROMPT, policy_of(RPC), 150)
    status, body = complete(server, 150)
    assert status == 200
    assert_same([body["choices"][0]["token_ids"]], [wanted])
    # 149 tokens' KV was computed: two compressions, at 56 and 104, of 36 each. Blocks held at 40 + 56 tokens: three, then
    # two for the 60 that stay; at 40 + 68: four, then three for 72.
    assert metric(server, "compressions_total") == [2]  # the other engine has none to tell yet
    assert metric(server, "tokens_evicted_total") == [72]
    assert metric(server, "blocks_freed_total") == [2]

    for laconic, policy in (("none", "full"), ("rkv:budget=40,buffer=24,window=8", None), ('{"ratio": 2}', None)):
        policy = policy or ("rpc:interval=48,ratio=2,window=8" if laconic.startswith("{") else laconic)
        status, body = complete(server, 120, laconic)
        assert status == 200
        assert_same([body["choices"][0]["token_ids"]], [reference_of(tiny)(PROMPT, policy, 120)], [laconic])

    for laconic, says in (
        ('{"ratio": 0.5}', "ratio is 0.5"),
        ("h2o", "policy h2o can't run inside vLLM"),
        ('{"prompt_tokens": 41}', "prompt_tokens is 41, but 40 tokens were sent"),
        # Sixteen blocks of 32 tokens, one of them vLLM's own.
        (
            "none",
            "policy full), but the KV cache has room for 480",
        ),
    ):
        status, body = complete(server, 600, laconic)
        assert status == 400
        assert says in body["error"]["message"]

    status, body = complete(server, 150)
    assert_same([body["choices"][0]["token_ids"]], [wanted])


def test_requests_spread_over_two_engines(server: str, tiny: Path) -> None:
    asked = OWN * 8
    policies = [policy_of(RPC) if own is None else "full" if own == "none" else own for own in asked]
    wanted = [reference_of(tiny)(PROMPT, policy, 150) for policy in policies]
    before = metric(server, "compressions_total")
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda own: complete(server, 150, own), asked))
        bad = list(threads.map(lambda _: complete(server, 150, '{"ratio": 0.5}'), range(8)))
    assert {status for status, _ in answers} == {200}
    assert_same([body["choices"][0]["token_ids"] for _, body in answers], wanted, asked)
    for status, body in bad:
        assert status == 400
        assert "ratio is 0.5" in body["error"]["message"]
    compressions = metric(server, "compressions_total")
    assert len(compressions) == 2
    assert min(compressions) > 0
    assert sum(compressions) - sum(before) >= 2 * 8 * 2  # what a full cache preempted is compressed again
