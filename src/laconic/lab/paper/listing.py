"""A paper's cells as a script: a comment that says what a cell is and takes, and the commands that fill it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from laconic.cli.tables import number
from laconic.lab.paper.cells import HARNESSES, AccuracyCell, Cell, JudgeCell, Paper, SpeedCell, TracesCell, VotesCell
from laconic.lab.paper.commands import RunChoices, commands, lacking, shown
from laconic.lab.paper.deepprune import CONS, NAMES
from laconic.lab.paper.hours import HOW, CellCost, estimate
from laconic.lab.paper.rpc import FULL

WIDTH = 118


def listed(
    cells: Sequence[Cell], how: RunChoices, rate: float | None, lengths: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Each cell as JSON values: name, settings, published, tokens, hours (None where not estimated), at_most, lacks, commands.
    lengths: full KV's mean length, by the place of the cells where it is known."""
    found = []
    for cell in cells:
        told, length = estimate(cell, how, rate), lengths.get(cell.place)
        found.append(
            {
                "cell": cell.name,
                "settings": settings_of(cell),
                "published": published(cell),
                "tokens": None if told is None else told.tokens,
                "gpu_hours": None if told is None else told.hours,
                "at_most": told is not None and told.bound,
                "lacks": lacking(cell, how, length),
                "commands": [shown(command) for command in commands(cell, how, length)],
            }
        )
    return found


def script(paper: Paper, cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines that are printed: a shell can run them."""
    yield f"# {paper.cited}: {len(cells)} cells, and what fills each. One alone: laconic bench paper {paper.name} --run CELL"
    for text in (*HOW, *paper.choices):
        yield from _comment(text)
    for cell in cells:
        yield ""
        yield f"# {cell['cell']}: published {cell['published']}"
        told = CellCost(cell["tokens"], cell["gpu_hours"], cell["at_most"]) if cell["tokens"] is not None else None
        yield from _comment(f"{cell['settings']}; {cost(told)}")
        if cell["lacks"]:
            yield from _comment(f"no command: {cell['lacks']}")
        yield from cell["commands"]
    known = [cell for cell in cells if cell["gpu_hours"] is not None]
    bound = "at most " if any(cell["at_most"] for cell in known) else ""
    yield ""
    yield (
        f"# In all {bound}{number(sum(cell['gpu_hours'] for cell in known))} GPU hours for the {len(known)} cells that are "
        "estimated"
    )


def cost(told: CellCost | None) -> str:
    """Tokens and hours, for people."""
    if told is None:
        return "hours not estimated"
    bound = "at most " if told.bound else "about "
    return f"{bound}{told.tokens / 1e6:,.1f} M tokens, {number(told.hours, 1)} GPU hours"


def published(cell: Cell) -> str:
    """The figures of a cell, on one line."""
    match cell:
        case AccuracyCell():
            return f"pass@1 {cell.published} %"
        case VotesCell():
            told = [(name, each) for name, each in cell.published.items() if each.accuracy is not None]
            return "; ".join(
                f"{_short(name, cell.benchmark.samples)} {each.accuracy} % with {each.tokens}e8 tokens"
                for name, each in told
            )
        case SpeedCell():
            return "; ".join(f"{_method(name)} {_speed(each)}" for name, each in cell.published.items() if _speed(each))
        case TracesCell():
            return "no figure of its own"
        case JudgeCell():
            auroc, tnr = cell.published
            return f"AUROC {auroc}" + ("" if tnr is None else f", TNR at FNR 0.2 {tnr}")


def settings_of(cell: Cell) -> str:
    """What is run, on one line."""
    match cell:
        case SpeedCell():
            return f"{cell.shape}, random weights, {cell.batch} rows, {cell.prompt} tokens in, {cell.length:,} out"
        case JudgeCell():
            models = ", ".join(traces.model.name for traces in cell.read)
            trained = f"{cell.base} trained on {cell.trained.model.name}" if cell.trained else cell.judge
            return f"{trained}, excerpts {cell.excerpt}, scored on {models}"
    model, benchmark = cell.model, cell.benchmark
    names = ("temperature", "top_p", "top_k", "max_new_tokens")
    known = [f"{name} {getattr(model, name)}" for name in names if getattr(model, name) is not None]
    parts = [f"{model.hub} on {benchmark.name}, {benchmark.problems} problems x {benchmark.samples}", *known]
    if isinstance(cell, AccuracyCell) and cell.policy:
        parts.append(
            f"policy {cell.policy}" + (f" with {100 * cell.share:g} % of full KV's mean length" if cell.share else "")
        )
    if benchmark.harness:
        parts.append(f"scored by {HARNESSES[benchmark.harness]} ({benchmark.note})")
    return ", ".join(parts)


def _short(strategy: str, n: int) -> str:
    return f"cons@{n}" if strategy == CONS else NAMES[strategy]


def _method(policy: str) -> str:
    return "full KV" if policy == FULL else policy


def _speed(each: Any) -> str:
    if each.out_of_memory:
        return "out of memory"
    told = []
    if each.tokens_per_second is not None:
        told.append(f"{each.tokens_per_second} tok/s, {each.gigabytes} GB")
    if each.to_full is not None:
        told.append(f"{each.to_full:.2f}x full KV")
    return ", ".join(told)


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"#   {line}"
