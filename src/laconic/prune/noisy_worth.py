"""What a further draw is worth to a vote where some draws are noisy: prefixes that a judge has read, beside finished traces.

As in `laconic.prune.worth`, theta is the share of draws that falls on the first of the two leading answers, with a flat prior.
A finished trace is an exact draw. A prefix is a noisy one: what the judge said of it has the likelihood u if the draw is on the
first, and v if it is on the second, so that its factor is u theta + v (1 - theta). The product of such factors, times
theta^a (1 - theta)^b, is a mixture of Beta densities, one for each number of noisy draws that may have fallen on the first: all
integrals are exact sums of positive terms. Without noisy draws everything is what `laconic.prune.worth` says. It is laconic's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul

from laconic.prune.worth import ahead_probability, rise

Channel = tuple[float, float]
"""P(the judge says "first") of a draw on the first, and of one on the second."""
Factor = tuple[float, float, float]
"""Of a prefix that may be finished: the likelihood with a draw on the first, on the second, and with one on neither, whose
chance is in the third already: its factor is p theta + q (1 - theta) + r."""

Outcome = tuple[float, int, int, list[float]]
"""Of further draws: its ways, the exact votes that it adds to both, and the noisy draws' weights (`NoisyVotes._fallen`)."""


@dataclass(frozen=True, slots=True)
class NoisyVotes:
    """Votes of the two leading answers. a, b: exact ones. noisy: factors (u, v), one a noisy draw, not both 0."""

    a: int
    b: int
    noisy: tuple[tuple[float, float], ...] = ()

    def ahead(self) -> float:
        """P(theta > 1/2): that the first is the likelier of the two."""
        whole, ahead = self._masses(0, 0, self._fallen())
        return ahead / whole

    def rise_exact(self, most: int) -> float:
        """The largest rise of the probability that the leader is the likelier one, a draw, over 1 to `most` exact draws."""
        if not self.noisy:
            return rise(self.a, self.b, most)
        fallen = self._fallen()
        return self._rise([[(math.comb(d, j), j, d - j, fallen) for j in range(d + 1)] for d in range(1, most + 1)])

    def rise_noisy(self, channel: Channel, most: int) -> float:
        """The same over 1 to `most` prefixes that the judge reads."""
        first, second = channel
        if first == second:
            return 0.0
        said, unsaid = (first, second), (1 - first, 1 - second)

        looks, before = [], [self._fallen()]  # by how many of the draws are said to be on the first
        for draws in range(1, most + 1):
            before = [_times(before[0], unsaid), *(_times(each, said) for each in before)]
            looks.append([(math.comb(draws, j), 0, 0, each) for j, each in enumerate(before)])
        return self._rise(looks)

    def rise_finished(self, read: Sequence[Factor], most: int) -> float:
        """The same over 1 to `most` of the `read` prefixes being finished, in their order. Their factors are not in `noisy`:
        until they are finished each counts as p theta + q (1 - theta) + r."""
        open_ = [(p + r, q + r) for p, q, r in read]

        # By how many of those finished are on the first and on the second: the sum of the products of what goes with each.
        ways: dict[tuple[int, int], float] = {(0, 0): 1.0}
        looks = []
        for count, (p, q, r) in enumerate(read[:most], 1):
            further: dict[tuple[int, int], float] = {}
            for (j, k), way in ways.items():
                for place, part in (((j + 1, k), p), ((j, k + 1), q), ((j, k), r)):
                    if part > 0:
                        further[place] = further.get(place, 0.0) + way * part
            ways = further
            fallen = NoisyVotes(self.a, self.b, (*self.noisy, *open_[count:]))._fallen()
            looks.append([(way, j, k, fallen) for (j, k), way in ways.items()])
        return NoisyVotes(self.a, self.b, (*self.noisy, *open_))._rise(looks)

    def _fallen(self) -> list[float]:
        """[noisy + 1]: the weight of k of the noisy draws' being on the first, before theta is known."""
        fallen = [1.0]
        for factor in self.noisy:
            fallen = _times(fallen, factor)
        return fallen

    def _rise(self, looks: Sequence[Sequence[Outcome]]) -> float:
        """looks: what may come of 1, 2, ... further draws."""
        whole, ahead = self._masses(0, 0, self._fallen())
        now, highest = max(ahead, whole - ahead), -math.inf
        for draws, outcomes in enumerate(looks, 1):
            found = 0.0
            for weight, j, k, fallen in outcomes:
                every, first = self._masses(j, k, fallen)
                found += weight * max(first, every - first)
            highest = max(highest, (found - now) / draws)
        return highest / whole

    def _masses(self, j: int, k: int, fallen: Sequence[float]) -> tuple[float, float]:
        """The likelihood's integrals over 0 < theta < 1 and over theta > 1/2, with j and k more exact votes; to one scale."""
        line, above = _line(self.a, self.b, j + k + len(fallen) - 1)
        return sum(map(mul, fallen, line[j:])), sum(map(mul, fallen, above[j:]))


def _times(fallen: Sequence[float], factor: tuple[float, float]) -> list[float]:
    """One more noisy draw."""
    u, v = factor
    return [u * before + v * same for before, same in zip([0.0, *fallen], [*fallen, 0.0], strict=True)]


@lru_cache(maxsize=1 << 12)
def _line(a: int, b: int, draws: int) -> tuple[list[float], list[float]]:
    """[draws + 1] each: integrals of theta^(a + x) (1 - theta)^(b + draws - x) over 0 < theta < 1 and over theta > 1/2, divided
    by that of theta^a (1 - theta)^b."""
    scale = _log_beta(a, b)
    whole = [math.exp(_log_beta(a + x, b + draws - x) - scale) for x in range(draws + 1)]
    return whole, [mass * ahead_probability(a + x, b + draws - x) for x, mass in enumerate(whole)]


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 2)
