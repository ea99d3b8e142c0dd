"""Which policies a table compares, at which cache size: RPC at a ratio, and every fixed budget matched to RPC's
mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from laconic import checks
from laconic.compress import Custom, FullKV, Policy, with_budget
from laconic.compress.policy import SelectorFiles
from laconic.compress.registry import get, parse
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.shares import SHARE
from laconic.engines.requests import check_goes_by_counts, check_looks_back
from laconic.environment import hide_directories
from laconic.errors import InputError, LaconicError
from laconic.selectors import check_named_file, digest_of
from laconic.settings import given_keys

POLICIES = ("rpc", "rkv", "h2o", "tova", "streamingllm", "random", "oracle")
RATIOS = (2, 4, 8)


@dataclass(frozen=True)
class ComparedPolicy:
    """One row of an accuracy table.

    label: its name in tables and results, unique in a run. family: what rows of one plotted line share. policy: what
    decodes; for a fixed budget that is still to be matched, its template. target: the schedule whose mean cache size
    the budget has to meet; None where there is nothing to match. ratio, interval, window: of RPC's schedule, that the row
    is on or is matched to, where it is. schedule: takes the place of the policy's own, of which the scorer alone is left; None:
    the policy decodes as it is.
    """

    label: str
    family: str
    policy: Policy
    ratio: float | None = None
    target: Schedule | None = None
    interval: int | None = None
    window: int | None = None
    schedule: Schedule | None = None

    def running(self, policy: Policy | None = None) -> Policy:
        """What decodes. policy: the row's, fitted to a model."""
        policy = self.policy if policy is None else policy
        if self.schedule is None or policy.schedule == self.schedule:
            return policy
        return Custom(self.schedule, policy.scorer)

    def matched(self, lengths: Sequence[int]) -> ComparedPolicy:
        """The same row, its budget settled on full KV's generated lengths; itself where there is nothing to match."""
        if self.target is None:
            return self
        policy = match_budget(self.policy, self.target, lengths)
        return dataclasses.replace(self, policy=policy, target=None)

    def requested(self) -> str:
        """What was asked for, before any budget is known: part of what a results file must agree with."""
        if self.schedule is not None and self.policy.schedule != self.schedule:
            return f"{self.policy.spec()} on {self.schedule!r}"
        if self.target is None:
            return self.policy.spec()
        spec = re.sub(r"budget=\d+", "budget=matched", self.policy.spec())
        return f"{spec} to the mean of {self.target!r}"


def full() -> ComparedPolicy:
    """The baseline's row."""
    return ComparedPolicy("full", "full", FullKV())


def compared_policies(
    names: Sequence[str] = POLICIES,
    ratios: Sequence[float] = RATIOS,
    *,
    interval: int = 4096,
    window: int = 32,
    oracle: Callable[[Tensor], Tensor] | None = None,
    recorded: bool = False,
) -> list[ComparedPolicy]:
    """The rows of a table: full KV first, then each policy at each ratio.

    names: of policies, or specs that leave their size out, such as `learned:fading=1` (each gives a row a ratio), or specs that
    give it, such as `rkv:budget=128,buffer=32` or `rpc:ratio=3` (one row). interval, window: RPC's, and those of every policy
    with a ratio that doesn't give its own. A policy with a budget instead gets one
    such that its mean cache size equals RPC's at that ratio (`match_budget`); its buffer stays at its default, but
    never above `interval`, as a coarser compression than RPC's could not reach RPC's smaller caches. oracle: which
    tokens `oracle` keeps; without it that name is refused. recorded: traces are recorded ones, so that policies may know how
    they go on.

    Raises InputError for an unknown policy or setting (listing the known ones), an impossible ratio, or a row twice.
    """
    names = checks.texts("names", names, "of policies")
    ratios = checks.instances("ratios", ratios, object, "a number")
    for ratio in ratios:
        checks.number("ratio", ratio, 1)
    interval = checks.whole("interval", interval, 1)
    window = checks.whole("window", window, 1)
    if oracle is not None:
        checks.function("oracle", oracle, "from token ids to scores or bools")
    checks.flag("recorded", recorded)
    if not names:
        raise InputError("No policies were given; expected at least one name, such as rpc")
    if not ratios:
        raise InputError("No ratios were given; expected at least one, such as 4")
    rows = [full()]
    for name in names:
        if name.strip() == "full":
            continue
        if _says_its_size(name):
            policy = parse(name, **_schedule_of(name, interval, window))
            check_named_file(policy)
            rows.append(ComparedPolicy(policy.spec(), policy.spec(), policy))
            continue
        for ratio in ratios:
            rows.append(_row(name.strip(), ratio, interval, window, oracle))
            if rows[-1].ratio is None:
                break
    check_labels(rows)
    for row in rows:
        if recorded:
            check_goes_by_counts(row.policy, "a recorded trace that is fed as it stands")
        else:
            check_looks_back(row.policy)
    return rows


def described(row: ComparedPolicy) -> str:
    """`ComparedPolicy.requested`, files by their names alone: results say nothing of this machine's directories."""
    said = row.requested()
    for each in dataclasses.fields(row.policy):
        value = getattr(row.policy, each.name)
        if isinstance(value, str) and value != hide_directories(value):
            said = said.replace(value, hide_directories(value))
    return said


def settled(row: ComparedPolicy, files: SelectorFiles) -> str:
    """`described`, and which selector a row has, by its content: what a results file must agree with, so that rows of one name
    never mix those of a selector and of one that was made anew. files: the model's.

    Raises InputError for a row whose selector isn't there.
    """
    digest = digest_of(row.policy, files)
    return described(row) if digest is None else f"selector {digest} in {described(row)}"


