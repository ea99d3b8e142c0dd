"""Model arguments: what harnesses pass on, by their own ways of reading values, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.errors import InputError
from laconic.lab.harness.arguments import ModelArguments, parse_arguments, read_arguments, with_options


def test_what_is_given_and_what_is_not() -> None:
    read = read_arguments({"pretrained": "org/name", "policy": "rpc:interval=64+ratio=4", "temperature": 1})
    assert read.policy == "rpc:interval=64,ratio=4"
    assert (read.strategy, read.n, read.batch, read.unclosed) == (None, None, 64, "empty")
    assert read.sampling == {"temperature": 1}
    assert read.to_json() == {"pretrained": "org/name", "policy": "rpc:interval=64,ratio=4", "temperature": 1}


def test_a_strategy_votes_over_sixteen_traces_unless_it_is_told() -> None:
    assert read_arguments({"pretrained": "m", "strategy": "priced-vote:first=4+parallel=4"}).n == 16
    read = read_arguments({"pretrained": "m", "strategy": "priced-vote:first=4+parallel=4", "n": 8})
    assert (read.strategy, read.n) == ("priced-vote:first=4,parallel=4", 8)
    assert read_arguments({"pretrained": "m", "strategy": "none"}).strategy is None


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("rpc:interval=64+ratio=4+window=16", "rpc:interval=64,ratio=4,window=16"),
        ("rpc:interval=64, ratio=4", "rpc:interval=64, ratio=4"),
        ("learned:/a+b/selector.safetensors+ratio=8", "learned:/a+b/selector.safetensors,ratio=8"),
        ("priced-vote:price=1e+5", "priced-vote:price=1e+5"),
    ],
)
def test_a_plus_stands_for_the_comma_before_a_setting_and_nowhere_else(spec: str, meant: str) -> None:
    assert read_arguments({"pretrained": "m", "policy": spec}).policy == meant


@pytest.mark.parametrize("given", ["a=1+b=x+c=true", {"a": 1, "b": "x", "c": True}, '{"a": 1, "b": "x", "c": true}'])
def test_settings_of_an_engine_are_an_object_or_a_text(given: Any) -> None:
    read = read_arguments({"engine": "vllm:m", "engine_set": given})
    assert read.engine_settings == ["a=1", "b=x", "c=true"]


def test_what_a_harness_has_read_as_a_number_was_a_text() -> None:
    assert read_arguments({"pretrained": 7, "strategy": "auto", "spend": 500000}).spend == "500000"


def test_null_is_as_good_as_nothing() -> None:
    nothing = {"policy": None, "strategy": None, "engine": None, "dtype": None, "engine_set": None}
    assert read_arguments({"pretrained": "m", **nothing}) == read_arguments({"pretrained": "m"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no model is named; expected pretrained=NAME"),
        ({"engine": "vllm"}, "no model is named"),
        ({"pretrained": "m", "engine": "vllm:k"}, "engine=vllm:k and pretrained=m both name a model"),
        ({"pretrained": "m", "model": "k"}, "pretrained is given twice"),
        ({"pretrained": "m", "ratio": 4}, "model argument 'ratio' is unknown; known are pretrained, policy, strategy"),
        ({"pretrained": "m", "ratio": 4}, r"policy=rpc:interval=1024\+ratio=4"),
        ({"pretrained": "m", "n": 8}, "n is 8, and there is no strategy that it is for"),
        ({"pretrained": "m", "strategy": "none", "judge": "bundled"}, "judge is 'bundled', and there is no strategy"),
        ({"pretrained": "m", "spend": "4x"}, "spend is '4x', and there is no strategy"),
        ({"pretrained": "m", "strategy": "auto", "n": 0}, "n is 0; expected a whole number of at least 1"),
        ({"pretrained": "m", "strategy": "auto", "n": "many"}, "n is 'many'; expected a whole number"),
        ({"pretrained": "m", "batch": 0}, "batch is 0"),
        ({"pretrained": "m", "seed": "x"}, "seed is 'x'"),
        ({"pretrained": "m", "temperature": "warm"}, "temperature is 'warm'; expected a number"),
        ({"pretrained": "m", "top_p": 0}, "top_p is 0"),
        ({"pretrained": "m", "max_gen_toks": 2.5}, "max_gen_toks is 2.5"),
        ({"pretrained": "m", "unclosed": "half"}, "unclosed is 'half'; expected one of empty, whole"),
        ({"pretrained": "m", "thinking": "on"}, "thinking is 'on'; expected true or false"),
        ({"pretrained": "m", "policy": ["rpc"]}, r"policy is \['rpc'\]"),
        ({"pretrained": " "}, "pretrained is ' '; expected a text that is not empty"),
        ({"pretrained": "m", "engine_set": "a"}, "'a' in engine_set has no value"),
        ({"pretrained": "m", "engine_set": 3}, "engine_set is 3; expected a JSON object"),
        ({"pretrained": "m", "chat_template_args": "{a}"}, "which is no JSON"),
        ({"pretrained": "m", "chat_template_args": "{}, {}"}, "which is no JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_arguments(given)
    assert "\n" not in str(caught.value)


# ---- lm-eval's own options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}, {}),
        ({"batch_size": "auto:4", "device": None}, {}),
        ({"batch_size": "8", "device": "cpu"}, {"batch": 8, "device": "cpu"}),
        ({"batch_size": 8, "batch": 1}, {"batch": 1}),
        ({"batch_size": "few"}, {"batch": "few"}),
    ],
)
def test_the_defaults_of_lm_evals_options_say_nothing(given: dict[str, Any], left: dict[str, Any]) -> None:
    assert with_options({"pretrained": "m", **given}) == {"pretrained": "m", **left}


# ---- one text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("org/name", {"pretrained": "org/name"}),
        ("org/name, policy=rpc:ratio=8 ,seed=4", {"pretrained": "org/name", "policy": "rpc:ratio=8", "seed": 4}),
        ("engine=vllm:m,temperature=0.6,thinking=False", {"engine": "vllm:m", "temperature": 0.6, "thinking": False}),
        (
            '{"pretrained": "m", "policy": "rpc:interval=64,ratio=4"}',
            {"pretrained": "m", "policy": "rpc:interval=64,ratio=4"},
        ),
    ],
)
def test_arguments_in_one_text(text: str, meant: dict[str, Any]) -> None:
    assert parse_arguments(text) == meant
    assert isinstance(read_arguments(parse_arguments(text)), ModelArguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m,rpc", "'rpc' in 'm,rpc' has no value; expected NAME,key=value"),
        ("m,n=1,n=2", "n is given twice"),
        ("m,pretrained=k", "pretrained is given twice"),
        ("{m}", "which is no JSON"),
    ],
)
def test_what_is_wrong_in_one_text(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_arguments(text)
