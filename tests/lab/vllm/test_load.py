"""What a load comes to in blocks, which prompts it sends, and which policies are compared at which settings."""

from __future__ import annotations

import pytest

from laconic.compress.registry import parse
from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.errors import LaconicError
from laconic.lab.shared.policies import mean_cache
from laconic.lab.vllm.load import RequestLoad, lineup


def test_demand_rounds_every_request_up() -> None:
    load = RequestLoad(requests=3, prompt=10, output=55, block=32)
    assert load.length == 65
    assert load.demand == 3 * 3  # 65 tokens take three blocks of 32, the last with one token
    assert RequestLoad(requests=3, prompt=9, output=55, block=32).demand == 3 * 2


def test_a_share_is_whole_blocks_and_at_least_one() -> None:
    load = RequestLoad(requests=24, prompt=32, output=1000, block=32)
    assert load.demand == 792
    assert [load.blocks(share) for share in (1, 0.5, 0.25, 0.12)] == [792, 396, 198, 95]
    # 0.07 * 100 is 7.000000000000001, and 0.29 * 100 is 28.999999999999996: neither moves a whole number.
    hundred = RequestLoad(requests=100, prompt=1, output=31, block=32)
    assert [hundred.blocks(share) for share in (0.07, 0.29)] == [7, 29]
    assert RequestLoad(requests=1, prompt=1, output=1).blocks(0.01) == 1


@pytest.mark.parametrize("share", [0, -0.5, 4.1, float("nan"), True, "half"])
def test_an_impossible_share_is_refused(share) -> None:
    with pytest.raises(LaconicError, match="expected a share above 0 and at most 4"):
        RequestLoad().blocks(share)


@pytest.mark.parametrize("field", ["requests", "prompt", "output", "block"])
def test_numbers_below_one_are_refused_by_name(field: str) -> None:
    with pytest.raises(LaconicError, match=f"^{field} is 0; expected"):
        RequestLoad(**{field: 0})


def test_prompts_are_equal_for_all_contenders_and_new_in_every_repeat() -> None:
    load = RequestLoad(requests=5, prompt=40)
    first, again, second = load.prompts(0, 50), load.prompts(0, 50), load.prompts(1, 50)
    assert first == again
    assert [len(prompt) for prompt in first] == [40] * 5
    assert {token for prompt in first for token in prompt} <= set(range(50))
    starts = {tuple(prompt[:32]) for prompt in first + second}
    assert len(starts) == 10  # no two share a block
    assert RequestLoad(requests=5, prompt=40, seed=1).prompts(0, 50) != first


def test_lineup_is_stock_then_policies_matched_to_rpc() -> None:
    found = lineup(["rpc", "rkv", "streamingllm"], [4], interval=128, window=32, output=1000)
    assert [c.label for c in found] == ["stock", "rpc c=4", "rkv c=4", "streamingllm c=4"]
    assert found[0].settings is None
    assert found[0].describe() == "stock"
    policies = [parse_launch(c.settings).policy for c in found[1:]]
    assert policies[0] == parse("rpc:interval=128,ratio=4,window=32")
    target = mean_cache(policies[0].schedule, [1000])
    for policy in policies[1:]:
        assert policy.buffer == 128  # type: ignore[attr-defined]
        budget = policy.budget  # type: ignore[attr-defined]
        gaps = {
            other: abs(mean_cache(parse(policy.name, budget=other, buffer=128).schedule, [1000]) - target)
            for other in range(max(budget - 3, 1), budget + 4)
        }
        assert gaps[budget] == min(gaps.values())


def test_a_whole_spec_is_taken_as_given() -> None:
    found = lineup(["streamingllm:budget=40,buffer=8"], [4], output=1000)
    policy = parse_launch(found[1].settings).policy
    assert policy == parse("streamingllm:budget=40,buffer=8")
    assert found[1].describe() == policy.spec()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rcp"], "rcp"),
        (["h2o"], "can't run inside vLLM"),
        (["oracle"], "oracle"),
        (["full"], "nothing to compare stock vLLM with"),
        ([], "No policies were given"),
        (["rpc", "rpc"], "rpc c=4 is asked for twice"),
        (["rpc:interval=16"], "interval is 16, smaller than window 32"),
    ],
)
def test_policies_that_make_no_comparison_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        lineup(names, [4], output=100)
