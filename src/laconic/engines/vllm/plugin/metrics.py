"""What compression does, seen from outside: counted in the scheduler, carried by vLLM's own statistics, shown by Prometheus.

vLLM's scheduler statistics have no place for a plugin's numbers, so they travel as extra keys of
`num_kv_fetch_reqs_by_stage`, a dictionary that stock loggers read by its known keys only (KV connectors, whose numbers it
holds, are refused beside laconic); the front end takes them out again before a logger sees them.
"""

from __future__ import annotations

from typing import Any

PREFIX = "laconic:"


class CompressionCounts:
    """Counts since they were last reported."""

    def __init__(self) -> None:
        self.compressions = self.evicted = self.freed = 0

    def add(self, evicted: int, freed: int) -> None:
        """One request was compressed: tokens evicted (of one layer), blocks given back."""
        self.compressions += 1
        self.evicted += evicted
        self.freed += freed

    def report(self, stats: Any, physical: int, logical: int) -> None:
        """Put the counts into vLLM's SchedulerStats and start anew. physical, logical: tokens of the running requests now."""
        counts = {"compressions": self.compressions, "evicted": self.evicted, "freed": self.freed}
        counts |= {"physical": physical, "logical": logical}
        stats.num_kv_fetch_reqs_by_stage |= {PREFIX + name: count for name, count in counts.items()}
        self.__init__()  # type: ignore[misc]


def take_counts(stats: Any) -> dict[str, int]:
    """Take laconic's counts out of a SchedulerStats; empty if there are none."""
    if stats is None:
        return {}
    found = {k: v for k, v in stats.num_kv_fetch_reqs_by_stage.items() if k.startswith(PREFIX)}
    for key in found:
        del stats.num_kv_fetch_reqs_by_stage[key]
    return {key.removeprefix(PREFIX): count for key, count in found.items()}
