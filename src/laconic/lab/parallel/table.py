"""Parallel thinking as tables and a plot: strategies against voting over all traces, at each number of traces."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.cli.tables import MISSING, Column, Table, alone, difference, interval, number, percent, ratio, size
from laconic.lab.shared.figure import NAMES
from laconic.lab.shared.reporting import Report

STRATEGIES = {
    "deepprune": "DeepPrune",
    "deepconf": "DeepConf",
    "priced-vote": "priced vote",
    "judged-vote": "judged vote",
    "adaptive-consistency": "adaptive",
    "dynasor": "Dynasor",
    "parallel-probe": "Parallel-Probe",
    "step": "STEP-like",
}
PHASES = ("explore", "judge", "finish", "vote")


def parallel_tables(report: Report) -> list[Table]:
    """Two tables a number of traces: what the replayed runs say, and, where some were timed, what the live ones do."""
    tables = []
    for n in blocks_of(report):
        rows = [row for row in report["rows"] if row["block"] == n]
        tables.append(_replayed(report, n, rows))
        if any(row["live"] for row in rows):
            tables.append(_live(report, n, rows))
    return tables


def _replayed(report: Report, n: int, rows: Sequence[Report]) -> Table:
    model = report["settings"]["model"]["name"]
    sure = any(row.get("equal_cost_by_confidence") for row in rows)
    by_confidence: list[Column] = [("ties by confidence", "right", 2)] if sure else []
    most, told = max(blocks_of(report)), any(row.get("agrees") for row in rows)
    sure_agrees = any(row.get("agrees_equal_cost_by_confidence") for row in rows)
    agrees: list[Column] = []
    if told:
        agrees = [(f"agrees with all {most}, %", "right", 2), ("to the vote of equal cost", "right", 3)]
        agrees += [("ties by confidence", "right", 3)] if sure_agrees else []
    return Table(
        title=f"n = {n}, replayed: {rows[0]['problems']} problems, {model}, every strategy on the same traces",
        columns=[
            ("strategy", "left"),
            ("KV", "left"),
            ("accuracy, %", "right"),
            (f"to cons@{n}, points", "right", 2),
            ("to the vote of equal cost", "right", 2),
            *by_confidence,
            *agrees,
            ("trace tokens", "right", 5),
            ("judge tokens", "right", 5),
            ("all", "right", 4),
            (f"of cons@{n}, %", "right", 1),
            ("KV-token-steps", "right", 3),
            (f"of cons@{n}, %", "right", 3),
            ("steps", "right", 4),
            (f"of cons@{n}, %", "right", 4),
        ],
        rows=[
            [
                name_of(row),
                compression_name(row["compress"]),
                interval(**row["accuracy"]),
                MISSING if row["difference"] is None else difference(**row["difference"]),
                _to_vote(row, "equal_cost"),
                *([_to_vote(row, "equal_cost_by_confidence")] if sure else []),
                *([_share(row, "agrees"), _to_vote(row, "agrees_equal_cost")] if told else []),
                *([_to_vote(row, "agrees_equal_cost_by_confidence")] if told and sure_agrees else []),
                number(row["trace_tokens"]),
                number(row["judge_tokens"]),
                number(row["total_tokens"]),
                percent(row["token_share"]),
                number(row["kv_token_steps"]),
                percent(row["kv_share"]),
                number(row.get("steps")),
                percent(row.get("step_share")),
            ]
            for row in rows
        ],
        notes=[
            *_orders(report),
            f"cons@{n}: the vote of {n} whole traces with full KV. Differences and shares are to that row.",
            "The vote of equal cost: a plain one of as many whole traces as cost the same tokens, judge included, under the "
            "same compression: between cons@k and cons@(k + 1), the mean over orders of the traces. Ties go to the "
            "answer that was given first.",
            *(
                ["Ties by confidence: to the same vote, whose ties go to the answer of the more confident traces."]
                if sure
                else []
            ),
            *(
                [
                    f"Agrees with all {most}: the answer is the one that most of a problem's {most} traces give (any of "
                    "several; no answer where none gives one), whether right or not: what Blend-ASC and PETS report."
                ]
                if told
                else []
            ),
            "In brackets: 95 % intervals over problems; differences are paired by problem.",
            *alone(rows[0]["problems"]),
            "Tokens and KV-token-steps (tokens attended, summed over steps and rows, one layer): means a problem.",
            "Judge tokens went through a network on the judge's account; steps are those of traces alone.",
            "Steps: of the engine, one after another, however many traces run at once: what a problem's time goes by.",
        ],
    )


def _share(row: Report, name: str) -> str:
    return MISSING if row.get(name) is None else interval(**row[name])


def _to_vote(row: Report, name: str) -> str:
    return MISSING if row.get(name) is None else difference(**row[name])


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
                compression_name(row["compress"]),
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


def name_of(row: Report) -> str:
    """What a row is called where its block and compression are known: `cons@64, early end`, `DeepPrune, probe`."""
    name, comma, rest = row["family"].partition(",")
    if name == "cons":
        return f"cons@{row['n']}{comma}{rest}"
    strategy, colon, settings = name.partition(":")
    return f"{STRATEGIES.get(strategy, strategy)}{' ' if colon else ''}{settings}{comma}{rest}"


def compression_name(label: str) -> str:
    """A compression for people: `full KV`, `RPC c=4`."""
    if label == "none":
        return NAMES["full"]
    name, _, rest = label.partition(":")
    return f"{NAMES.get(name, name)} {rest.replace('ratio=', 'c=').replace(',', ', ')}".strip()


def _orders(report: Report) -> list[str]:
    orders = report["settings"].get("orders", 1)
    return [] if orders == 1 else [f"Votes and strategies: means over {orders:,} orders of each problem's traces."]


def _of(agreement: Report, what: str, total: str) -> str:
    return f"{number(agreement[what])}/{number(agreement[total])}"


def blocks_of(report: Report) -> list[int]:
    return list(dict.fromkeys(row["block"] for row in report["rows"]))
