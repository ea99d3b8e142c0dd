"""DeepPrune's online greedy clustering (arXiv 2510.08483) alone: who is compared with whom, and where a newcomer goes.

No judge, no engine: a newcomer is asked about with `query`, whoever can tell gives the probabilities to `place`. So all the
comparisons of a newcomer can be made in one batch, and a dictionary will do for a judge.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from laconic import checks
from laconic.errors import InputError, UnknownNameError

SIMILARITIES = ("decision", "probability")
LIKELY = 0.5
"""A probability above this is a decision for "same answer"."""


@dataclass(frozen=True, slots=True)
class Query:
    """Whom a newcomer is to be compared with."""

    newcomer: int
    members: tuple[int, ...]
    """Cluster after cluster."""
    sizes: tuple[int, ...]
    """How many of the members are of each cluster."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a newcomer went."""

    newcomer: int
    cluster: int | None
    """None where it was left out, as it is like no cluster and there may be no more."""
    opened: bool
    """Whether it is its cluster's first member."""
    similarity: float | None
    """Mean probability of agreement with the compared members of the most similar cluster; None: there was none."""


class Clustering:
    """Clusters of newcomers, named by numbers of any kind, in the order in which they come.

    tau: a newcomer joins the most similar cluster if their similarity is above this. K: clusters at most; a newcomer that is
    like none of K clusters is left out, so that clusters hold only what was judged alike (what the paper does there is
    unknown). K1: members that a newcomer is compared with, at most, a cluster; which ones of a larger cluster depends on
    `seed`, the newcomer and the cluster, on nothing else. similarity: over the p = min(K1, |cluster|) compared members,
    "decision" is the share with a probability above one half, as published; "probability" the mean probability. Clusters
    that are equally similar are told apart by the mean probability, then the earlier one wins.

    Raises InputError for settings out of range.
    """

    def __init__(
        self, tau: float = 0.5, K: int = 32, K1: int = 10, seed: int = 0, similarity: str = "decision"
    ) -> None:
        self.tau = checks.share("tau", tau)
        self.K = checks.whole("K", K, 1, meaning="clusters")
        self.K1 = checks.whole("K1", K1, 1, meaning="members compared")
        self.seed = checks.seed("seed", seed)
        self.similarity = checks.word("similarity", similarity, SIMILARITIES)
        self.clusters: list[list[int]] = []
        self.left_out: list[int] = []
        self._where: dict[int, int | None] = {}

    @property
    def singletons(self) -> bool:
        """Whether every cluster has one member: nobody was judged to agree with anybody."""
        return all(len(cluster) == 1 for cluster in self.clusters)

    def of(self, member: int) -> int | None:
        """The cluster of a newcomer that was placed; None for one left out. Raises UnknownNameError for one that wasn't."""
        if member not in self._where:
            raise UnknownNameError(f"{checks.shown(member)} has not been placed; expected a member of this clustering")
        return self._where[member]

    def query(self, newcomer: int) -> Query:
        """Whom to compare with. Raises InputError for one who has been placed."""
        newcomer = checks.whole("newcomer", newcomer, -checks.MOST)
        if newcomer in self._where:
            raise InputError(f"{newcomer} has been placed already; expected a newcomer")
        draw = None
        chosen: list[int] = []
        for cluster in self.clusters:
            if len(cluster) <= self.K1:
                chosen += cluster
            else:
                draw = draw or random.Random(f"{self.seed}:{newcomer}")
                chosen += [cluster[i] for i in sorted(draw.sample(range(len(cluster)), self.K1))]
        return Query(newcomer, tuple(chosen), tuple(min(self.K1, len(cluster)) for cluster in self.clusters))

    def place(self, query: Query, probabilities: Sequence[float]) -> Placement:
        """Put the newcomer where it belongs, by P(same answer) of it and each of the query's members, in their order.

        Raises InputError for another number of probabilities, or one outside [0, 1].
        """
        if len(probabilities) != len(query.members):
            raise InputError(
                f"the judge gave {len(probabilities)} probabilities for {len(query.members)} pairs; expected one for each"
            )
        if len(query.sizes) != len(self.clusters) or query.newcomer in self._where:
            raise InputError(f"the query of {query.newcomer} is out of date: ask anew after every placement")
        best: tuple[float, float] | None = None
        where = start = 0
        for cluster, size in enumerate(query.sizes):
            part = probabilities[start : start + size]
            start += size
            scores = self._scores(part)
            if best is None or scores > best:  # equal: the earlier one
                best, where = scores, cluster
        mean = None if best is None else best[1]
        if best is not None and best[0] > self.tau:
            self.clusters[where].append(query.newcomer)
            return self._note(Placement(query.newcomer, where, False, mean))
        if len(self.clusters) < self.K:
            self.clusters.append([query.newcomer])
            return self._note(Placement(query.newcomer, len(self.clusters) - 1, True, mean))
        self.left_out.append(query.newcomer)
        return self._note(Placement(query.newcomer, None, False, mean))

    def _scores(self, probabilities: Sequence[float]) -> tuple[float, float]:
        """(similarity, mean probability)."""
        for p in probabilities:
            if not 0 <= p <= 1:  # a NaN too
                raise InputError(f"the judge gave the probability {checks.shown(p)}; expected a number from 0 to 1")
        mean = math.fsum(probabilities) / len(probabilities)
        if self.similarity == "probability":
            return mean, mean
        return sum(p > LIKELY for p in probabilities) / len(probabilities), mean

    def _note(self, placement: Placement) -> Placement:
        self._where[placement.newcomer] = placement.cluster
        return placement
