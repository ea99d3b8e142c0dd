"""Pruning across traces (DeepPrune, arXiv 2510.08483): strategies that start, judge, stop, resume and vote.

A strategy drives anything that is a `TraceEngine` and returns a `Verdict`:

>>> from laconic.prune import DeepPrune
>>> DeepPrune(n=64, judge=judge).solve(engine, "What is 2 + 2?", sampling)  # doctest: +SKIP

Nothing here knows an engine, a tokenizer or a model; judges that need one live in `laconic.judges`.
"""

from __future__ import annotations

from laconic.prune.budget import PoolBudget
from laconic.prune.calibration import CalibratedRow, Calibration
from laconic.prune.cluster import Clustering
from laconic.prune.judge import Cost, Excerpt, Judge
from laconic.prune.needs import Needs
from laconic.prune.pool import KnownTrace, Pool, PoolProblem, PoolProgress, PoolRun
from laconic.prune.strategies.adaptive import AdaptiveConsistency
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.base import Strategy, StrategyRun
from laconic.prune.strategies.deepconf import DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.dynasor import DynasorCoT
from laconic.prune.strategies.judged import JudgedVote
from laconic.prune.strategies.parallel_probe import ParallelProbe
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.strategies.registry import parse
from laconic.prune.strategies.self_consistency import SelfConsistency
from laconic.prune.strategies.step import StepLike
from laconic.prune.trace_engine import TraceEngine
from laconic.prune.verdict import PlainVote, Tokens, TraceFate, Verdict, Vote

__all__ = [
    "AdaptiveConsistency",
    "Auto",
    "CalibratedRow",
    "Calibration",
    "Clustering",
    "Cost",
    "DeepConf",
    "DeepPrune",
    "DynasorCoT",
    "Excerpt",
    "Judge",
    "JudgedVote",
    "KnownTrace",
    "Needs",
    "ParallelProbe",
    "PlainVote",
    "Pool",
    "PoolBudget",
    "PoolProblem",
    "PoolProgress",
    "PoolRun",
    "PricedVote",
    "SelfConsistency",
    "StepLike",
    "Strategy",
    "StrategyRun",
    "Tokens",
    "TraceEngine",
    "TraceFate",
    "Verdict",
    "Vote",
    "parse",
]
