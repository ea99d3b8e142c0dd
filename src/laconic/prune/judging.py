"""A judge at work on one run: excerpts read as they come, newcomers placed in order, and its tokens counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from laconic.errors import InputError
from laconic.prune.cluster import Clustering, Placement
from laconic.prune.judge import Cost, Excerpt, Judge
from laconic.prune.trace_engine import TraceEngine

WORTH_A_MATRIX = 8


class Judging:
    """Readings of excerpts by number, and the clustering that they feed.

    A judge may have a method ``matrix(readings) -> Tensor [n, n]`` that gives P(same answer) of all pairs at once; it is
    used where at least one in WORTH_A_MATRIX of the readings so far is new, since one call then replaces many.
    """

    def __init__(self, judge: Judge, clustering: Clustering) -> None:
        self.judge, self.clustering = judge, clustering
        self.cost = Cost()
        """What the judge has done for this run; others may ask it in between."""
        self._readings: dict[int, Any] = {}
        self._rows: dict[int, int] = {}
        self._table: list[list[float]] = []

    def __contains__(self, number: int) -> bool:
        """Whether that excerpt has been read."""
        return number in self._readings

    def read(self, excerpts: Mapping[int, Excerpt], engine: TraceEngine | None = None) -> None:
        """Read excerpts by number, all in one batch. Raises InputError for a judge that gives back another number."""
        with self._counting():
            readings = self.judge.read(list(excerpts.values()), engine)
        if len(readings) != len(excerpts):
            raise InputError(
                f"judge {self.judge.name} gave {len(readings)} readings of {len(excerpts)} excerpts; expected one of each"
            )
        self._readings.update(zip(excerpts, readings, strict=True))
        matrix = getattr(self.judge, "matrix", None)
        if matrix is not None and 1 < len(self._readings) <= WORTH_A_MATRIX * len(excerpts):
            count = len(self._readings)
            with self._counting():
                table = matrix(list(self._readings.values()))
            if tuple(table.shape) != (count, count):
                raise InputError(
                    f"the matrix of judge {self.judge.name} is {list(table.shape)}; expected [{count}, {count}]"
                )
            self._table = table.tolist()
            self._rows = {number: row for row, number in enumerate(self._readings)}

    def place(self, number: int) -> Placement:
        """Put one that was read into the clustering."""
        query = self.clustering.query(number)
        row = self._rows.get(number)
        if row is not None and all(member in self._rows for member in query.members):
            table = self._table[row]
            return self.clustering.place(query, [table[self._rows[member]] for member in query.members])
        mine = self._readings[number]
        pairs = [(self._readings[member], mine) for member in query.members]
        with self._counting():
            found = self.judge.compare(pairs) if pairs else []
        return self.clustering.place(query, found)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = replace(self.judge.cost)
        try:
            yield
        finally:
            self.cost = self.cost.plus(self.judge.cost.minus(before))
