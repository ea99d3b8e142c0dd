"""A judge at work on one run: excerpts read as they come, newcomers placed in order, and its tokens counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.prune.cluster import Clustering, Placement
from laconic.prune.judge import Cost, Excerpt, Judge
from laconic.prune.trace_engine import TraceEngine

WORTH_A_MATRIX = 8


class SharedJudge:
    """A judge, with what it has done for one run alone: others may ask it in between."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.cost = Cost()
        """What it has done here."""

    def read(self, excerpts: Mapping[int, Excerpt], engine: TraceEngine | None) -> dict[int, Any]:
        """Readings by number. Raises InputError for a judge that gives back another number."""
        with self._counting():
            readings = self.judge.read(list(excerpts.values()), engine)
        if len(readings) != len(excerpts):
            raise InputError(
                f"judge {self.judge.name} gave {len(readings)} readings of {len(excerpts)} excerpts; expected one of each"
            )
        return dict(zip(excerpts, readings, strict=True))

    def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """Of readings. Raises what the judge raises."""
        with self._counting():
            return self.judge.compare(pairs)

    def matrix(self, readings: Sequence[Any]) -> list[list[float]] | None:
        """Of all pairs; None where the judge has no such method. Raises InputError for one of another shape."""
        made = getattr(self.judge, "matrix", None)
        if made is None:
            return None
        with self._counting():
            table = made(list(readings))
        count = len(readings)
        if tuple(table.shape) != (count, count):
            raise InputError(
                f"the matrix of judge {self.judge.name} is {list(table.shape)}; expected [{count}, {count}]"
            )
        found: list[list[float]] = table.tolist()
        return found

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = replace(self.judge.cost)
        try:
            yield
        finally:
            self.cost = self.cost.plus(self.judge.cost.minus(before))


class Judging:
    """Readings of excerpts by number, and the clustering that they feed.

    A judge may have a method ``matrix(readings) -> Tensor [n, n]`` that gives P(same answer) of all pairs at once; it is
    used where at least one in WORTH_A_MATRIX of the readings so far is new, since one call then replaces many.
    """

    def __init__(self, judge: Judge, clustering: Clustering) -> None:
        self.judge, self.clustering = SharedJudge(judge), clustering
        self._readings: dict[int, Any] = {}
        self._rows: dict[int, int] = {}
        self._table: list[list[float]] = []

    def __contains__(self, number: int) -> bool:
        """Whether that excerpt has been read."""
        return number in self._readings

    @property
    def cost(self) -> Cost:
        """What the judge has done for this run."""
        return self.judge.cost

    def read(self, excerpts: Mapping[int, Excerpt], engine: TraceEngine | None = None) -> None:
        """Read excerpts by number, all in one batch. Raises InputError for a judge that gives back another number."""
        self._readings.update(self.judge.read(excerpts, engine))
        if 1 < len(self._readings) <= WORTH_A_MATRIX * len(excerpts):
            table = self.judge.matrix(list(self._readings.values()))
            if table is not None:
                self._table, self._rows = table, {number: row for row, number in enumerate(self._readings)}

    def place(self, number: int) -> Placement:
        """Put one that was read into the clustering."""
        query = self.clustering.query(number)
        row = self._rows.get(number)
        if row is not None and all(member in self._rows for member in query.members):
            table = self._table[row]
            return self.clustering.place(query, [table[self._rows[member]] for member in query.members])
        mine = self._readings[number]
        pairs = [(self._readings[member], mine) for member in query.members]
        return self.clustering.place(query, self.judge.compare(pairs) if pairs else [])


class JudgedPairs:
    """A judge's word on pairs of excerpts by number, each read and each pair compared once. tau: what its number has to exceed
    for two to be alike."""

    def __init__(self, judge: Judge, tau: float) -> None:
        self.judge, self.tau = SharedJudge(judge), tau
        self._readings: dict[int, Any] = {}
        self._alike: dict[tuple[int, int], bool] = {}

    def __contains__(self, number: int) -> bool:
        """Whether that excerpt has been read."""
        return number in self._readings

    @property
    def tokens(self) -> int:
        """That the judge has run for these."""
        return self.judge.cost.tokens

    @property
    def tokens_each(self) -> float:
        """What an excerpt has cost so far, comparing included; 0 before there is one: not known."""
        return self.tokens / len(self._readings) if self._readings else 0.0

    def read(self, excerpts: Mapping[int, Excerpt], engine: TraceEngine | None = None) -> None:
        """Read those that have not been, all in one batch. Raises InputError for a judge that gives back another number."""
        new = {number: excerpt for number, excerpt in excerpts.items() if number not in self._readings}
        if new:
            self._readings.update(self.judge.read(new, engine))

    def compare(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Compare those that have not been, in either order, all in one batch. Raises InputError where the judge gives another
        number of probabilities, or one outside [0, 1]."""
        new = [pair for pair in dict.fromkeys((min(pair), max(pair)) for pair in pairs) if pair not in self._alike]
        if not new:
            return
        found = self.judge.compare([(self._readings[a], self._readings[b]) for a, b in new])
        if len(found) != len(new):
            raise InputError(f"the judge gave {len(found)} probabilities for {len(new)} pairs; expected one for each")
        for pair, number in zip(new, found, strict=True):
            self._alike[pair] = checks.share("what the judge gave", number) > self.tau

    def same(self, one: int, other: int) -> bool | None:
        """Whether the judge calls two alike; None where they weren't compared."""
        return self._alike.get((min(one, other), max(one, other)))
