"""What `laconic serve` offers by name: the strategies and policies that a request can ask of the engine that was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from laconic.cli.common import choose_judge, choose_policy, choose_strategy
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.cli.engines import EngineChoice
    from laconic.compress import Policy
    from laconic.engines.base import Engine

FIRST = "priced-vote"
UNSERVED = ("full", "oracle", "hindsight", "kvzap", "lightthinker")
"""Policies that aren't offered by name: nothing, what needs more than a name, and what a request can't have."""


def offered_strategies(choice: EngineChoice) -> tuple[str, ...]:
    """Those whose runs read nothing that the engine can't give; which judge a request will bring is not known yet."""
    from laconic.judges.baselines import RandomJudge
    from laconic.prune.strategies.registry import known

    engine = _engine_class(choice)
    found = []
    for name in (FIRST, *(each for each in known() if each != FIRST)):
        try:
            judge = RandomJudge() if choose_judge(None, name, choice.small) else None
            strategy = choose_strategy(name, 16, judge, choice.small)
            if engine is not None:
                engine.check_needs(strategy.needs())
        except LaconicError:
            continue
        found.append(name)
    return tuple(found)


def offered_policies(choice: EngineChoice, launch: Policy) -> tuple[str, ...]:
    """Those that a request can ask for. launch: the server's own; a vLLM serves others where it has been started to compress,
    as far as the latest queries that it keeps go, and of others' caches nothing can be asked."""
    from laconic.compress.registry import known

    names = [name for name in known() if name not in UNSERVED]
    if choice.name == "hf":
        return tuple(names)
    if choice.name == "openai" or launch.schedule.next_boundary(0) is None:
        return ()
    from laconic.engines.vllm.plugin.settings import queries_read, runs_inside

    found = []
    for name in names:
        try:
            policy = choose_policy(name, choice.small)
        except LaconicError:
            continue
        if runs_inside(policy) and queries_read(policy) <= queries_read(launch):
            found.append(name)
    return tuple(found)


def _engine_class(choice: EngineChoice) -> type[Engine] | None:
    """None: an engine that gives all that strategies need, and takes seconds to import."""
    if choice.name == "vllm":
        from laconic.engines.vllm.engine.engine import VLLMEngine

        return VLLMEngine
    if choice.name == "openai":
        from laconic.engines.openai import OpenAIEngine

        return OpenAIEngine
    return None
