"""The policies that come with laconic. Every one leaves the prompt whole and positions counting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor

from laconic import checks
from laconic.checks import whole
from laconic.compress.evidence import Scorer
from laconic.compress.policy import Policy
from laconic.compress.redundancy import Redundancy
from laconic.compress.schedule import Fixed, Never, Proportional, Schedule
from laconic.compress.scorers import (
    AccumulatedAttention,
    NewestQuery,
    OracleScore,
    RandomScore,
    Recency,
    ShortKeys,
    WindowAttention,
)
from laconic.compress.shares import WithBudget, WithRatio
from laconic.errors import InputError
from laconic.settings import described, setting

INTERVAL = "generated tokens between two compressions (P)"
RATIO = "how many times slower than the output the kept part grows (c)"
WINDOW = "latest generated tokens that always stay (R)"
BUDGET = "generated tokens kept; the prompt doesn't count"
BUFFER = "generated tokens between two compressions"
AGGREGATION = "layer: one set of tokens for all KV heads; group: one for each KV head"


@dataclass(frozen=True)
class FullKV(Policy):
    """No compression: the baseline."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "keeps everything: the baseline"

    def make_schedule(self) -> Schedule:
        return Never()

    def make_scorer(self) -> Scorer | None:
        return None


@dataclass(frozen=True)
class RPC(WithRatio):
    """Reasoning Path Compression (arXiv 2505.13866): what the last `window` queries attend to stays."""

    name: ClassVar[str] = "rpc"
    summary: ClassVar[str] = "keeps what the latest queries attend to, on a budget that grows with the output"
    source: ClassVar[str] = "arXiv 2505.13866"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW + ", whose queries judge the others", shown=True)
    pooling: Literal["avg", "max"] = setting("avg", "how scores are smoothed over neighbouring tokens")
    kernel: int = setting(7, "neighbourhood of the pooling, odd; 1 is none")
    aggregation: Literal["layer", "group"] = setting("layer", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return WindowAttention(self.window, self.pooling, self.kernel, self.aggregation)


@dataclass(frozen=True)
class H2O(WithBudget):
    """H2O (arXiv 2306.14048): heavy hitters of accumulated attention, and the recent window."""

    name: ClassVar[str] = "h2o"
    summary: ClassVar[str] = "keeps recent tokens and those most attended so far, on a fixed budget"
    source: ClassVar[str] = "arXiv 2306.14048"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(1, BUFFER, shown=True)
    window: int | None = setting(None, "how many of the budget are the most recent; none: half")
    aggregation: Literal["layer", "group"] = setting("layer", AGGREGATION)

    def make_schedule(self) -> Schedule:
        whole("budget", self.budget, 1, meaning="generated tokens kept")
        if self.window is not None:
            whole("window", self.window, 1, meaning="generated tokens that always stay")
        return Fixed(self.budget, self.buffer, max(1, self.budget // 2) if self.window is None else self.window)

    def make_scorer(self) -> Scorer:
        return AccumulatedAttention(self.aggregation)


@dataclass(frozen=True)
class TOVA(WithBudget):
    """TOVA (arXiv 2401.06104): drop what the newest query attends to least. The newest token itself always stays."""

    name: ClassVar[str] = "tova"
    summary: ClassVar[str] = "drops what the newest query attends to least, on a fixed budget"
    source: ClassVar[str] = "arXiv 2401.06104"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(1, BUFFER, shown=True)
    aggregation: Literal["layer", "group"] = setting("layer", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, self.buffer, 1)

    def make_scorer(self) -> Scorer:
        return NewestQuery(self.aggregation)


@dataclass(frozen=True)
class StreamingLLM(WithBudget):
    """StreamingLLM (arXiv 2309.17453): the first `sinks` generated tokens and the most recent ones."""

    name: ClassVar[str] = "streamingllm"
    summary: ClassVar[str] = "keeps the first and the most recent generated tokens, on a fixed budget"
    source: ClassVar[str] = "arXiv 2309.17453"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(1, BUFFER, shown=True)
    sinks: int = setting(4, "how many of the budget are the first generated tokens")

    def make_schedule(self) -> Schedule:
        whole("sinks", self.sinks, 0, meaning="first generated tokens that stay")
        whole("budget", self.budget, 1, meaning="generated tokens kept")
        if self.sinks >= self.budget:
            raise InputError(
                f"sinks is {self.sinks}, which leaves nothing of budget {self.budget} for recent tokens; expected 0 to "
                f"{self.budget - 1}: lower sinks or raise budget"
            )
        return Fixed(self.budget, self.buffer, self.budget - self.sinks)

    def make_scorer(self) -> Scorer:
        return Recency(self.sinks)


@dataclass(frozen=True)
class RKV(WithBudget):
    """R-KV (arXiv 2505.24133): attention minus redundancy; `Redundancy` says which normalisation."""

    name: ClassVar[str] = "rkv"
    summary: ClassVar[str] = "keeps what is attended to and unlike the rest, on a fixed budget"
    source: ClassVar[str] = "arXiv 2505.24133"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(128, BUFFER, shown=True)
    window: int = setting(8, "latest generated tokens that always stay, whose queries judge the others")
    lam: float = setting(0.1, "weight of attention against redundancy, 0 to 1")
    kernel: int = setting(7, "neighbourhood of the max pooling of attention, odd; 1 is none")
    threshold: float = setting(0.5, "cosine similarity above which two tokens are near-copies")
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, self.buffer, self.window)

    def make_scorer(self) -> Scorer:
        return Redundancy(self.window, self.lam, self.kernel, self.threshold, self.aggregation)


@dataclass(frozen=True)
class SnapKV(WithBudget):
    """SnapKV (arXiv 2404.14469): what the last `window` queries attend to, smoothed, each KV head for itself.

    The paper compresses a long prompt once, before the first token. Here prompts stay whole and generated tokens are
    compressed, on a fixed budget; window, kernel and pooling are those of its authors' code and of kvpress.
    """

    name: ClassVar[str] = "snapkv"
    summary: ClassVar[str] = "keeps what the latest queries attend to, each KV head for itself, on a fixed budget"
    source: ClassVar[str] = "arXiv 2404.14469"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(128, BUFFER, shown=True)
    window: int = setting(64, WINDOW + ", whose queries judge the others")
    pooling: Literal["avg", "max"] = setting("avg", "how scores are smoothed over neighbouring tokens")
    kernel: int = setting(5, "neighbourhood of the pooling, odd; 1 is none")
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, self.buffer, self.window)

    def make_scorer(self) -> Scorer:
        return WindowAttention(self.window, self.pooling, self.kernel, self.aggregation)


@dataclass(frozen=True)
class KNorm(WithBudget):
    """KNorm (arXiv 2406.11430): tokens whose keys have a small L2 norm stay, each KV head for itself. Reads no attention."""

    name: ClassVar[str] = "knorm"
    summary: ClassVar[str] = "keeps tokens whose keys are short, on a fixed budget; reads no attention"
    source: ClassVar[str] = "arXiv 2406.11430"

    budget: int = setting(1024, BUDGET, shown=True)
    buffer: int = setting(128, BUFFER, shown=True)
    window: int = setting(1, WINDOW)
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, self.buffer, self.window)

    def make_scorer(self) -> Scorer:
        return ShortKeys(self.aggregation)


