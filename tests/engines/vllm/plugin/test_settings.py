"""What laconic's settings mean, for a launch and for a request. Needs no vLLM."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from laconic.compress import RKV, RPC, FullKV, Learned, Policy, StreamingLLM, registry
from laconic.compress.policies import Random
from laconic.engines.vllm.plugin import launch
from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.plans import CompressionPlan, make_plan, plan_of
from laconic.engines.vllm.plugin.settings import LaunchSettings, RequestSettings, parse_launch, parse_request
from laconic.errors import LaconicError

LAUNCH = LaunchSettings(RPC(interval=64, ratio=4, window=8), 16)


@pytest.mark.parametrize(
    ("raw", "policy", "queries"),
    [
        ({"policy": "rpc"}, RPC(), 32),
        ({"policy": "rpc", "interval": 64, "ratio": 2, "window": 8}, RPC(interval=64, ratio=2, window=8), 8),
        ({"policy": "RPC", "queries": 40}, RPC(), 40),
        ({"policy": "none"}, FullKV(), 0),
        ({"policy": "full", "queries": 8}, FullKV(), 8),
        ({"policy": "rkv", "aggregation": "layer"}, RKV(aggregation="layer"), 8),
        ({"policy": "streaming-llm", "sinks": 2}, StreamingLLM(sinks=2), 0),
        ({"policy": "random", "seed": 4}, Random(seed=4), 0),
        ("rpc", RPC(), 32),
        ("none", FullKV(), 0),
        ({"policy": "learned", "file": "/a/b", "ratio": 2}, Learned("/a/b", ratio=2), 0),
        ("learned:/a/b,interval=64", Learned("/a/b", interval=64), 0),
        ({"policy": "learned", "file": None}, Learned(), 0),
        ("rpc:interval=65,ratio=2.5,window=8", RPC(interval=65, ratio=2.5, window=8), 8),
        ('  {"policy": "rpc", "interval": 64, "queries": 33}', RPC(interval=64), 33),
    ],
)
def test_a_launch(raw: object, policy: Policy, queries: int) -> None:
    assert parse_launch(raw) == LaunchSettings(policy, queries)


@pytest.mark.parametrize(
    ("raw", "others", "queries"),
    [
        ({"policy": "none", "others": ["rpc:window=16"]}, (RPC(window=16),), 16),
        ({"policy": "rpc", "others": ["none", {"policy": "rkv", "window": 4}]}, (FullKV(), RKV(window=4)), 32),
        ({"policy": "rpc", "queries": 40, "others": []}, (), 40),
        ('{"policy": "none", "others": ["streamingllm"]}', (StreamingLLM(),), 0),
    ],
)
def test_what_requests_will_ask_for_besides(raw: object, others: tuple[Policy, ...], queries: int) -> None:
    found = parse_launch(raw)
    assert (found.others, found.queries) == (others, queries)
    assert found.policies == (found.policy, *others)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, ["name no policy", "rpc", "none"]),
        ({"policy": "nonesuch"}, ["'nonesuch' is unknown", "none, rpc, streamingllm, rkv"]),
        ({"policy": None}, ["policy is None; expected the name of one: none, rpc"]),
        ({"policy": "h2o"}, ["h2o can't run inside vLLM: it accumulates", "none, rpc, streamingllm, rkv"]),
        ({"policy": "hindsight"}, ["hindsight can't run inside vLLM: it reads what later tokens will attend to"]),
        ({"policy": "kvzap"}, ["kvzap can't run inside vLLM: it reads hidden states"]),
        ({"policy": "lightthinker"}, ["lightthinker can't run inside vLLM: it goes by the tokens that are drawn"]),
        ({"policy": "expectedattention"}, ["expectedattention can't run inside vLLM: it undoes the model's RoPE"]),
        ({"policy": "tova"}, ["tova can't run inside vLLM: it weighs the prompt's keys"]),
        ({"policy": "oracle"}, ["keep of policy oracle is missing"]),
        ({"policy": "rpc", "ratio": 0}, ["ratio is 0"]),
        ({"policy": "rpc", "ratio": "4"}, ["ratio is '4'"]),
        ({"policy": "rpc", "interval": 31}, ["interval is 31, smaller than window 32"]),
        ({"policy": "rpc", "interval": 66, "ratio": 4}, ["interval is 66, of which ratio 4 keeps no whole number"]),
        ({"policy": "rpc", "budget": 3}, ["'budget' in laconic's settings is unknown", "policy, interval", "queries"]),
        ({"policy": "rpc", "prompt_tokens": 3}, ["'prompt_tokens' in laconic's settings is unknown"]),
        ({"policy": "rpc", "queries": 31}, ["queries is 31", "reads the latest 32", "at least that"]),
        ({"policy": "none", "queries": -1}, ["queries is -1"]),
        ({"policy": "none", "queries": True}, ["queries is True"]),
        (
            {"policy": "none", "ratio": 2},
            ["'ratio' in laconic's settings is unknown; known with policy full: policy, "],
        ),
        ({"policy": "none", "others": "rpc"}, ["others of laconic's settings is 'rpc'; expected a list of policies"]),
        ({"policy": "none", "others": [{"ratio": 2}]}, ["one of laconic's others names no policy"]),
        ({"policy": "none", "others": ["h2o"]}, ["h2o can't run inside vLLM"]),
        ({"policy": "none", "others": ["rpc"], "queries": 8}, ["queries is 8, but policy rpc", "reads the latest 32"]),
        (
            {"policy": "none", "others": [{"policy": "rpc", "queries": 8}]},
            ["'queries' in laconic's settings is unknown"],
        ),
        ({1: "rpc"}, ["{1: 'rpc'}; expected a mapping"]),
        (None, ["None; expected a mapping"]),
        ('{"policy": }', ["no valid JSON"]),
        ("[1]", ["'[1]' is unknown"]),
        ("rpc:ratio", ["has no value"]),
        ("none:ratio=2", ["setting 'ratio' of policy full is unknown"]),
        ("pyramidkv", ["policy 'pyramidkv' is not offered, as it gives each layer a budget of its own"]),
        ("nonesuch:ratio=2", ["policy 'nonesuch' is unknown; expected one that runs inside vLLM: none"]),
    ],
)
def test_a_launch_that_is_refused(raw: object, says: list[str]) -> None:
    with pytest.raises(LaconicError) as error:
        parse_launch(raw)
    assert "\n" not in str(error.value)
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "raw", ["rpc:ratio=2", {"policy": "none", "queries": 9, "others": ["rkv", "learned:/a,ratio=2"]}, "knorm"]
)
def test_settings_survive_json(raw: object) -> None:
    settings = parse_launch(raw)
    assert parse_launch(json.loads(json.dumps(settings.to_mapping()))) == settings


def test_what_is_listed_as_supported_is() -> None:
    """The names that a refusal lists can be launched, and those of ours that it doesn't can't."""
    with pytest.raises(LaconicError) as error:
        parse_launch({"policy": "nonesuch"})
    listed = str(error.value).partition("inside vLLM: ")[2].split(", ")
    assert "none" in listed
    assert "rpc" in listed
    for name in ("none", *registry.known()):
        if name in listed or name == "full":  # which is what none means
            parse_launch(name)
        else:
            with pytest.raises(LaconicError):
                parse_launch({"policy": name})


@pytest.mark.parametrize(
    ("raw", "policy", "prompt_tokens"),
    [
        (None, LAUNCH.policy, None),
        ({}, LAUNCH.policy, None),
        ({"prompt_tokens": 5}, LAUNCH.policy, 5),
        ({"ratio": 2}, RPC(interval=64, ratio=2, window=8), None),
        ({"policy": "rpc", "ratio": 2}, RPC(interval=64, ratio=2, window=8), None),
        # Another policy starts from its own defaults.
        ({"policy": "rkv"}, RKV(), None),
        ({"policy": "rkv", "window": 16, "prompt_tokens": 7}, RKV(window=16), 7),
        ({"policy": "none"}, FullKV(), None),
        ("none", FullKV(), None),
        ('{"window": 16}', RPC(interval=64, ratio=4, window=16), None),
        ("rpc:interval=32,window=4", RPC(interval=32, window=4), None),
    ],
)
def test_a_request(raw: object, policy: Policy, prompt_tokens: int | None) -> None:
    assert parse_request(raw, LAUNCH) == RequestSettings(policy, prompt_tokens)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("rpc:interval=32", {"interval": 32}),
        ("rpc", {}),
        ("rpc:compression_ratio=0.5", {"ratio": 2}),
        ("rpc:ratio=2,window=16", {"ratio": 2, "window": 16}),
    ],
)
def test_a_request_says_the_same_as_text_and_as_a_mapping(text: str, settings: dict[str, Any]) -> None:
    """What the text leaves out stays as the launch has it, and isn't the policy's default."""
    launch = parse_launch({"policy": "rpc", "interval": 64, "ratio": 8, "window": 8, "queries": 16})
    found = parse_request(text, launch)
    assert found == parse_request({"policy": "rpc", **settings}, launch)
    assert found.policy == RPC(**{"interval": 64, "ratio": 8, "window": 8} | settings)


def test_a_request_leaves_what_it_was_given_alone() -> None:
    given = {"policy": "rpc", "ratio": 2, "prompt_tokens": 5}
    parse_request(given, LAUNCH)
    assert given == {"policy": "rpc", "ratio": 2, "prompt_tokens": 5}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"window": 17}, "this server keeps 16 a request; expected a shorter window, or a launch with 'queries': 17"),
        ({"policy": "rpc", "window": 32}, "reads the latest 32 queries"),
        ({"policy": "h2o"}, "can't run inside vLLM"),
        ({"others": []}, "'others' in laconic's settings is unknown; known with policy rpc: .*prompt_tokens"),
        ({"queries": 16}, "'queries' in laconic's settings is unknown; known with policy rpc: .*prompt_tokens"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"prompt_tokens": 2.0}, "prompt_tokens is 2.0"),
        ({"ratio": 0.5}, "ratio is 0.5"),
        (5, "settings are 5; expected a mapping"),
    ],
)
def test_a_request_that_is_refused(raw: object, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        parse_request(raw, LAUNCH)


# ---- from vLLM's objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [None, {}, {"other": 1}, "text"])
def test_a_launch_that_does_not_ask(extra: Any) -> None:
    assert settings_of(SimpleNamespace(additional_config=extra)) is None


def test_a_launch_that_asks() -> None:
    config = SimpleNamespace(additional_config={"other": 1, "laconic": {"policy": "rkv"}})
    assert settings_of(config) == LaunchSettings(RKV(), 8)


def test_a_launch_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    monkeypatch.setattr(launch, "_parsed", {})

    def counted(raw: object) -> LaunchSettings:
        reads.append(raw)
        return parse_launch(raw)

    monkeypatch.setattr(launch, "parse_launch", counted)
    for raw in ({"policy": "rkv"}, {"policy": "rkv"}, "rkv", {"policy": "rkv", "window": 4}) * 2:
        assert settings_of(SimpleNamespace(additional_config={"laconic": raw})) == parse_launch(raw)
    assert reads == [{"policy": "rkv"}, "rkv", {"policy": "rkv", "window": 4}]
    for budget in range(20, 60):
        assert settings_of(SimpleNamespace(additional_config={"laconic": f"rkv:budget={budget}"})) == parse_launch(
            f"rkv:budget={budget}"
        )
    assert len(launch._parsed) <= 16


def request(sent: int, max_tokens: int, extra: Any = None, sampled: bool = True) -> Any:
    params = SimpleNamespace(extra_args=extra) if sampled else None
    return SimpleNamespace(num_prompt_tokens=sent, max_tokens=max_tokens, sampling_params=params)


def test_plans_of_requests() -> None:
    assert plan_of(request(10, 20), LAUNCH, 100) == CompressionPlan(LAUNCH.policy, 10, 30)
    assert plan_of(request(10, 200), LAUNCH, 100) == CompressionPlan(LAUNCH.policy, 10, 100)
    assert plan_of(request(10, 20, sampled=False), LAUNCH, 100) == CompressionPlan(LAUNCH.policy, 10, 30)
    own = {"laconic": {"policy": "none", "prompt_tokens": 4}, "other": 1}
    assert plan_of(request(10, 20, own), LAUNCH, 100) == CompressionPlan(FullKV(), 4, 30)
    all_of_it = {"laconic": {"prompt_tokens": 10}}
    assert plan_of(request(10, 20, all_of_it), LAUNCH, 100) == CompressionPlan(LAUNCH.policy, 10, 30)


def test_more_prompt_than_was_sent() -> None:
    with pytest.raises(LaconicError, match="prompt_tokens is 11, but 10 tokens were sent; expected at most that"):
        make_plan({"laconic": {"prompt_tokens": 11}}, 10, 30, LAUNCH)
