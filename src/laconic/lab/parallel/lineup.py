"""Which strategies a table of parallel thinking compares: each at every number of traces, under every compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from laconic import checks
from laconic.compress import FullKV, Policy
from laconic.environment import hide_directories
from laconic.errors import InputError
from laconic.prune.budget import PoolBudget
from laconic.prune.pool import Pool

SINGLE, CONS, EARLY = "pass@1", "cons", "cons, early end"
FEW = (4, 8)  # the votes of few traces that cost about what a pruned vote of many does
FULL = "none"
POOL_ROWS = 48  # traces of a pool that run at once

Needs = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class LabelledPolicy:
    """A KV-cache policy under the label that `--policies` gave it; `none` is full KV."""

    label: str
    policy: Policy

    @property
    def full(self) -> bool:
        return self.label == FULL


@dataclass(frozen=True, slots=True)
class ComparedStrategy:
    """One strategy, at one number of traces, under one compression.

    family: what rows of one colour share, the same for every n and compression. strategy: its spec in the registry.
    judge: the judge's spec, where it has one. single: every trace counts for itself (pass@1), there is no vote. pooled: it runs
    on all problems at once, and `strategy` is the budget that they share.
    """

    family: str
    strategy: str
    n: int
    compress: str = FULL
    judge: str | None = None
    single: bool = False
    pooled: bool = False

    @property
    def label(self) -> str:
        """Unique in a run: `deepprune, probe n=16 rpc:ratio=4`."""
        return f"{self.family} n={self.n} {self.compress}"


def compressions(found: Sequence[LabelledPolicy]) -> list[LabelledPolicy]:
    """Full KV first, then the others in their order. Raises InputError for one given twice."""
    others = [c for c in found if not c.full]
    for at, compression in enumerate(others):
        same = next((c for c in others[:at] if c.policy == compression.policy or c.label == compression.label), None)
        if same is not None:
            raise InputError(
                f"The compression {compression.label} is asked for twice (also as {same.label}); expected each once"
            )
        if isinstance(compression.policy, FullKV):
            raise InputError(f"The compression {compression.label} is full KV, which is there anyway: leave it out")
    return [LabelledPolicy(FULL, FullKV()), *others]


def lineup(
    ns: Sequence[int],
    compress: Sequence[LabelledPolicy],
    strategies: Sequence[str],
    judges: Sequence[str],
    needs_judge: Needs,
    few: Sequence[int] = FEW,
    pools: Sequence[str] = (),
) -> list[ComparedStrategy]:
    """The rows of a run: for every compression, pass@1, cons and cons with early end at each n, then each strategy.

    strategies: specs beside those, such as `deepconf:low`; each that `needs_judge` comes once with every judge. few:
    also cons@m for these m where m is less than the largest n and not among `ns`. pools: budgets that all problems share, as
    `4x` (`PoolBudget.parse`), each a row.

    Raises InputError for no n, an n or m below 1 or given twice, a strategy or judge given twice, a strategy that
    needs a judge where there is none, or what is no budget.
    """
    _check_counts("--n", ns)
    _check_counts("--few", few)
    if not ns:
        raise InputError("There are no numbers of traces; expected at least one n, such as 16")
    for what, names in (("strategy", strategies), ("judge", judges)):
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"The {what} {name} is asked for twice; expected each once")
    for spec in strategies:
        if needs_judge(spec) and not judges:
            raise InputError(f"The strategy {spec} needs a judge: name one with --judges, or leave it out")
    entries = []
    for compression in compress:
        label = compression.label
        entries += [ComparedStrategy(CONS, _vote(early=False), m, label) for m in few if m < max(ns) and m not in ns]
        for n in ns:
            entries.append(ComparedStrategy(SINGLE, _vote(early=False), n, label, single=True))
            entries.append(ComparedStrategy(CONS, _vote(early=False), n, label))
            entries.append(ComparedStrategy(EARLY, _vote(early=True), n, label))
            for spec in strategies:
                if needs_judge(spec):
                    entries += [ComparedStrategy(f"{spec}, {shown(judge)}", spec, n, label, judge) for judge in judges]
                else:
                    entries.append(ComparedStrategy(spec, spec, n, label))
            for budget in pools:
                PoolBudget.parse(budget)
                entries.append(ComparedStrategy(f"pool {budget}", budget, n, label, pooled=True))
    labels = [entry.label for entry in entries]
    for name in labels:
        if labels.count(name) > 1:
            raise InputError(f"Two rows would both be called {name}; leave one of them out")
    return entries


def pool_of(entry: ComparedStrategy) -> Pool:
    """The pool of a row that is one."""
    return Pool(entry.n, PoolBudget.parse(entry.strategy), parallel=POOL_ROWS)


def shown(judge: str) -> str:
    """A judge's spec without directories that are only this machine's."""
    kind, colon, rest = judge.partition(":")
    return f"{kind}{colon}{hide_directories(rest)}"


def _vote(early: bool) -> str:
    return f"self-consistency:early_end={str(early).lower()}"


def _check_counts(option: str, counts: Sequence[int]) -> None:
    for count in checks.wholes(option, counts, -checks.MOST, meaning="numbers of traces"):
        if count < 1:
            raise InputError(f"{option} has {count}; expected whole numbers of at least 1, such as 16,64")
        if list(counts).count(count) > 1:
            raise InputError(f"{option} has {count} twice; expected each number once")
