"""An engine whose traces have the same ids whichever engine runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StableIds:
    """An engine as it is, but for the ids: trace i of a problem is `PROBLEM/i`, on every engine and at every run.

    What goes by ids (the random judge's coins, above all) then goes alike when a run is replayed, live, or resumed.
    """

    def __init__(self, engine: Any, problem: str) -> None:
        self._engine, self._problem = engine, problem

    def submit(self, prompt: Any, sampling: Any, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """As the engine's own. ids: of the caller's choice stay as they are."""
        names = [f"{self._problem}/{index}" for index in range(n)]
        return list(self._engine.submit(prompt, sampling, n, names if ids is None else ids))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
