"""Parallel thinking as tables and a plot: strategies against voting over all traces, at each number of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.cli.tables import MISSING, Table, alone, difference, interval, number, percent, ratio, size
from laconic.errors import InputError
from laconic.lab.shared.figure import COLOURS, GREY, MARKERS, NAMES, figure
from laconic.lab.shared.labels import Label, place

Report = Mapping[str, Any]
STRATEGIES = {"deepprune": "DeepPrune", "deepconf": "DeepConf"}
PHASES = ("explore", "judge", "finish", "vote")


def parallel_tables(report: Report) -> list[Table]:
    """Two tables a number of traces: what the replayed runs say, and, where some were timed, what the live ones do."""
    tables = []
    for n in _blocks(report):
        rows = [row for row in report["rows"] if row["block"] == n]
        tables.append(_replayed(report, n, rows))
        if any(row["live"] for row in rows):
            tables.append(_live(report, n, rows))
    return tables


def _replayed(report: Report, n: int, rows: Sequence[Report]) -> Table:
    model = report["settings"]["model"]["name"]
    return Table(
        title=f"n = {n}, replayed: {rows[0]['problems']} problems, {model}, every strategy on the same traces",
        columns=[
            ("strategy", "left"),
            ("KV", "left"),
            ("accuracy, %", "right"),
            (f"to cons@{n}, points", "right", 2),
            ("trace tokens", "right", 5),
            ("judge tokens", "right", 5),
            ("all", "right", 4),
            (f"of cons@{n}, %", "right", 1),
            ("KV-token-steps", "right", 3),
            (f"of cons@{n}, %", "right", 3),
        ],
        rows=[
            [
                name_of(row),
                policy_name(row["compress"]),
                interval(**row["accuracy"]),
                MISSING if row["difference"] is None else difference(**row["difference"]),
                number(row["trace_tokens"]),
                number(row["judge_tokens"]),
                number(row["total_tokens"]),
                percent(row["token_share"]),
                number(row["kv_token_steps"]),
                percent(row["kv_share"]),
            ]
            for row in rows
        ],
        notes=[
            f"cons@{n}: the vote of {n} whole traces with full KV. Differences and shares are to that row.",
            "In brackets: 95 % intervals over problems; differences are paired by problem.",
            *alone(rows[0]["problems"]),
            "Tokens and KV-token-steps (tokens attended, summed over steps and rows, one layer): means a problem.",
            "Judge tokens went through a network on the judge's account; steps are those of traces alone.",
        ],
    )


def _live(report: Report, n: int, rows: Sequence[Report]) -> Table:
    timed = [row for row in rows if row["live"]]
    agreed = report["agreement"]
    return Table(
        title=f"n = {n}, live: {timed[0]['live']['problems']} of these problems on {report['machine']['cpu']}, "
        f"threads: {report['machine']['threads']}",
        columns=[
            ("strategy", "left"),
            ("KV", "left"),
            *((f"{phase}, s", "right", 3) for phase in PHASES),
            ("total, s", "right"),
            (f"to cons@{n}", "right", 1),
            ("peak KV", "right", 2),
            ("same answer", "right", 4),
            ("same traces", "right", 4),
        ],
        rows=[
            [
                name_of(row),
                policy_name(row["compress"]),
                *(number(row["live"]["seconds"].get(phase), 2) for phase in PHASES),
                number(row["live"]["seconds"]["total"], 2),
                ratio(row["live"]["ratio"]),
                size(row["live"]["peak_kv_bytes"]),
                _of(row["live"]["agreement"], "answers", "runs"),
                _of(row["live"]["agreement"], "lengths", "traces"),
            ]
            for row in timed
        ],
        notes=[
            f"Medians over problems; to cons@{n}: median of the ratios within a problem, where all ran in turn.",
            "Same answer, same traces: as the replayed run of that problem had; traces that end at the same token. "
            "A batch of another shape rounds differently, so a trace may part from its recording.",
            f"Over all live runs: same answer {_of(agreed, 'answers', 'runs')}, same traces "
            f"{_of(agreed, 'lengths', 'traces')}, same fates {_of(agreed, 'fates', 'traces')}, tokens "
            f"{agreed['tokens'] / agreed['replayed_tokens']:.3f} of the replayed ones.",
        ],
    )


def parallel_plot(report: Report, path: str | Path) -> None:
    """Accuracy against tokens, as a share of cons@n with full KV: a panel an n, a colour a family of strategies, a
    marker a compression. Names stand at the points of the first compression that a strategy has.

    Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    blocks = _blocks(report)
    colours = _colours(rows)
    policies = list(dict.fromkeys(row["compress"] for row in rows))
    low = min(100 * row["accuracy"]["low"] for row in rows)
    high = max(100 * row["accuracy"]["high"] for row in rows)
    with figure(path, 1.6 + 6.2 * len(blocks), 6.0, columns=len(blocks)) as made:
        panels = made if isinstance(made, list) else [made]
        for axes, n in zip(panels, blocks, strict=True):
            mine = [row for row in rows if row["block"] == n]
            axes.set_xscale("log")
            _whole_votes(axes, mine)
            for row in mine:
                mean = 100 * row["accuracy"]["mean"]
                axes.errorbar(
                    100 * row["token_share"],
                    mean,
                    yerr=[[mean - 100 * row["accuracy"]["low"]], [100 * row["accuracy"]["high"] - mean]],
                    color=colours[_key(row)],
                    marker=MARKERS[policies.index(row["compress"]) % len(MARKERS)],
                    ls="none",
                    ms=6,
                    mec="white",
                    mew=0.5,
                    elinewidth=0.6,
                    ecolor=(colours[_key(row)], 0.35),
                )
            shares = [100 * row["token_share"] for row in mine]
            axes.set_xlim(min(shares) / 1.6, max(shares) * 1.6)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axes.set_xticks(*_ticks(min(shares) / 1.6, max(shares) * 1.6))
            axes.set_xticks([], minor=True)
            axes.set_xlabel(f"tokens, judge included, as % of cons@{n} with full KV")
            axes.set_ylabel("accuracy, %")
            axes.set_title(f"n = {n}, {mine[0]['problems']} problems, 95 % intervals", loc="left", fontsize=10)
        for index, policy in enumerate(policies):
            marker = MARKERS[index % len(MARKERS)]
            panels[-1].plot([], [], marker, color=GREY, ms=6, label=policy_name(policy))
        panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
        for axes, n in zip(panels, blocks, strict=True):
            mine = [row for row in rows if row["block"] == n]
            first: dict[str, Report] = {}
            for row in mine:
                first.setdefault(name_of(row), row)
            labels = [
                Label(100 * row["token_share"], 100 * row["accuracy"]["mean"], name, colours[_key(row)])
                for name, row in first.items()
            ]
            place(axes, labels, [(100 * row["token_share"], 100 * row["accuracy"]["mean"]) for row in mine])


