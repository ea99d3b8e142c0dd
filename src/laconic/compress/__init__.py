"""KV-cache compression policies: a schedule (when, how many) x a scorer (which). Pure torch, no engine.

Names load when they are first used, so that a process which only needs a schedule never imports torch.
`select` is not among them, as its module has that name: `from laconic.compress.select import select`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laconic.compress.evidence import Aggregation, Evidence, Scorer
    from laconic.compress.expected_attention import ExpectedAttention, ExpectedAttentionScore
    from laconic.compress.hindsight import FutureAttention, Hindsight
    from laconic.compress.kvzap import KVzap, KVzapScore
    from laconic.compress.kvzap_networks import KVzapNetworks
    from laconic.compress.learned import Learned, LearnedScore
    from laconic.compress.lightthinker import LightThinker
    from laconic.compress.policies import (
        H2O,
        RKV,
        RPC,
        TOVA,
        Custom,
        FullKV,
        KNorm,
        Oracle,
        Random,
        SnapKV,
        StreamingLLM,
        with_budget,
    )
    from laconic.compress.policy import Policy
    from laconic.compress.random_attention import RandomAttention
    from laconic.compress.redundancy import Redundancy
    from laconic.compress.registry import broken, get, known, parse, register, settings_of
    from laconic.compress.schedule import Fixed, Never, Periodic, Proportional, Schedule
    from laconic.compress.scorers import (
        AccumulatedAttention,
        NewestQuery,
        OracleScore,
        RandomScore,
        Recency,
        ShortKeys,
        WindowAttention,
    )
    from laconic.compress.selector import Rotation, Selector
    from laconic.compress.thoughts import ThoughtTokens
    from laconic.compress.vase import VaSE, WeightedDraw
    from laconic.settings import Setting, described, setting

_HOMES = {
    "evidence": ("Aggregation", "Evidence", "Scorer"),
    "expected_attention": ("ExpectedAttention", "ExpectedAttentionScore"),
    "hindsight": ("FutureAttention", "Hindsight"),
    "kvzap": ("KVzap", "KVzapScore"),
    "kvzap_networks": ("KVzapNetworks",),
    "learned": ("Learned", "LearnedScore"),
    "lightthinker": ("LightThinker",),
    "policies": (
        "H2O",
        "RKV",
        "RPC",
        "TOVA",
        "Custom",
        "FullKV",
        "KNorm",
        "Oracle",
        "Random",
        "SnapKV",
        "StreamingLLM",
        "with_budget",
    ),
    "policy": ("Policy",),
    "random_attention": ("RandomAttention",),
    "redundancy": ("Redundancy",),
    "registry": ("broken", "get", "known", "parse", "register", "settings_of"),
    "selector": ("Rotation", "Selector"),
    "schedule": ("Fixed", "Never", "Periodic", "Proportional", "Schedule"),
    "scorers": (
        "AccumulatedAttention",
        "NewestQuery",
        "OracleScore",
        "RandomScore",
        "Recency",
        "ShortKeys",
        "WindowAttention",
    ),
    "thoughts": ("ThoughtTokens",),
    "vase": ("VaSE", "WeightedDraw"),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
_HOME_OF |= dict.fromkeys(("Setting", "described", "setting"), "laconic.settings")

__all__ = [
    "H2O",
    "RKV",
    "RPC",
    "TOVA",
    "AccumulatedAttention",
    "Aggregation",
    "Custom",
    "Evidence",
    "ExpectedAttention",
    "ExpectedAttentionScore",
    "Fixed",
    "FullKV",
    "FutureAttention",
    "Hindsight",
    "KNorm",
    "KVzap",
    "KVzapNetworks",
    "KVzapScore",
    "Learned",
    "LearnedScore",
    "LightThinker",
    "Never",
    "NewestQuery",
    "Oracle",
    "OracleScore",
    "Periodic",
    "Policy",
    "Proportional",
    "Random",
    "RandomAttention",
    "RandomScore",
    "Recency",
    "Redundancy",
    "Rotation",
    "Schedule",
    "Scorer",
    "Selector",
    "Setting",
    "ShortKeys",
    "SnapKV",
    "StreamingLLM",
    "ThoughtTokens",
    "VaSE",
    "WeightedDraw",
    "WindowAttention",
    "broken",
    "described",
    "get",
    "known",
    "parse",
    "register",
    "setting",
    "settings_of",
    "with_budget",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
