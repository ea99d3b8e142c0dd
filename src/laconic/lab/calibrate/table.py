"""A calibration for people: what each strategy cost and brought, and what a budget would buy."""

from __future__ import annotations

from laconic.cli.tables import MISSING, Table, alone, difference
from laconic.prune.budget import PoolBudget
from laconic.prune.calibration import CalibratedRow, Calibration

BUDGETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


def calibration_table(made: Calibration) -> Table:
    """A row for each strategy by its cost; the last column names the budgets that buy it."""
    bought: dict[CalibratedRow, list[str]] = {}
    for budget in (PoolBudget(traces=traces) for traces in BUDGETS if traces <= made.samples):
        bought.setdefault(made.choose(budget), []).append(f"{budget.traces:g}x")
    rows = [
        [
            f"{row.strategy}, n = {row.n}",
            f"{row.traces:.1f}",
            f"{row.traces * made.mean_tokens:,.0f}",
            f"{100 * row.accuracy:.1f}",
            MISSING
            if row.gain is None or row.low is None or row.high is None
            else difference(row.gain, row.low, row.high),
            ", ".join(bought.get(row, [])),
        ]
        for row in sorted(made.rows, key=lambda row: (row.traces, row.strategy))
    ]
    return Table(
        title=f"Calibration: {made.problems} problems, {made.model}, {made.samples} recorded traces of each",
        columns=[
            ("strategy", "left"),
            ("traces", "right"),
            ("tokens", "right", 2),
            ("accuracy, %", "right"),
            ("to the vote of equal cost", "right", 1),
            ("bought by", "left"),
        ],
        rows=rows,
        notes=[
            "Traces and tokens: what a problem cost on average. Bought by: budgets for which auto takes this strategy.",
            "The vote of equal cost: between the plain ones of this table, ties broken as theirs.",
            "Brackets: 95 % intervals over problems, paired; a difference that spans 0 is no finding.",
            *alone(made.problems),
        ],
    )
