"""`bench vllm` as a table and a plot: stock against policies at several sizes of the KV cache."""

from __future__ import annotations

from laconic.cli.tables import MISSING, Table, number, percent, ratio, size
from laconic.lab.shared.figure import NAMES
from laconic.lab.shared.reporting import Report

STOCK = "stock"


def vllm_table(report: Report) -> Table:
    """A row a cache size and contender; why one has no figures, or fewer repeats than the others, stands in its place."""
    settings = report["settings"]
    rows: list[list[str]] = []
    share = None
    for row in report["rows"]:
        if row["cache"] != share:
            share = row["cache"]
            rows.append([f"{100 * share:g} %: {number(row['blocks'])} blocks, {size(row['bytes'])}", *[""] * 12])
        name = "  " + name_of(row["contender"])
        if not row["repeats"]:
            # The reason is too long for a cell; it stands below the table.
            rows.append([f"{name}: {'refused' if row['refused'] else 'failed'}", *[MISSING] * 12])
            continue
        speed, wait = row["tokens_per_second"], row["first_token"]
        rows.append(
            [
                name if row["failed"] is None else f"{name} ({row['repeats']} of {settings['repeats']} repeats)",
                number(speed["median"]),
                f"{number(speed['least'])}-{number(speed['most'])}",
                ratio(row["to_stock"]["median"] if row["to_stock"] else None),
                percent(row["cpu_share"], 0),
                number(row["steps"]),
                number(row["mean_running"], 1),
                number(row["preemptions"]),
                f"{number(wait['median'], 2)} / {number(wait['p90'], 2)}",
                number(row["peak_blocks"]),
                size(row["memory"]),
                number(row["compressions"]),
                number(row["evicted"]),
            ]
        )
    model = settings["model"]
    threads = settings["threads"]
    return Table(
        title=f"vLLM {settings['vllm']}, {model['name']}, {model['dtype']}: {settings['requests']} requests of "
        f"{number(settings['prompt'])} + {number(settings['output'])} tokens at once, {_machine(report)}, "
        f"{threads} thread{'s' if threads > 1 else ''}",
        columns=[
            ("KV cache", "left"),
            ("tok/s", "right"),
            ("range", "right", 4),
            ("to stock", "right", 1),
            ("CPU, %", "right", 6),
            ("steps", "right", 5),
            ("running", "right", 3),
            ("preempted", "right", 2),
            ("first token, s", "right", 2),
            ("peak blocks", "right", 4),
            ("memory", "right", 1),
            ("compressed", "right", 6),
            ("evicted", "right", 5),
        ],
        rows=rows,
        notes=[
            f"Medians of {settings['repeats']} interleaved repeats; to stock: ratios within a repeat.",
            "CPU: time that the engine's process got, of the run's; one thread on a quiet CPU gets 100 %.",
            f"KV cache, % of demand: full KV takes {number(settings['demand_blocks'])} blocks of {settings['block']} tokens "
            "for all requests at their full length at once.",
            "Running: requests, mean over steps. First token: seconds until half of the requests have theirs, and 90 %.",
            "Memory: of the most blocks that were taken, and of what the policy keeps beside them.",
            "Compressed: times, over all requests. Evicted: tokens of one layer. What is preempted does it again.",
            *(
                f"{name_of(c)}: {spec}; {_beside(report, c)} beside the KV cache."
                for c, spec in settings["contenders"].items()
                if c != STOCK
            ),
            *(
                f"{name_of(row['contender'])} at {100 * row['cache']:g} %: {row['failed']}"
                for row in report["rows"]
                if row["failed"] is not None
            ),
        ],
    )


def _beside(report: Report, label: str) -> str:
    queries, networks = report["rings"].get(label), report.get("selectors", {}).get(label, 0)
    return f"{size(queries)} of latest queries" + (f" and {size(networks)} of a selector" if networks else "")


def name_of(label: str) -> str:
    """A contender for people: `stock vLLM`, `RPC c=4`."""
    if label == STOCK:
        return "stock vLLM"
    family = next((name for name in NAMES if label == name or label.startswith((f"{name} ", f"{name}:"))), None)
    return label if family is None else NAMES[family] + label[len(family) :].replace(":", " ")


def _machine(report: Report) -> str:
    gpus = report["machine"]["gpus"]
    return gpus[0]["name"] if gpus else report["machine"]["cpu"]
