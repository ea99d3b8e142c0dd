"""Pictures of results (matplotlib, the extra `plots`). They take the same dictionaries that the JSON files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.files import replace_file

# Okabe and Ito's palette, told apart by most colour-blind readers; markers repeat the distinction without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "*",
    "<",
    ">",
    "h",
)  # as many as share no factor with the colours: 88 pairs
GREY = "#666666"
SIZES = ("interval", "ratio", "window", "budget", "buffer", "compression_ratio")
"""Settings of a cache's size and of when it is compressed."""
NAMES = {
    "full": "full KV",
    "rpc": "RPC",
    "rkv": "R-KV",
    "h2o": "H2O",
    "tova": "TOVA",
    "streamingllm": "StreamingLLM",
    "expectedattention": "Expected Attention",
    "kvzap": "KVzap",
    "vase": "VaSE",
    "randomattention": "Random Attention",
    "random": "Random",
    "oracle": "Oracle",
    "hindsight": "Hindsight",
}


def available() -> bool:
    """Whether matplotlib is installed."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def policy_name(family: str) -> str:
    """A policy's name or spec for people: `RPC`, `RPC ratio=4`."""
    name, colon, rest = family.partition(":")
    return f"{NAMES.get(name, name)}{' ' if colon else ''}{rest.replace(',', ', ')}"


def count_of(count: int, word: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def legend_beside(axes: Any) -> None:
    """The legend at the right of the axes, outside of them."""
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def aside(axes: Any, points: float) -> Any:
    """The data's own transform, moved to the right by so many points of the page, for what shares a place with others."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def is_one_size(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all compressed caches have one ratio, or none, and differ by less than 15 % of the largest of them. Rows of
    several ratios are several sizes, however little a ratio changes."""
    compressed = [row for row in rows if row["family"] != "full"]
    places = [row["mean_kv_tokens"] for row in compressed or rows]
    return len({row.get("ratio") for row in compressed} - {None}) < 2 and max(places) - min(places) < 0.15 * max(places)


def sizes_label(rows: Sequence[Mapping[str, Any]]) -> str:
    """What all rows' caches hold, for a plot whose axis doesn't say it: `every cache: 171 to 174 tokens on average`."""
    held = {round(row["mean_kv_tokens"]) for row in rows}
    return (
        f"every cache: {min(held):,}{f' to {max(held):,}' if len(held) > 1 else ''} tokens on average, prompt included"
    )


def family_of(row: Mapping[str, Any]) -> str:
    """A row's policy as it was asked for; `learned` always says its `fading`, which is 0 in rows recorded before specs did."""
    family, spec = str(row["family"]), str(row.get("policy") or "")
    name, _, rest = family.partition(":")
    if name != "learned" or not spec.startswith("learned:"):
        return family
    settings = dict(part.split("=", 1) for part in spec.partition(":")[2].split(",") if "=" in part)
    said = [part for part in rest.split(",") if part and not part.startswith("fading=")]
    fading = float(settings.get("fading", 0))
    return f"learned:{','.join([*said, f'fading={fading:g}'])}"


def names_at_one_size(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows of one cache size are called: the policy, and settings other than the cache's size and its schedule; these
    too where names would be alike otherwise."""
    families = [family_of(row) for row in rows]
    short = []
    for family in families:
        name, _, rest = family.partition(":")
        said = ",".join(part for part in rest.split(",") if part and part.partition("=")[0] not in SIZES)
        short.append(f"{name}:{said}" if said else name)
    return [policy_name(own if short.count(own) == 1 else family) for own, family in zip(short, families, strict=True)]


def draw_ranked(axes: Any, entries: Sequence[tuple[str, float, float, float, Mapping[str, Any]]]) -> None:
    """(name, mean, low, high, style) each: a line a name, in the order given from the top, its mean with the interval's bar.

    For rows that share one cache size: names on the axis, so that no distance between marks can be read as a size."""
    for place, (_, mean, low, high, style) in enumerate(entries):
        axes.errorbar(
            mean, place, xerr=[[mean - low], [high - mean]], **{"ms": 6, "capsize": 3, "elinewidth": 1.2, **style}
        )
    axes.set_yticks(range(len(entries)), [name for name, *_ in entries])
    axes.set_ylim(max(len(entries), 1) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


KV_LABEL = "mean KV tokens held a trace (one layer, prompt included)"
"""What the axis of cache sizes is called."""


def set_x_limits(axes: Any, places: Sequence[float]) -> None:
    """Around the data: what is moved aside does not count for matplotlib's own choice."""
    margin = 0.06 * (max(places) - min(places)) or 1.0
    axes.set_xlim(min(places) - margin, max(places) + margin)


@contextmanager
def figure(path: str | Path, width: float, height: float, columns: int = 1) -> Iterator[list[Any]]:
    """The axes, one a column, of a figure (inches) that is written to `path` afterwards. Opens no window.

    Raises InputError without matplotlib, or for a path whose ending matplotlib does not know.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Plots need matplotlib: install laconic-llm[plots], or ask for no plot (--no-plot)") from error
    path = Path(path)
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise InputError(f"The plot can't be written to {path}: expected an ending such as .png or .svg")
    # Not pyplot: that keeps global state and picks a window system.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    yield panels
    replace_file(path, figure.savefig)
