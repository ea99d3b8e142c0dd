"""What a further draw is worth to a vote where some draws are noisy: prefixes that a judge has read, beside finished traces.

As in `laconic.prune.worth`, theta is the share of draws that falls on the first of the two leading answers, with a flat prior. A
finished trace is an exact draw. A prefix is a noisy one: what the judge said of it has the likelihood `u` if the draw is on the
first, and `v` if it is on the second, so that its factor is u theta + v (1 - theta). The product of such factors, times
theta^a (1 - theta)^b, is a mixture of Beta densities, one for each number of noisy draws that may have fallen on the first: all
integrals are exact sums of positive terms. Without noisy draws everything is what `laconic.prune.worth` says. The method is laconic's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from laconic.prune.worth import ahead_probability, rise

Channel = tuple[float, float]
"""P(the judge says "first") of a draw on the first, and of one on the second."""
Factor = tuple[float, float, float]
"""Of a prefix that may be finished: the likelihood with a draw on the first, on the second, and with one on neither, whose
chance is in the third already: its factor is p theta + q (1 - theta) + r."""

Outcome = tuple[float, int, int, list[float]]
"""Of further draws: its ways, the exact votes of both after it, and the weights of the noisy draws (`NoisyVotes._fallen`)."""


@dataclass(frozen=True, slots=True)
class NoisyVotes:
    """Votes of the two leading answers. a, b: exact ones. noisy: factors (u, v), one a noisy draw, not both 0."""

    a: int
    b: int
    noisy: tuple[tuple[float, float], ...] = ()

    def ahead(self) -> float:
        """P(theta > 1/2): that the first is the likelier of the two."""
        whole, ahead = _masses(self.a, self.b, self._fallen(), self._scale())
        return ahead / whole

    def rise_exact(self, most: int) -> float:
        """The largest rise of the probability that the leader is the likelier one, a draw, over 1 to `most` exact draws."""
        if not self.noisy:
            return rise(self.a, self.b, most)
        fallen = self._fallen()
        return self._rise(
            [[(math.comb(d, j), self.a + j, self.b + d - j, fallen) for j in range(d + 1)] for d in range(1, most + 1)]
        )

    def rise_noisy(self, channel: Channel, most: int) -> float:
        """The same over 1 to `most` prefixes that the judge reads."""
        first, second = channel
        if first == second:
            return 0.0
        said, unsaid = (first, second), (1 - first, 1 - second)

        looks, before = [], [self._fallen()]  # by how many of the draws are said to be on the first
        for draws in range(1, most + 1):
            before = [_times(before[0], unsaid), *(_times(each, said) for each in before)]
            looks.append([(math.comb(draws, j), self.a, self.b, each) for j, each in enumerate(before)])
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
            looks.append([(way, self.a + j, self.b + k, fallen) for (j, k), way in ways.items()])
        return NoisyVotes(self.a, self.b, (*self.noisy, *open_))._rise(looks)

    def _fallen(self) -> list[float]:
        """[noisy + 1]: the weight of k of the noisy draws' being on the first, before theta is known."""
        fallen = [1.0]
        for factor in self.noisy:
            fallen = _times(fallen, factor)
        return fallen

    def _scale(self) -> float:
        return _beta(self.a, self.b)[0]

    def _rise(self, looks: Sequence[Sequence[Outcome]]) -> float:
        """looks: what may come of 1, 2, ... further draws."""
        scale = self._scale()
        whole, ahead = _masses(self.a, self.b, self._fallen(), scale)
        now = max(ahead, whole - ahead)
        highest = -math.inf
        for draws, outcomes in enumerate(looks, 1):
            found = []
            for weight, a, b, fallen in outcomes:
                all_, first = _masses(a, b, fallen, scale)
                found.append(weight * max(first, all_ - first))
            highest = max(highest, (math.fsum(found) - now) / draws)
        return highest / whole


def _times(fallen: Sequence[float], factor: tuple[float, float]) -> list[float]:
    """One more noisy draw."""
    u, v = factor
    return [u * before + v * same for before, same in zip([0.0, *fallen], [*fallen, 0.0], strict=True)]


def _masses(a: int, b: int, fallen: Sequence[float], scale: float) -> tuple[float, float]:
    """The integrals of the weighted likelihood over 0 < theta < 1 and over theta > 1/2, divided by exp(scale)."""
    noisy = len(fallen) - 1
    whole = ahead = 0.0
    for k, weight in enumerate(fallen):
        if weight > 0:
            log_beta, above = _beta(a + k, b + noisy - k)
            mass = weight * math.exp(log_beta - scale)
            whole += mass
            ahead += mass * above
    return whole, ahead


@lru_cache(maxsize=1 << 16)
def _beta(a: int, b: int) -> tuple[float, float]:
    """Of theta^a (1 - theta)^b: the logarithm of its integral, and the share of it above 1/2."""
    return math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 2), ahead_probability(a, b)
