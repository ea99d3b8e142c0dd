"""Pictures of results (matplotlib, the extra `plots`). They take the same dictionaries that the JSON files hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.files import replacing

# Okabe and Ito's palette, told apart by most colour-blind readers; markers repeat the distinction without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#666666"
NAMES = {
    "full": "full KV",
    "rpc": "RPC",
    "rkv": "R-KV",
    "h2o": "H2O",
    "tova": "TOVA",
    "streamingllm": "StreamingLLM",
    "random": "Random",
    "oracle": "Oracle",
}

Report = Mapping[str, Any]


def available() -> bool:
    """Whether matplotlib is installed."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def accuracy_plot(report: Report, path: str | Path) -> None:
    """pass@1 against mean KV tokens: a line a policy with 95 % bars, full KV as a band across.

    report: an accuracy result (`rows` as `Row.to_json` makes them). Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    baseline = next((row for row in rows if row["family"] == "full"), None)
    with figure(path, 7.6, 5.0) as axes:
        if baseline is not None:
            mean, low, high = (100 * baseline["accuracy"][key] for key in ("mean", "low", "high"))
            axes.axhspan(low, high, color=GREY, alpha=0.13, lw=0)
            axes.axhline(mean, color=GREY, lw=1.3, ls="--", label=f"full KV ({baseline['mean_kv_tokens']:,.0f} tokens)")
        families = _families(rows)
        for index, (family, points) in enumerate(families):
            points = sorted(points, key=lambda row: row["mean_kv_tokens"])
            means = [100 * row["accuracy"]["mean"] for row in points]
            below = [mean - 100 * row["accuracy"]["low"] for mean, row in zip(means, points, strict=True)]
            above = [100 * row["accuracy"]["high"] - mean for mean, row in zip(means, points, strict=True)]
            axes.errorbar(
                [row["mean_kv_tokens"] for row in points],
                means,
                yerr=[below, above],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=_name(family),
                lw=1.6,
                ms=6,
                capsize=3,
                elinewidth=0.9,
                # Budgets are matched, so points share a place: set them a little apart on the page, not in the data.
                transform=_aside(axes, 2.5 * (index - (len(families) - 1) / 2)),
            )
        axes.set_xlabel("mean KV tokens held a trace (one layer, prompt included)")
        axes.set_ylabel("pass@1, %")
        # Points moved aside do not count for matplotlib's own choice of limits.
        places = [row["mean_kv_tokens"] for row in rows if row is not baseline] or [rows[0]["mean_kv_tokens"]]
        margin = 0.06 * (max(places) - min(places)) or 1.0
        axes.set_xlim(min(places) - margin, max(places) + margin)
        axes.set_ylim(0, min(105.0, 5 + max(100 * row["accuracy"]["high"] for row in rows)))
        first = rows[0]
        axes.set_title(
            f"Accuracy against cache size: {first['problems']} problems, {_many(first['samples'], 'sample')} each,"
            " 95 % intervals",
            loc="left",
            fontsize=10,
        )
        _legend(axes)


def throughput_plot(report: Report, path: str | Path) -> None:
    """Tokens a second: a panel a shape and batch, a group of bars a length, ticks where bytes predict them from full
    KV.

    report: a throughput result. Raises InputError without matplotlib or without a single measured row.
    """
    rows = [row for row in report["rows"] if not row["failed"]]
    if not rows:
        raise InputError("The results hold no measured rows to draw")
    panels = list(dict.fromkeys((row["shape"], row["batch"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    width = 0.8 / len(methods)
    with figure(path, 2.4 + 4.0 * len(panels), 4.6, columns=len(panels)) as made:
        for axes, (shape, batch) in zip(made if isinstance(made, list) else [made], panels, strict=True):
            mine = [row for row in rows if (row["shape"], row["batch"]) == (shape, batch)]
            groups = list(dict.fromkeys((row["mode"], row["length"]) for row in mine))
            for index, method in enumerate(methods):
                for row in (row for row in mine if row["method"] == method):
                    place = groups.index((row["mode"], row["length"])) + (index - (len(methods) - 1) / 2) * width
                    speed = row["tokens_per_second"]
                    middle = speed["median"]
                    axes.bar(
                        place,
                        middle,
                        0.92 * width,
                        color=GREY if method == "generate" else COLOURS[(index - 1) % len(COLOURS)],
                        yerr=[[middle - speed["least"]], [speed["most"] - middle]],
                        error_kw={"lw": 0.9, "capsize": 2},
                    )
                    full = next((r for r in mine if r["cell"] == row["cell"] and r["method"] == "full"), None)
                    if full is not None:
                        expected = full["tokens_per_second"]["median"] * row["predicted"]
                        axes.hlines(expected, place - width / 2, place + width / 2, color="black", lw=1.6)
            names = [f"{'at' if mode == 'at' else 'to'} {length:,}" for mode, length in groups]
            axes.set_xticks(range(len(groups)), names)
            axes.set_title(f"{shape}, batch {batch}")
            axes.set_ylabel("tokens a second")
            axes.grid(axis="x", visible=False)
        last = made[-1] if isinstance(made, list) else made
        for index, method in enumerate(methods):
            colour = GREY if method == "generate" else COLOURS[(index - 1) % len(COLOURS)]
            last.bar(0, 0, color=colour, label="plain generate" if method == "generate" else _name(method))
        last.plot([], [], color="black", lw=1.6, label="predicted by bytes")
        _legend(last)


def analysis_plot(report: Report, path: str | Path) -> None:
    """n-gram entropy by length (colour: what made the traces, dashes: n), and redundancy beside it.

    report: an analysis (`groups` as `analyse` makes them). Raises InputError without matplotlib or groups.
    """
    groups = list(report["groups"])
    if not groups:
        raise InputError("The analysis holds no groups to draw")
    dashes = {1: ":", 2: "--", 3: "-"}
    with figure(path, 9.6, 4.4, columns=2) as (left, right):
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            for n, dash in dashes.items():
                points = [(point["length"], _order(point["bits"], n)) for point in group["entropy"]]
                left.plot(
                    [length for length, _ in points],
                    [bits for _, bits in points],
                    dash,
                    color=colour,
                    marker=MARKERS[index % len(MARKERS)],
                    ms=4.5,
                    label=_name(group["group"]) if n == 3 else None,
                )
            rate = group["redundancy"]
            if rate is not None:
                mean = 100 * rate["mean"]
                errors = [[mean - 100 * rate["low"]], [100 * rate["high"] - mean]]
                right.bar(index, mean, 0.7, color=colour, yerr=errors, error_kw={"lw": 0.9, "capsize": 3})
        for n, dash in dashes.items():
            left.plot([], [], dash, color=GREY, label=f"{n}-grams")
        lengths = sorted({point["length"] for group in groups for point in group["entropy"]})
        if lengths:
            left.set_xscale("log", base=2)
            left.set_xticks(lengths, [f"{length:,}" for length in lengths])
        left.set_xlabel("first tokens of a trace")
        left.set_ylabel("entropy, bits")
        left.set_title("n-gram entropy of token ids")
        left.legend(frameon=False, fontsize=8)
        right.set_xticks(range(len(groups)), [_folded(_name(group["group"])) for group in groups], fontsize=8)
        right.set_ylabel("redundant spans, %")
        right.set_ylim(0, 100)
        right.set_title(f"Spans like an earlier one (cosine > {groups[0]['threshold']:g}, {groups[0]['embedder']})")
        right.grid(axis="x", visible=False)


def _order(values: Mapping[Any, float], n: int) -> float:
    """JSON turns the orders into strings; both are read."""
    return values[n] if n in values else values[str(n)]


def _families(rows: Sequence[Report]) -> list[tuple[str, list[Report]]]:
    found: dict[str, list[Report]] = {}
    for row in rows:
        if row["family"] != "full":
            found.setdefault(row["family"], []).append(row)
    return list(found.items())


def _name(family: str) -> str:
    name, colon, rest = family.partition(":")
    return f"{NAMES.get(name, name)}{' ' if colon else ''}{rest.replace(',', ', ')}"


def _folded(name: str) -> str:
    """A name with its settings below it, one a line."""
    return "\n".join(re.split(r", | (?=\S+=)", name))


def _aside(axes: Any, points: float) -> Any:
    """The data's own transform, moved to the right by so many points of the page."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


@contextmanager
def figure(path: str | Path, width: float, height: float, columns: int = 1) -> Iterator[Any]:
    """Axes (one, or a list of `columns`) of a figure that is written to `path` afterwards. Opens no window."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Plots need matplotlib: install laconic[plots], or ask for no plot (--no-plot)") from error
    # Not pyplot: that keeps global state and picks a window system.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(1, columns, squeeze=False)[0]
    for axes in made:
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    yield made[0] if columns == 1 else list(made)
    path = Path(path)
    try:
        replacing(path, figure.savefig)
    except ValueError as error:  # an ending that matplotlib does not know
        raise InputError(f"The plot can't be written to {path}: {error}") from error
