"""Which policies are compared: their scorers on one schedule, so that caches are equal at every moment, or each as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from laconic import checks
from laconic.compress import Policy
from laconic.compress.registry import get, parse
from laconic.compress.schedule import Proportional
from laconic.compress.shares import SHARE
from laconic.compress.thoughts import NAME
from laconic.engines.requests import check_goes_by_counts
from laconic.environment import hide_directories
from laconic.errors import InputError
from laconic.lab.shared.policies import ComparedPolicy, check_labels, compared_policies, full, needed_oracle
from laconic.selectors import check_named_file
from laconic.settings import given_keys, typed

POLICIES = ("rpc", "rkv", "h2o", "tova", "streamingllm", "random", "hindsight")
COMMON, OWN = "common", "own"
SCHEDULED = ("interval", "ratio", SHARE, "budget", "buffer")
"""Settings that say when a policy compresses and how much it keeps, which a common schedule says instead."""


def contenders(
    names: Sequence[str],
    ratios: Sequence[float],
    intervals: Sequence[int],
    windows: Sequence[int],
    schedule: str = COMMON,
    oracle: Callable[[Tensor], Tensor] | None = None,
) -> list[ComparedPolicy]:
    """A row for each policy, interval, window and ratio; `full` is a row only if it is named.

    names: of policies, or specs with other settings of theirs (`random:aggregation=group`). schedule: common puts every scorer
    on RPC's schedule; own leaves each policy its own, as `compared_policies` does. oracle: as there.

    Raises InputError as `compared_policies`, and for a spec that says what a common schedule says.
    """
    checks.word("schedule", schedule, (COMMON, OWN))
    checks.texts("names", names, "of policies")
    for what, numbers in (("ratios", ratios), ("intervals", intervals), ("windows", windows)):
        checks.instances(what, numbers, object, "numbers")
    for ratio in ratios:
        checks.number("ratio", ratio, 1)
    if oracle is not None:
        checks.function("oracle", oracle, "from token ids to scores or bools")
    for what, values in (("policies", names), ("ratios", ratios), ("intervals", intervals), ("windows", windows)):
        if not values:
            raise InputError(f"No {what} were given; expected at least one")
    rows: list[ComparedPolicy] = []
    for name in (name.strip() for name in names):
        if name == "full":
            rows.append(full())
            continue
        for interval in intervals:
            for window in windows:
                if schedule == COMMON:
                    rows += [_on_common(name, ratio, interval, window, oracle) for ratio in ratios]
                    continue
                own = compared_policies([name], ratios, interval=interval, window=window, oracle=oracle, recorded=True)
                # A spec is run as it is given, whatever the interval: once.
                rows += [_in_full(row) for row in own[1:] if row.ratio is not None or row not in rows]
    check_labels(rows)
    return rows


def check_lengths(rows: Sequence[ComparedPolicy], lengths: Sequence[int]) -> None:
    """InputError for a row that compresses nothing on traces of so many tokens, once budgets are matched."""
    for row in rows:
        first = first_compression(row)
        if first is not None and max(lengths) <= first + 1:
            raise InputError(
                f"{row.label} first compresses after {first:,} generated tokens, but the longest trace has {max(lengths):,}, "
                "so there is nothing to measure: give a smaller --interval, or longer traces"
            )


def first_compression(row: ComparedPolicy) -> int | None:
    """After how many generated tokens; None: never. A budget that isn't matched yet is taken for its target."""
    schedule = row.target if row.target is not None else row.running().schedule
    return schedule.next_boundary(0)


def _on_common(
    spec: str, ratio: float, interval: int, window: int, oracle: Callable[[Tensor], Tensor] | None
) -> ComparedPolicy:
    name, given = get(spec.partition(":")[0]).name, given_keys(spec)
    if name == NAME:
        check_goes_by_counts(parse(spec), "a recorded trace that is fed as it stands")
    said = [key for key in SCHEDULED if key in given]
    if said:
        raise InputError(
            f"{said[0]} is given in {spec}, but on a common schedule --ratios and --interval say it for all policies; leave it "
            "out, or give --schedule own"
        )
    ratio = int(ratio) if float(ratio).is_integer() else float(ratio)
    schedule = Proportional(interval, ratio, window)
    fields = {f.name for f in dataclasses.fields(get(name))}
    settings: dict[str, Any] = {"keep": needed_oracle(oracle)} if name == "oracle" else {}
    if "ratio" in fields:
        cell = (("interval", interval), ("ratio", ratio), ("window", window))
        settings |= {key: value for key, value in cell if key in fields and key not in given}
    policy = parse(spec, **settings)
    check_named_file(policy)
    row = ComparedPolicy("", _family(policy, given), policy, ratio, interval=interval, window=window, schedule=schedule)
    row.running()  # a scorer that reads more queries than there are is refused here
    return _in_full(row)


def _family(policy: Policy, given: set[str]) -> str:
    """The policy's name, and what was set of it beside the schedule: `random:aggregation=group`."""
    said = []
    for each in dataclasses.fields(policy):
        value = getattr(policy, each.name)
        if each.name in ("interval", "ratio", "window") and each.name not in given:
            continue
        if value != each.default and not callable(value):
            word = hide_directories(typed(value))
            said.append(word if each.name == policy.bare else f"{each.name}={word}")
    return f"{policy.name}:{','.join(said)}" if said else policy.name


def _in_full(row: ComparedPolicy) -> ComparedPolicy:
    """Its label says all of the schedule, so that a results file may grow by any interval, window or ratio."""
    if row.ratio is None:
        return row
    label = f"{row.family} c={row.ratio:g} P={row.interval} R={row.window}"
    return dataclasses.replace(row, label=label)