def _whole_votes(axes: Any, rows: Sequence[Report]) -> None:
    """A line through the votes of more and more whole traces with full KV: what tokens buy without any pruning."""
    plain = [row for row in rows if row["compress"] == "none" and row["family"] in ("pass@1", "cons")]
    points = sorted((100 * row["token_share"], 100 * row["accuracy"]["mean"]) for row in plain)
    axes.plot([x for x, _ in points], [y for _, y in points], color=GREY, lw=0.8, ls="--", zorder=1)


def name_of(row: Report) -> str:
    """What a row is called where its block and compression are known: `cons@64, early end`, `DeepPrune, probe`."""
    name, comma, rest = row["family"].partition(",")
    if name == "cons":
        return f"cons@{row['n']}{comma}{rest}"
    strategy, colon, settings = name.partition(":")
    return f"{STRATEGIES.get(strategy, strategy)}{' ' if colon else ''}{settings}{comma}{rest}"


def policy_name(label: str) -> str:
    """A compression for people: `full KV`, `RPC c=4`."""
    if label == "none":
        return NAMES["full"]
    name, _, rest = label.partition(":")
    return f"{NAMES.get(name, name)} {rest.replace('ratio=', 'c=').replace(',', ', ')}".strip()


def _of(agreement: Report, what: str, total: str) -> str:
    return f"{number(agreement[what])}/{number(agreement[total])}"


def _blocks(report: Report) -> list[int]:
    return list(dict.fromkeys(row["block"] for row in report["rows"]))


def _key(row: Report) -> str:
    """What shares a colour: all plain votes, a strategy with its settings whatever they are, a judge of its own."""
    if row["judge"] is not None:
        return str(row["family"])
    return str(row["strategy"].partition(":")[0])


def _colours(rows: Sequence[Report]) -> dict[str, str]:
    keys = list(dict.fromkeys(_key(row) for row in rows))
    # Plain votes are what all else is compared with: black.
    others = [colour for colour in COLOURS if colour != "#000000"]
    return {key: "#000000" if i == 0 else others[(i - 1) % len(others)] for i, key in enumerate(keys)}


def _ticks(least: float, most: float) -> tuple[list[float], list[str]]:
    marks = [m for m in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if least <= m <= most]
    return marks, [f"{mark:g}" for mark in marks]