def check_labels(rows: Sequence[ComparedPolicy]) -> None:
    """InputError for a row that is asked for twice."""
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"The row {label} is asked for twice; expected each policy and ratio once")


def _row(
    name: str, ratio: float, interval: int, window: int, oracle: Callable[[Tensor], Tensor] | None
) -> ComparedPolicy:
    kind = get(name.partition(":")[0])
    fields = {f.name: f for f in dataclasses.fields(kind)}
    ratio = int(ratio) if float(ratio).is_integer() else float(ratio)
    label = f"{name} c={ratio:g}"
    settings: dict[str, Any] = {}
    if name == "oracle":
        settings["keep"] = needed_oracle(oracle)
    if "ratio" in fields:
        settings |= {"ratio": ratio, **_schedule_of(name, interval, window)}
        made = parse(name, **settings)
        check_named_file(made)
        own = [int(getattr(made, field, given)) for field, given in (("interval", interval), ("window", window))]
        return ComparedPolicy(label, name, made, ratio, interval=own[0], window=own[1])
    if "budget" in fields:
        target = Proportional(interval, ratio, window)
        template = parse(name, **settings)
        buffer = getattr(template, "buffer", None)
        if isinstance(buffer, int) and buffer > interval and "buffer" not in given_keys(name):
            template = parse(name, **settings, buffer=interval)
        return ComparedPolicy(label, name, template, ratio, target, interval, window)
    return ComparedPolicy(name, name, parse(name, **settings))


def _says_its_size(spec: str) -> bool:
    """Whether a spec gives the size that its policy goes by; one of a policy that has none does."""
    if ":" not in spec:
        return False
    fields = {field.name for field in dataclasses.fields(get(spec.partition(":")[0]))}
    sizes = {"ratio", SHARE} if "ratio" in fields else {"budget"} if "budget" in fields else set()
    return not sizes or bool(sizes & given_keys(spec))


def _schedule_of(spec: str, interval: int, window: int) -> dict[str, Any]:
    """RPC's interval and window for a policy with a ratio, as far as its spec doesn't say."""
    fields = {field.name for field in dataclasses.fields(get(spec.partition(":")[0]))}
    if "ratio" not in fields:
        return {}
    own = (("interval", interval), ("window", window))
    return {key: value for key, value in own if key in fields and key not in given_keys(spec)}


def needed_oracle(oracle: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    """InputError where there is none."""
    if oracle is None:
        raise InputError(
            "The policy oracle needs to know which tokens matter: give a pattern of their text (--oracle-pattern), "
            "or leave oracle out"
        )
    return oracle


def mean_cache(schedule: Schedule, lengths: Sequence[int]) -> float:
    """Mean over traces of the mean number of generated tokens held a step, by the schedule's arithmetic.

    The prompt is left out: every policy keeps all of it, so it adds the same to both sides of a comparison.
    """
    lengths = checks.wholes("lengths", lengths, 0, meaning="generated tokens")
    if not lengths:
        raise InputError("There are no generated lengths to match budgets to; expected those of a full-KV run")
    return sum(schedule.mean(length) for length in lengths) / len(lengths)


P = TypeVar("P", bound=Policy)


def match_budget(policy: P, target: Schedule, lengths: Sequence[int]) -> P:
    """`policy` with the budget whose mean cache size on these lengths is nearest to the target schedule's.

    lengths: generated tokens of each trace of the full-KV run, so that a policy's own effect on lengths can't move its
    budget. The mean grows with the budget, so a binary search finds it. Where even the smallest budget that the
    policy's other settings allow holds more than the target, that one is taken: tables show the realised means beside.

    Raises InputError if no lengths are given or the policy has no fixed budget.
    """
    wanted = mean_cache(target, lengths)
    most = max(max(lengths), 1)
    low = _least_budget(policy, most)

    def held(budget: int) -> float:
        return mean_cache(with_budget(policy, budget).schedule, lengths)

    high = max(most, low)
    least = low
    while low < high:  # the smallest budget that holds at least what is wanted
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle) >= wanted else (middle + 1, high)
    if low > least and wanted - held(low - 1) <= held(low) - wanted:
        low -= 1
    return with_budget(policy, low)


def _least_budget(policy: Policy, most: int) -> int:
    problem: LaconicError | None = None
    for budget in range(1, max(most, getattr(policy, "budget", 1)) + 1):
        try:
            with_budget(policy, budget)
        except LaconicError as error:
            problem = error
            continue
        return budget
    raise InputError(f"No budget up to {most} suits the policy {policy.name}: {problem}") from problem


@dataclass(frozen=True)
class KeepPattern:
    """For `Oracle`: the tokens whose text matches a regular expression (searched, without white space around the text).

    texts: the text of every token id, `[vocabulary]`. Called with token ids of any shape, gives bools of that shape;
    ids beyond the vocabulary do not match.
    """

    pattern: str
    texts: Sequence[str] = field(repr=False)

    def __post_init__(self) -> None:
        checks.text("pattern", self.pattern, "a regular expression")
        object.__setattr__(self, "texts", checks.texts("texts", self.texts, "of every token id"))
        try:
            expression = re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"The oracle's pattern {self.pattern!r} is no regular expression: {error}") from error
        hits = [bool(expression.search(text.strip(" ▁Ġ\n"))) for text in self.texts]
        if not any(hits):
            raise InputError(f"The oracle's pattern {self.pattern!r} matches no token of the vocabulary; change it")
        object.__setattr__(self, "_table", torch.tensor([*hits, False]))

    def __call__(self, token_ids: Tensor) -> Tensor:
        table: Tensor = self._table.to(token_ids.device)  # type: ignore[attr-defined]
        return table[token_ids.clamp(min=-1, max=len(self.texts))]
