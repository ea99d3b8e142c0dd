"""What compression does, seen from outside: counted in the scheduler, carried by vLLM's own statistics, shown by Prometheus.

vLLM's scheduler statistics have no place for a plugin's numbers, so they travel as extra keys of
`num_kv_fetch_reqs_by_stage`, a dictionary that stock loggers read by its known keys only (KV connectors, whose numbers it
holds, are refused beside laconic); the front end takes them out again before a logger sees them.
"""

from __future__ import annotations

from typing import Any, ClassVar

PREFIX = "laconic:"


class CompressionCounts:
    """The scheduler's counts since they were last reported."""

    def __init__(self) -> None:
        self.compressions = 0
        """Compressions of requests."""
        self.evicted = 0
        """Tokens evicted, of one layer."""
        self.freed = 0
        """Blocks given back."""

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


class PrometheusMetrics:
    """laconic's Prometheus metrics, in the registry that vLLM serves at /metrics. One set a process."""

    # Prometheus refuses a second metric of the same name in a process, so engines share them.
    _made: ClassVar[dict[str, Any]] = {}

    def __init__(self, model_name: str) -> None:
        from prometheus_client import Counter, Gauge

        self.model_name = model_name
        if not self._made:
            labels = ["model_name", "engine"]
            self._made.update(
                compressions=Counter("laconic:compressions", "Compressions of a request's KV cache.", labels),
                evicted=Counter("laconic:tokens_evicted", "Tokens evicted from requests' KV caches.", labels),
                freed=Counter("laconic:blocks_freed", "KV-cache blocks given back by compressions.", labels),
                ratio=Gauge(
                    "laconic:physical_over_logical",
                    "Tokens that the running requests hold over those they have computed; 1 where nothing was evicted.",
                    labels,
                    multiprocess_mode="mostrecent",
                ),
            )

    def observe(self, counts: dict[str, int], engine: int) -> None:
        """Add what `take_counts` gave of a step of engine number `engine`."""
        if not counts:
            return
        for name in ("compressions", "evicted", "freed"):
            self._made[name].labels(self.model_name, str(engine)).inc(counts[name])
        ratio = counts["physical"] / counts["logical"] if counts["logical"] else 1.0
        self._made["ratio"].labels(self.model_name, str(engine)).set(ratio)
