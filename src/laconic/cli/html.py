"""A trace as one self-contained web page: every token shaded by how much of the model still holds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from string import Template

from torch import Tensor

from laconic.errors import InputError

STEPS = 20  # shades between "no layer holds it" and "all do"; finer differences can't be seen
CHART = (640, 150)  # units of the drawing, not pixels: it scales with the page


@dataclass(frozen=True)
class TracePage:
    """What a page shows.

    prompt: as the model read it, prompt_tokens long. pieces: the text of each generated token, in order. held: bool
    [compressible layers, groups, generated tokens], what each layer holds at the end. layers: the numbers of those
    layers in the model; None counts from 0. compressions: counts of generated tokens at which the trace was
    compressed. kv_tokens: tokens of KV held (prompt included) when each generated token was drawn, its own not yet
    among them. facts: (name, value) pairs of the summary. verdict: the answer in words; right: whether it is right,
    None if unknown.

    Raises InputError where the lengths don't agree.
    """

    title: str
    prompt: str
    prompt_tokens: int
    pieces: Sequence[str]
    held: Tensor
    compressions: Sequence[int]
    kv_tokens: Sequence[int]
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)
    layers: Sequence[int] | None = None
    verdict: str = ""
    right: bool | None = None

    def __post_init__(self) -> None:
        count = len(self.pieces)
        if self.held.ndim != 3 or self.held.shape[2] != count:
            raise InputError(
                f"TracePage.held has the shape {tuple(self.held.shape)}; expected [layers, groups, {count} tokens]"
            )
        if len(self.kv_tokens) != count:
            raise InputError(f"TracePage.kv_tokens has {len(self.kv_tokens)} counts; expected {count}, one a token")
        if self.layers is not None and len(self.layers) != self.held.shape[0]:
            raise InputError(f"TracePage.layers has {len(self.layers)} numbers; expected {self.held.shape[0]}")
        for at in self.compressions:
            if not 1 <= at <= count:
                raise InputError(f"TracePage.compressions has {at}; expected counts from 1 to {count}")

    @property
    def shares(self) -> list[float]:
        """For each token, the share of (layer, group) pairs that hold it: 0 to 1."""
        if self.held.shape[0] == 0:
            return [1.0] * len(self.pieces)
        shares: list[float] = self.held.float().mean(dim=(0, 1)).tolist()
        return shares


def render(page: TracePage) -> str:
    """The page as HTML: no scripts, fonts or images from elsewhere; readable without scripts but for the details."""
    template = Template(resources.files("laconic.cli").joinpath("templates/trace.html").read_text(encoding="utf-8"))
    shares = page.shares
    kept = sum(share > 0 for share in shares)
    return template.substitute(
        title=escape(page.title),
        heading=_breakable(page.title),
        verdict=_verdict(page),
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{_breakable(v)}</dd></div>" for k, v in page.facts),
        chart=_chart(page),
        shades=_shades(),
        legend=_legend(page.held.shape[0], page.held.shape[1]),
        prompt=escape(page.prompt),
        prompt_tokens=f"{page.prompt_tokens:,}",
        trace=_trace(page, shares),
        counts=f"{kept:,} of {len(shares):,} generated tokens are still held somewhere at the end",
        data=_data(page),
    )


def _breakable(text: str) -> str:
    """A long policy may break after its commas rather than anywhere."""
    return escape(text).replace(",", ",<wbr>")


def _verdict(page: TracePage) -> str:
    if not page.verdict:
        return ""
    kind = {True: "right", False: "wrong", None: "unknown"}[page.right]
    mark = {True: "✓ ", False: "✗ ", None: ""}[page.right]
    return f'<p class="verdict {kind}">{mark}{escape(page.verdict)}</p>'


def _shades() -> str:
    """One rule a shade. A token that no layer holds gets no tint and a paler ink."""
    return "\n".join(f".s{i}{{--s:{i / STEPS:.2f}}}" for i in range(1, STEPS + 1))


def _shade(share: float) -> int:
    """0 only for none and STEPS only for all: rounding must not hide that a layer still holds a token."""
    if share <= 0:
        return 0
    if share >= 1:
        return STEPS
    return min(max(round(share * STEPS), 1), STEPS - 1)


def _legend(layers: int, groups: int) -> str:
    places = layers * groups
    word = "layers" if groups == 1 else "layers × KV heads"
    levels = range(places + 1) if 0 < places <= 8 else (0, places // 4, places // 2, 3 * places // 4, places)
    swatches = []
    for level in sorted(set(levels)):
        share = level / places if places else 1.0
        label = "none" if level == 0 else f"all {places}" if level == places else str(level)
        swatches.append(f'<span class="t s{_shade(share)}">{label}</span>')
    return f'held by {"".join(swatches)} {word}, <b class="c">1</b> a compression'


def _trace(page: TracePage, shares: list[float]) -> str:
    """A span a token; runs of white space keep their line breaks by the page's style."""
    number = {at: i for i, at in enumerate(page.compressions, 1)}
    parts = []
    for i, (piece, share) in enumerate(zip(page.pieces, shares, strict=True)):
        parts.append(f'<span class="t s{_shade(share)}">{escape(piece) if piece else "·"}</span>')
        if i + 1 in number:
            parts.append(f'<b class="c">{number[i + 1]}</b>')
    return "".join(parts)


def _data(page: TracePage) -> str:
    """What the details of a token need, as JSON: its layers by a table of patterns, as most tokens share a few."""
    counts = page.held.sum(dim=1).T.tolist()  # [tokens][layers]: groups that hold it
    patterns: dict[tuple[int, ...], int] = {}
    index = [patterns.setdefault(tuple(row), len(patterns)) for row in counts]
    data = {
        "layers": list(page.layers) if page.layers is not None else list(range(page.held.shape[0])),
        "groups": page.held.shape[1],
        "patterns": [list(pattern) for pattern in patterns],
        "of": index,
        "compressions": list(page.compressions),
        "kv": list(page.kv_tokens),
        "prompt": page.prompt_tokens,
    }
    # "</script>" or "<!--" in a string would end the block that holds it, whatever JSON says.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _chart(page: TracePage) -> str:
    """Tokens written against tokens held, over the trace: two lines from the prompt on."""
    count = len(page.pieces)
    if count < 2:
        return ""
    width, height = CHART
    logical = [page.prompt_tokens + i for i in range(count)]
    top = max(logical[-1], *page.kv_tokens)

    def points(values: Sequence[int]) -> str:
        bends = [
            i for i in range(count) if i in (0, count - 1) or values[i] - values[i - 1] != values[i + 1] - values[i]
        ]
        return " ".join(f"{i / (count - 1) * width:.1f},{height - values[i] / top * height:.1f}" for i in bends)

    label = f"{page.kv_tokens[-1]:,} tokens held at the end, {logical[-1]:,} written"
    return (
        f'<figure><svg viewBox="-2 -6 {width + 4} {height + 10}" role="img" aria-label="{label}">'
        f'<line class="axis" x1="0" y1="{height}" x2="{width}" y2="{height}"/>'
        f'<polyline class="full" points="{points(logical)}"/><polyline class="kept" points="{points(page.kv_tokens)}"/>'
        f'</svg><figcaption><span class="key full"></span> written <b>{logical[-1]:,}</b> '
        f'<span class="key kept"></span> held <b>{page.kv_tokens[-1]:,}</b> '
        f'<span class="note">KV tokens of one layer, prompt included, over {count:,} generated tokens</span>'
        "</figcaption></figure>"
    )
