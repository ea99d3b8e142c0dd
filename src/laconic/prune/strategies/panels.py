"""Who votes after pruning: panels of traces, the next one asked only where nobody of those before had an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from laconic.prune.cluster import Clustering
from laconic.prune.strategies.run import TraceState
from laconic.prune.voting import seats

VOTES = ("plain", "size", "confidence")


@dataclass(frozen=True)
class Panel:
    """Traces that vote together, those that ended within their excerpts first, then in the order of joining.

    whose: where they come from, for people. weights: of a vote by index, where it isn't 1. by_confidence: the weight is the
    trace's own mean confidence, unknown until it has ended.
    """

    records: tuple[TraceState, ...]
    whose: str
    weights: dict[int, float] = field(default_factory=dict)
    by_confidence: bool = False

    def weight(self, record: TraceState) -> float:
        """Of its vote; infinite where that can't be known yet."""
        if self.by_confidence:
            confidences = record.view.confidences
            return math.fsum(confidences) / len(confidences) if record.ended else math.inf
        return self.weights.get(record.index, 1.0)


def panels(voters: Sequence[TraceState], clustering: Clustering, vote: str, K2: int, K3: int) -> list[Panel]:
    """All `voters` in panels, in the order in which they are asked.

    vote: "plain" and "confidence" take K2 of the largest cluster at a time, then of the next largest (equals: the earlier),
    then those in no cluster. "size" takes K2 of all clusters in proportion to their sizes, and a cluster's voters share its
    size as their weight: an estimate of the vote of all n that holds even where one answer is spread over many clusters.
    Where every cluster is a singleton the clusters say nothing: K3 at a time, by index.
    """
    by_index = {record.index: record for record in voters}
    by_confidence = vote == "confidence"
    if clustering.singletons:
        return _slices(voters, K3, "all", by_confidence)
    clusters = [_complete_first([by_index[i] for i in members]) for members in clustering.clusters]
    largest = sorted(range(len(clusters)), key=lambda c: (-len(clusters[c]), c))
    found: list[Panel] = []
    if vote == "size":
        while any(clusters):
            given = seats([len(records) for records in clusters], K2)
            weights = {
                record.index: len(records) / seat
                for records, seat in zip(clusters, given, strict=True)
                for record in records[:seat]
            }
            chosen = [record for c in largest for record in clusters[c][: given[c]]]
            clusters = [records[seat:] for records, seat in zip(clusters, given, strict=True)]
            found.append(Panel(tuple(_complete_first(chosen)), "the clusters, by size", weights))
    else:
        for c in largest:
            found += _slices(clusters[c], K2, f"cluster {c}", by_confidence)
    outside = [record for record in voters if record.cluster is None]
    return found + _slices(outside, K2, "no cluster", by_confidence)


def _complete_first(records: Sequence[TraceState]) -> list[TraceState]:
    """Their votes cost nothing more."""
    return sorted(records, key=lambda record: not record.complete)


def _slices(records: Sequence[TraceState], size: int, whose: str, by_confidence: bool) -> list[Panel]:
    """`size` at a time, complete ones first; all the complete ones at once, since their votes are there already."""
    ranked, found = _complete_first(records), []
    first = max(size, sum(record.complete for record in records))
    while ranked:
        found.append(Panel(tuple(ranked[:first]), whose, by_confidence=by_confidence))
        ranked, first = ranked[first:], size
    return found
