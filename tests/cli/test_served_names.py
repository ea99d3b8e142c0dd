"""What is listed by name is what can be asked for."""

from __future__ import annotations

from laconic.cli.common import choose_policy
from laconic.cli.engines import choose_engine
from laconic.cli.served_names import offered_policies, offered_strategies


def test_an_engine_of_ours_offers_all() -> None:
    choice = choose_engine("hf", None)
    strategies = offered_strategies(choice)
    assert strategies[0] == "priced-vote"
    assert {"deepprune", "dynasor", "parallel-probe", "self-consistency", "auto"} <= set(strategies)
    policies = offered_policies(choice, choose_policy("none", True))
    assert {"rpc", "h2o", "learned"} <= set(policies)
    assert not {"oracle", "hindsight", "lightthinker"} & set(policies)


def test_vllm_offers_what_runs_inside_it_beside_its_launch() -> None:
    choice = choose_engine("vllm:bundled", None)
    strategies = offered_strategies(choice)
    assert "deepprune" in strategies
    assert "dynasor" not in strategies  # it probes
    assert offered_policies(choice, choose_policy("none", True)) == ()
    policies = offered_policies(choice, choose_policy("rpc", True))
    assert {"rpc", "random", "streamingllm", "learned"} <= set(policies)
    assert "h2o" not in policies
    few = offered_policies(choice, choose_policy("random", True))  # it keeps no queries
    assert "rpc" not in few
    assert "streamingllm" in few


def test_nothing_is_compressed_in_the_caches_of_others() -> None:
    choice = choose_engine("openai:http://127.0.0.1:1/v1", None)
    assert offered_policies(choice, choose_policy("none", False)) == ()
    assert "self-consistency" in offered_strategies(choice)
