"""Tables of results, once for the terminal (rich) and once for a file (Markdown), from the same cells."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from laconic.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text

Align = Literal["left", "right"]
Column = tuple[str, Align] | tuple[str, Align, int]
GAP = 2  # cells between two columns


@dataclass(frozen=True)
class Table:
    """columns: (title, alignment), or (title, alignment, rank): where a terminal is too narrow, the columns of the highest
    rank are left out first, and those of rank 0 (the default) never. rows: cells as text, one a column; a row with nothing
    but its first cell is a heading of those below, and as long as it likes. notes: sentences that stand below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for title, align, *_ in self.columns:
            if align not in ("left", "right"):
                raise InputError(f"The alignment of column {title!r} is {align!r}; expected left or right")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"The row {list(row)!r} has {len(row)} cells; expected {len(self.columns)}")

    @property
    def titles(self) -> list[str]:
        return [column[0] for column in self.columns]

    @property
    def aligns(self) -> list[Align]:
        return [column[1] for column in self.columns]

    @property
    def ranks(self) -> list[int]:
        return [column[2] if len(column) == 3 else 0 for column in self.columns]

    def markdown(self) -> str:
        """The table as GitHub-flavoured Markdown, padded so that it reads as plain text too."""
        titles = [_escape(title) for title in self.titles]
        rows = [[_escape(cell) for cell in row] for row in self.rows]
        widths = [max(3, *(len(row[i]) for row in [titles, *rows])) for i in range(len(titles))]
        aligns = self.aligns
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

    def rich(self, width: int | None = None, elsewhere: str = "A wider terminal shows them.") -> Text:
        """The table for a rich console of `width` cells, None for no limit.

        No cell is ever broken: a narrow terminal gets wrapped titles, then fewer columns (a note names those left out, and
        says `elsewhere`, where they are), then, where not even those of rank 0 fit, a block of lines for each row.
        """
        from rich.text import Text

        shown = self._fitting(width)
        notes = list(self.notes)
        if shown is None:
            body = self._blocks()
        else:
            body = self._lines(shown, width)
            hidden = [title for i, title in enumerate(self.titles) if i not in shown]
            if hidden:
                notes.append(f"Left out for want of room: {'; '.join(hidden)}. {elsewhere}")
        parts = [Text(self.title, style="italic"), *body, *(Text(note, style="dim italic") for note in notes)]
        return Text("\n").join(parts)

    def _headings(self) -> list[bool]:
        """For each row, whether it is a heading of those below."""
        return [len(row) > 1 and not any(row[1:]) for row in self.rows]

    def _widths(self, whole_titles: bool) -> list[int]:
        """What each column takes: its widest cell, and its title or the longest word of that."""
        from rich.cells import cell_len

        cells = [row for row, heading in zip(self.rows, self._headings(), strict=True) if not heading]
        return [
            max(cell_len(text) for text in [*([title] if whole_titles else title.split()), *(row[i] for row in cells)])
            for i, title in enumerate(self.titles)
        ]

    def _fitting(self, width: int | None) -> list[int] | None:
        """Which columns fit into `width` cells; None if too few do."""
        shown = list(range(len(self.columns)))
        ranks, widths = self.ranks, self._widths(whole_titles=False)
        while width is not None and sum(widths[i] + GAP for i in shown) - GAP > width:
            last = max(shown, key=lambda i: (ranks[i], i))
            if ranks[last] == 0:
                return None
            shown.remove(last)
        return shown

    def _lines(self, shown: Sequence[int], width: int | None) -> list[Text]:
        from rich.text import Text

        widths = self._widths(whole_titles=True)
        if width is not None and sum(widths[i] + GAP for i in shown) - GAP > width:
            widths = self._widths(whole_titles=False)
        aligns = self.aligns

        def line(cells: Sequence[str], style: str = "") -> Text:
            padded = [_padded(cell, widths[i], aligns[i]) for cell, i in zip(cells, shown, strict=True)]
            return Text((" " * GAP).join(padded).rstrip(), style=style)

        titles = [_wrapped(self.titles[i], widths[i]) for i in shown]
        height = max(map(len, titles))
        heads = [[""] * (height - len(words)) + words for words in titles]
        lines = [line(cells, "bold") for cells in zip(*heads, strict=True)]
        lines.append(Text("─" * (sum(widths[i] + GAP for i in shown) - GAP), style="dim"))
        for row, heading in zip(self.rows, self._headings(), strict=True):
            lines.append(Text(row[0], style="bold") if heading else line([row[i] for i in shown]))
        return lines

    def _blocks(self) -> list[Text]:
        """A row a block: its name, and a line for each of its figures."""
        from rich.cells import cell_len
        from rich.text import Text

        room = max(map(cell_len, self.titles)) + GAP
        lines = []
        for row, heading in zip(self.rows, self._headings(), strict=True):
            lines.append(Text(row[0].strip() if not heading else row[0], style="bold"))
            if not heading:
                pairs = list(zip(self.titles, row, strict=True))[1:]
                lines += [Text.assemble("  ", (_padded(title, room, "left"), "dim"), cell) for title, cell in pairs]
        return lines


def _padded(text: str, width: int, align: Align) -> str:
    from rich.cells import cell_len

    space = " " * (width - cell_len(text))
    return space + text if align == "right" else text + space


def _wrapped(title: str, width: int) -> list[str]:
    """A title in lines of at most `width` cells, which is no less than its longest word."""
    from rich.cells import cell_len

    lines: list[str] = []
    for word in title.split():
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


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


def alone(problems: int) -> list[str]:
    """The note on the interval of a single problem; empty for several."""
    return ["One problem tells nothing of others: its interval is all that is possible."] if problems == 1 else []


def interval(mean: float, low: float | None, high: float | None) -> str:
    """A share and its interval in per cent, `71.5 [65.0, 77.5]`; dashes for ends that can't be told."""
    return f"{percent(mean)} [{percent(low)}, {percent(high)}]"


def difference(mean: float, low: float | None, high: float | None) -> str:
    """A difference of shares and its interval in points, signed: `-3.5 [-8.0, +1.0]`; dashes for ends that can't be told."""
    ends = (MISSING if end is None or math.isnan(end) else f"{100 * end:+.1f}" for end in (low, high))
    return f"{100 * mean:+.1f} [{', '.join(ends)}]"


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


def print_tables(tables: Sequence[Table], elsewhere: str = "A wider terminal shows them.") -> None:
    """Tables on stdout, each as wide as the terminal allows. elsewhere: says where columns are that find no room."""
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe or a file has no width to keep to, unless one is asked for.
    bound = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(table.rich(console.width if bound else None, elsewhere), soft_wrap=not bound)
