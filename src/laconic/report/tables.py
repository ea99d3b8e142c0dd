"""Tables of results, once for the terminal (rich) and once for a file (Markdown), from the same cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from laconic.errors import LaconicError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Table:
    """columns: (title, alignment). rows: cells as text, one a column. notes: sentences that stand below."""

    title: str
    columns: Sequence[tuple[str, Align]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for title, align in self.columns:
            if align not in ("left", "right"):
                raise LaconicError(f"The alignment of column {title!r} is {align!r}; expected left or right.")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise LaconicError(f"The row {list(row)!r} has {len(row)} cells; expected {len(self.columns)}.")

    def markdown(self) -> str:
        """The table as GitHub-flavoured Markdown, padded so that it reads as plain text too."""
        titles = [_escape(title) for title, _ in self.columns]
        rows = [[_escape(cell) for cell in row] for row in self.rows]
        widths = [max(3, *(len(row[i]) for row in [titles, *rows])) for i in range(len(titles))]
        aligns = [align for _, align in self.columns]
        rule = ["-" * (w - 1) + ":" if align == "right" else "-" * w for w, align in zip(widths, aligns, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [
                cell.rjust(width) if align == "right" else cell.ljust(width)
                for cell, width, align in zip(cells, widths, aligns, strict=True)
            ]
            return "| " + " | ".join(padded) + " |"

        parts = [f"**{self.title}**", "", line(titles), line(rule), *(line(row) for row in rows)]
        if self.notes:
            parts += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(parts) + "\n"

    def rich(self) -> RichTable:
        """The table for a rich console."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        caption = "\n".join(escape(note) for note in self.notes) or None
        table = RichTable(title=escape(self.title), caption=caption, title_justify="left", caption_justify="left")
        for title, align in self.columns:
            # Names are what a row is found by, so a narrow terminal folds the figures instead.
            table.add_column(escape(title), justify=align, no_wrap=align == "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in row))
        return table


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


MISSING = "–"


def number(value: float | None, digits: int = 0) -> str:
    """A count or a figure with thousands separated; a dash for None or not a number."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 as per cent, without the sign."""
    return MISSING if share is None else number(100 * share, digits)


def interval(mean: float, low: float, high: float) -> str:
    """A share and its interval in per cent, `71.5 [65.0, 77.5]`."""
    return f"{percent(mean)} [{percent(low)}, {percent(high)}]"


def difference(mean: float, low: float, high: float) -> str:
    """A difference of shares and its interval in points, signed: `-3.5 [-8.0, +1.0]`."""
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def size(count: float | None) -> str:
    """Bytes in the binary unit that fits: `1.50 MiB`."""
    if count is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def ratio(value: float | None) -> str:
    """A speed-up: `1.68x`."""
    return MISSING if value is None else f"{value:.2f}x"