@dataclass(frozen=True)
class Random(WithRatio):
    """The floor: random tokens on RPC's schedule, each drawn once, so that what stays is spread evenly over the trace."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "keeps random tokens on RPC's budget: a table's floor"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)
    seed: int = setting(0, "which random tokens")
    aggregation: Literal["layer", "group"] = setting("layer", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return RandomScore(self.seed, self.aggregation)


@dataclass(frozen=True)
class Oracle(WithRatio):
    """The ceiling: on RPC's schedule, the tokens that `keep` says matter."""

    name: ClassVar[str] = "oracle"
    summary: ClassVar[str] = "keeps what a function of the token ids says matters: a table's ceiling (from Python only)"

    keep: Callable[[Tensor], Tensor] = field(
        metadata=described("function: token ids [rows, groups, candidates] -> scores or bools")
    )
    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return OracleScore(self.keep)


@dataclass(frozen=True)
class Custom(Policy):
    """Any schedule with any scorer."""

    name: ClassVar[str] = "custom"
    summary: ClassVar[str] = "a schedule and a scorer of your own (from Python only)"

    # These two take the place of the base's properties: given, not made.
    schedule: Schedule = field(metadata=described("when to compress and how many tokens stay"))
    scorer: Scorer | None = field(metadata=described("which tokens stay"))

    def __post_init__(self) -> None:
        checks.instance("schedule", self.schedule, Schedule, "a Schedule, such as Proportional()")
        if self.scorer is not None:
            checks.instance("scorer", self.scorer, Scorer, "a Scorer, such as WindowAttention()")
        super().__post_init__()

    def make_schedule(self) -> Schedule:
        return self.schedule

    def make_scorer(self) -> Scorer | None:
        return self.scorer


P = TypeVar("P", bound=Policy)


def with_budget(policy: P, budget: int) -> P:
    """The same policy on another budget, so that tables compare policies at an equal cache size.

    Raises InputError for a policy without a fixed budget, or a budget that its other settings don't allow.
    """
    checks.instance("policy", policy, Policy, "a policy with a fixed budget, such as H2O()")
    if "budget" not in {f.name for f in dataclasses.fields(policy)}:
        raise InputError(f"policy {policy.name} has no fixed budget; expected one such as h2o or rkv")
    changed: dict[str, Any] = {"budget": budget}  # a field that not every policy has
    return dataclasses.replace(policy, **changed)
