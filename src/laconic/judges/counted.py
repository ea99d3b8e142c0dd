"""The bookkeeping of judges: whatever a judge does, its excerpts, pairs and seconds are counted the same way."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from laconic.prune.judge import Cost, Excerpt
from laconic.prune.trace_engine import TraceEngine


class CountedJudge(ABC):
    """A `Judge` whose work is done by `_read` and `_compare`, which add to `cost.tokens` themselves."""

    name: str
    excerpt: str | None = None

    def __init__(self) -> None:
        self.cost = Cost()

    def read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None = None) -> list[Any]:
        """See Judge.read."""
        with self._timed():
            readings = self._read(excerpts, engine)
        self.cost.excerpts += len(excerpts)
        return readings

    def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """See Judge.compare."""
        with self._timed():
            found = self._compare(pairs)
        self.cost.pairs += len(pairs)
        return found

    def identity(self) -> dict[str, Any]:
        """What tells it from others of its name and spec, ready for JSON: weights (a fingerprint), settings."""
        return {}

    @abstractmethod
    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[Any]: ...

    @abstractmethod
    def _compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]: ...

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.cost.seconds += time.perf_counter() - start


class MatrixJudge(CountedJudge):
    """One that compares all pairs of many readings at once."""

    def matrix(self, readings: Sequence[Any]) -> Tensor:
        """`compare` of all pairs: float32 [n, n], symmetric. Counts n (n - 1) / 2 pairs."""
        with self._timed():
            found = self._matrix(readings).float() if readings else torch.zeros(0, 0)
        self.cost.pairs += len(readings) * (len(readings) - 1) // 2
        return found

    def _compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        return [self._pair(a, b) for a, b in pairs]

    @abstractmethod
    def _pair(self, a: Any, b: Any) -> float: ...

    @abstractmethod
    def _matrix(self, readings: Sequence[Any]) -> Tensor: ...


def stack_mappings(rows: Sequence[Mapping[Any, float]]) -> Tensor:
    """Mappings as rows of a matrix, a column for each key of any: float64 [n, keys]."""
    column: dict[Hashable, int] = {}
    for row in rows:
        for key in row:
            column.setdefault(key, len(column))
    found = torch.zeros(len(rows), len(column), dtype=torch.float64)
    for i, row in enumerate(rows):
        if row:
            found[i, [column[key] for key in row]] = torch.tensor(list(row.values()), dtype=torch.float64)
    return found


def same_class_matrix(classes: Sequence[Hashable | None]) -> Tensor:
    """bool [n, n]: which two are of one class; what has none (None) is with itself only."""
    seen: dict[Hashable, int] = {}
    index = torch.tensor([-1 - i if c is None else seen.setdefault(c, len(seen)) for i, c in enumerate(classes)])
    return index[:, None] == index
