"""The traces that a selector learns from, and those that it is checked on: a file's, or sampled from the model by itself."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.errors import InputError
from laconic.traces import TraceRecord

CHECKED = 16
"""Traces that the check is made on, where no others are given for it."""


def split_traces(records: Sequence[TraceRecord], checked: int = CHECKED) -> tuple[list[TraceRecord], list[TraceRecord]]:
    """Those to learn from, and those of the last problems, at least `checked` traces, to check on: no problem is on both sides.

    Raises InputError where that leaves nothing to learn from.
    """
    problems: dict[str, list[TraceRecord]] = {}
    for record in records:
        problems.setdefault(record.problem, []).append(record)
    kept: list[TraceRecord] = []
    names = list(problems)
    while names and len(kept) < checked:
        kept = problems[names.pop()] + kept
    if not names:
        raise InputError(
            f"there are {len(records):,} traces of {len(problems):,} problems, and the last {checked} are for the check; "
            "expected more problems, or other traces for the check (--check FILE)"
        )
    return [record for name in names for record in problems[name]], kept


def usable(records: Sequence[TraceRecord], where: str) -> list[TraceRecord]:
    """The traces with tokens. Raises InputError where none has, or for one without a prompt, which can't be run again."""
    for record in records:
        if not record.prompt_ids:
            raise InputError(
                f"trace {record.index} of problem {record.problem} in {where} has no prompt_ids, so nothing of it can be run "
                "again; collect it anew"
            )
    found = [record for record in records if record.token_ids]
    if not found:
        raise InputError(f"no trace in {where} has tokens; expected traces that `laconic collect` wrote")
    return found
