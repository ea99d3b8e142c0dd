"""The tables of `bench fidelity`: a row a policy; and KL by distance from the last compression and by position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from laconic.cli.tables import MISSING, Column, Table, alone, number, percent
from laconic.lab.fidelity.rows import BASELINES, BEFORE
from laconic.lab.shared.figure import policy_name
from laconic.lab.shared.pairs import pair_tables
from laconic.lab.shared.reporting import Report


def fidelity_tables(report: Report) -> list[Table]:
    """Of a fidelity result (`rows` as `FidelityRow.to_json` makes them)."""
    rows = list(report["rows"])
    names = names_of(rows)
    return [
        _policies(report, rows, names),
        *pair_tables(
            rows,
            "Row less column, KL in nats a token, on one schedule",
            rank=lambda row: float(row["kl"]["mean"]["mean"]),
            told=lambda found: _with_ends(found, signed=True),
        ),
        _binned(rows, names, "by_distance", "tokens since the last compression"),
        _binned(rows, names, "by_position", "place in the trace"),
    ]


def names_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows are called: the policy and what of the schedule differs over them."""
    varying = [key for key in ("ratio", "interval", "window") if len({row[key] for row in rows if row[key]}) > 1]
    signs = {"ratio": "c", "interval": "P", "window": "R"}
    found = []
    for row in rows:
        said = [f"{signs[key]}={row[key]:g}" for key in varying if row[key] is not None]
        found.append(" ".join([policy_name(row["family"]), *said]))
    return found


def _policies(report: Report, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    first = rows[0]
    schedule = report["settings"]["schedule"]
    cells = []
    for name, row in zip(names, rows, strict=True):
        differences = [row["differences"].get(baseline) for baseline in BASELINES]
        cells.append(
            [
                name,
                _with_ends(row["kl"]["mean"]),
                *(MISSING if of is None else _with_ends(of["kl"], signed=True) for of in differences),
                _figure(row["kl"]["median"]["mean"]),
                _figure(row["kl"]["p90"]["mean"]),
                _figure(row["kl"]["p99"]["mean"]),
                _share(row["agreement"]),
                _with_ends(row["change"], signed=True),
                number(row["mean_kv_tokens"]),
                number(row["peak_kv_tokens"]),
            ]
        )
    shared = {key: {row[key] for row in rows if row[key]} for key in ("ratio", "interval", "window")}
    one = [f"{key} {next(iter(found)):g}" for key, found in shared.items() if len(found) == 1]
    columns: list[Column] = [
        ("policy", "left"),
        ("KL, nats a token", "right"),
        *((f"to {policy_name(baseline)}", "right", rank) for baseline, rank in zip(BASELINES, (1, 2), strict=True)),
        ("median", "right", 6),
        ("90 %", "right", 5),
        ("99 %", "right", 5),
        ("same top token, %", "right", 3),
        ("log-likelihood", "right", 4),
        ("mean KV", "right", 1),
        ("peak KV", "right", 7),
    ]
    return Table(
        title=f"KL(full KV || policy) of {report['settings']['model']['name']}: {first['traces']:,} traces, "
        f"{first['tokens']:,} tokens{', ' if one else ''}{', '.join(one)}",
        columns=columns,
        rows=cells,
        notes=[
            "Every trace is one that full KV wrote, or a text; policies see its tokens, not their own.",
            "All scorers are on RPC's schedule: caches are equal at every moment."
            if schedule == "common"
            else "Each policy is on its own schedule; budgets are matched to RPC's mean cache.",
            "Means over a trace's tokens (KL also: their median, 90th and 99th percentile), then over problems; in brackets: "
            "95 % intervals over problems.",
            "Differences are paired: the same traces. Log-likelihood: of the trace's own tokens, policy less full KV.",
            "KV: tokens held in one layer, prompt included: mean over steps, then traces; peak: the most of any trace.",
            *alone(first["problems"]),
        ],
    )


def _binned(rows: Sequence[Mapping[str, Any]], names: Sequence[str], key: str, what: str) -> Table:
    """KL of each bin that any row has."""
    bins = sorted({(each["low"], each["name"]) for row in rows for each in row[key]})
    cells = []
    for name, row in zip(names, rows, strict=True):
        found = {each["name"]: each for each in row[key]}
        cells.append([name, *(_figure(found[bin]["kl"]["mean"]) if bin in found else MISSING for _, bin in bins)])
    first = f"{BEFORE.capitalize()}: before the first compression, when nothing has been evicted yet."
    return Table(
        title=f"KL(full KV || policy) by {what}",
        # Where a terminal is too narrow, every second bin goes first.
        columns=[("policy", "left"), *((bin, "right", 1 + at % 2) for at, (_, bin) in enumerate(bins))],
        rows=cells,
        notes=[first] if key == "by_distance" else [],
    )


def _figure(value: float | None, signed: bool = False) -> str:
    """Three significant digits, 0 as it is."""
    if value is None or not math.isfinite(value):
        return MISSING
    sign = "+" if signed else ""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{digits}f}" if digits <= 6 else f"{value:{sign}.1e}"


def _with_ends(interval: Mapping[str, float | None], signed: bool = False) -> str:
    """`0.123 [0.101, 0.145]`; the mean alone where ends can't be told."""
    mean, low, high = (_figure(interval[key], signed) for key in ("mean", "low", "high"))
    return mean if MISSING in (low, high) else f"{mean} [{low}, {high}]"


def _share(interval: Mapping[str, float]) -> str:
    return f"{percent(interval['mean'])} [{percent(interval['low'])}, {percent(interval['high'])}]"
