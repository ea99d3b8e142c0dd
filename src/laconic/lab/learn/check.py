"""Whether a selector is any good: KL to full KV on traces that it has not learned from, beside other policies.

All scorers are on RPC's schedule, so that caches are equal at every moment. What the traces don't show is not claimed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from laconic.compress import Learned
from laconic.engines.hf.facts import HFModelInfo
from laconic.journal import Journal
from laconic.lab.fidelity.contenders import contenders
from laconic.lab.fidelity.rows import FidelityRow, TokenValues
from laconic.lab.fidelity.run import FORMAT, may_grow, run_fidelity, settings
from laconic.lab.fidelity.traces import ForcedTrace
from laconic.lab.shared.policies import ComparedPolicy
from laconic.lab.shared.progress import Watcher
from laconic.selectors import read_selector
from laconic.statistics import Interval, paired_difference
from laconic.traces import TraceRecord

RATIO = 4
RIVALS = ("rpc", "rkv", "random")
"""What a selector has to beat to be worth its file."""
CEILING = "hindsight"
LEARNED = "learned"
SHORTEST, LONGEST = 32, 4096
"""Intervals that are chosen here."""


@dataclass(frozen=True, slots=True)
class CheckCell:
    """The schedule that a check is made on."""

    interval: int
    window: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> CheckCell:
        """One that compresses a trace of the median length about four times."""
        middle = sorted(lengths)[len(lengths) // 2]
        interval = 1 << max(0, int(math.log2(max(1, middle // 4))))
        interval = min(LONGEST, max(SHORTEST, interval))
        return cls(interval, min(32, interval // 4))

    def compresses(self, length: int) -> bool:
        """Whether a trace so long is compressed while tokens are still to come."""
        return length > self.interval + self.window + 1


@dataclass(frozen=True, slots=True)
class SelectorCheck:
    """What a check showed."""

    cell: CheckCell
    traces: int
    rows: Mapping[str, FidelityRow]
    """By policy."""
    differences: Mapping[str, Interval]
    """KL of the selector less that of each rival, on the same traces, with 95 % intervals over problems."""

    @property
    def not_beaten(self) -> list[str]:
        """The rivals that the selector is not shown to be better than."""
        return [name for name, interval in self.differences.items() if not interval.high < 0]

    def sentence(self) -> str:
        """What may be said of the selector."""
        where = f"on {self.traces:,} traces it has not learned from, at ratio {RATIO}"
        if not self.not_beaten:
            return f"closer to full KV than {_listed(RIVALS)} {where}"
        return (
            f"NOT shown to be better than {_listed(self.not_beaten)} {where}: the policy works, but this check gives no reason "
            "to prefer it; more traces, or longer ones, may help"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ratio": RATIO,
            "interval": self.cell.interval,
            "window": self.cell.window,
            "traces": self.traces,
            "better": not self.not_beaten,
            "kl": {name: _numbers(row.kl["mean"]) for name, row in self.rows.items()},
            "differences": {name: _numbers(interval) for name, interval in self.differences.items()},
        }


def check_on(
    model: PreTrainedModel,
    selector: Path,
    traces: Sequence[TraceRecord],
    directory: Path,
    cell: CheckCell | None = None,
    batch: int = 16,
    watch: Watcher | None = None,
) -> SelectorCheck | None:
    """The check of the selector in a file; None where no trace is long enough to be compressed.

    directory: where finished pairs of a policy and a trace are kept, so that the check goes on after an interruption. cell:
    None: one for the traces' lengths.
    """
    cell = CheckCell.of([len(record.token_ids) for record in traces]) if cell is None else cell
    chosen = [_forced(record) for record in traces if cell.compresses(len(record.token_ids))]
    if not chosen:
        return None
    rows = _rows(selector, cell)
    names = [row.policy.name for row in rows]
    said = settings(model={}, schedule="common", tokens=None, rows=rows, files=HFModelInfo(model))
    with Journal(directory / "records.jsonl", FORMAT, said, may_grow=may_grow) as journal:
        found = run_fidelity(model, chosen, rows, batch=batch, journal=journal, watch=watch)
        kl = {name: _means(journal.records, row.label, chosen) for name, row in zip(names, rows, strict=True)}
    return SelectorCheck(
        cell,
        len(chosen),
        dict(zip(names, found, strict=True)),
        {name: paired_difference(kl[LEARNED], kl[name], bounds=None) for name in RIVALS},
    )


def _rows(selector: Path, cell: CheckCell) -> list[ComparedPolicy]:
    ceiling = f"{CEILING}:aggregation=group" if read_selector(selector).per_head else CEILING
    rows = contenders((LEARNED, *RIVALS, ceiling), [RATIO], [cell.interval], [cell.window])
    policy = Learned(str(selector), cell.interval, RATIO, cell.window)
    return [dataclasses.replace(row, policy=policy) if row.policy.name == LEARNED else row for row in rows]


def _means(records: Sequence[Mapping[str, Any]], label: str, traces: Sequence[ForcedTrace]) -> list[list[float]]:
    """KL a token, [problem][trace]."""
    names = {trace.id for trace in traces}
    mine = [r for r in records if r.get("kind") == "trace" and r["row"] == label and r["trace"] in names]
    return TokenValues([dict(record) for record in mine]).means("kl")


def _forced(record: TraceRecord) -> ForcedTrace:
    return ForcedTrace(f"{record.problem}/{record.index}", record.problem, record.prompt_ids, record.token_ids)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _numbers(interval: Interval) -> dict[str, float | None]:
    """Ends that can't be told are null."""
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in interval._asdict().items()}
