"""Schedules, one token at a time: a list that tokens are appended to and removed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass
class History:
    """What a simulation saw. Index t of the lists is after t generated tokens; entry 0 is before the first."""

    held: list[int] = field(default_factory=lambda: [0])  # after a compression due at t
    attended: list[int] = field(default_factory=lambda: [0])  # at step t, before it
    rounds: list[int] = field(default_factory=lambda: [0])
    boundaries: list[int] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def proportional(interval: int, ratio: Fraction, window: int, steps: int) -> History:
    """RPC as its paper puts it: wait for P new tokens beyond the window, then keep P/c more than last time."""
    history = History()
    cache: list[int] = []
    kept_before = 0
    for step in range(1, steps + 1):
        cache.append(step)
        history.attended.append(len(cache))
        new = len(cache) - kept_before - window
        if new == interval:
            keep = kept_before + interval / ratio
            assert keep == int(keep)
            _compress(cache, int(keep), window, history, step)
            kept_before = int(keep)
        history.held.append(len(cache))
        history.rounds.append(len(history.boundaries))
    return history


def fixed(budget: int, buffer: int, window: int, steps: int) -> History:
    """A budget and a buffer: when both are full, back to the budget."""
    history = History()
    cache: list[int] = []
    for step in range(1, steps + 1):
        cache.append(step)
        history.attended.append(len(cache))
        if len(cache) == budget + buffer:
            _compress(cache, budget - window, window, history, step)
        history.held.append(len(cache))
        history.rounds.append(len(history.boundaries))
    return history


def _compress(cache: list[int], keep: int, window: int, history: History, step: int) -> None:
    scored = cache[: len(cache) - window]
    recent = cache[len(cache) - window :]
    assert len(recent) == window
    history.boundaries.append(step)
    history.candidates.append(len(scored))
    history.kept.append(keep)
    cache[:] = scored[:keep] + recent  # which of them stay is not this simulation's business
