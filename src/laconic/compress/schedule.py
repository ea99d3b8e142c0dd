"""When to compress and how many tokens stay: integer arithmetic on counts, no tensors and no state.

So two processes agree on it without a message, memory is planned before a run, and a preempted request replays exactly.

Counting: `generated` is how many generated tokens have their keys and values in the logical cache (evicted ones
included). A compression due at a count runs after that token's own keys were appended and after its step attended: the
step that compresses still sees everything. The prompt is never scored and never evicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

from laconic.checks import number, shown, unwrap_numpy_fields, whole
from laconic.errors import InputError


class Schedule(ABC):
    """When compressions are due and what they keep. Subclasses are frozen dataclasses.

    A subclass of your own says `window`, `rounds`, `candidates`, `kept` and `next_boundary`; the rest follows (in time
    proportional to the number of compressions, never of tokens).
    """

    window: int
    """The latest generated tokens, which always stay and are never scored."""
    reads_tokens: ClassVar[bool] = False
    """Whether a trace's tokens say when, and not their number alone: then ask `of` for its schedule first."""

    def of(self, generated: Sequence[int]) -> Schedule:
        """The schedule of a trace with these generated tokens, which may be a list that grows; itself where counts decide."""
        return self

    @property
    def compresses(self) -> bool:
        """Whether anything is ever due."""
        return self.next_boundary(0) is not None

    @abstractmethod
    def rounds(self, generated: int) -> int:
        """Compressions done once `generated` tokens' KV has been computed, the one due at that count included."""

    @abstractmethod
    def candidates(self, round: int) -> int:
        """Tokens scored at the round-th compression (1-based); the window is not among them."""

    @abstractmethod
    def kept(self, round: int) -> int:
        """How many of the round-th compression's candidates stay; the window stays besides."""

    @abstractmethod
    def next_boundary(self, generated: int) -> int | None:
        """The smallest count above `generated` at which a compression is due; None: never again."""

    def evicted(self, generated: int) -> int:
        """Tokens evicted in all once `generated` have been computed."""
        return sum(self.candidates(n) - self.kept(n) for n in range(1, self.rounds(generated) + 1))

    def physical(self, generated: int, prompt: int = 0) -> int:
        """Tokens held at that count, after a compression due there: prompt + generated - evicted."""
        generated, prompt = _counts(generated, prompt)
        return prompt + generated - self.evicted(generated)

    def peak(self, generated: int, prompt: int = 0) -> int:
        """The most tokens held at any moment up to that count; a step that compresses first holds everything."""
        generated, prompt = _counts(generated, prompt)
        most, gone = 0, 0
        for start, end in self.spans(generated):
            gone = self.evicted(start)
            most = max(most, end - gone)
        return prompt + most

    def total(self, generated: int, prompt: int = 0) -> int:
        """Tokens attended, summed over steps 1..generated: at each, what is held before that step's eviction."""
        generated, prompt = _counts(generated, prompt)
        gone = sum(self.evicted(start) * (end - start) for start, end in self.spans(generated))
        return generated * prompt + generated * (generated + 1) // 2 - gone

    def mean(self, generated: int, prompt: int = 0) -> float:
        """Tokens attended a step, on average; the prompt's length where nothing is generated."""
        total = self.total(generated, prompt)
        return total / generated if generated > 0 else float(prompt)

    def compression_points(self, generated: int) -> list[int]:
        """The counts up to `generated` at which a compression is due, in order."""
        generated, _ = _counts(generated, 0)
        points, at = [], self.next_boundary(0)
        while at is not None and at <= generated:
            points.append(at)
            at = self.next_boundary(at)
        return points

    def spans(self, generated: int) -> list[tuple[int, int]]:
        """(from, to) of pieces that make up `generated` tokens and end at the compression points, where one is due.

        A cache that is fed a trace's tokens in these pieces holds what it held when they were generated one by one.
        """
        return spans_of([self], generated)


def spans_of(schedules: Iterable[Schedule], generated: int) -> list[tuple[int, int]]:
    """`Schedule.spans` of rows that are fed together, each with a schedule of its own: pieces end where any of them is due."""
    generated, _ = _counts(generated, 0)
    ends = sorted({point for schedule in set(schedules) for point in schedule.compression_points(generated)})
    if generated > (ends[-1] if ends else 0):
        ends.append(generated)
    return list(pairwise([0, *ends]))


@dataclass(frozen=True)
class Never(Schedule):
    """No compression: the cache is prompt + generated."""

    window: int = field(default=0, init=False)

    def rounds(self, generated: int) -> int:
        return 0

    def candidates(self, round: int) -> int:
        raise InputError(f"round is {round}; this schedule never compresses, so it has no rounds")

    def kept(self, round: int) -> int:
        raise InputError(f"round is {round}; this schedule never compresses, so it has no rounds")

    def next_boundary(self, generated: int) -> int | None:
        return None


def _counts(generated: int, prompt: int) -> tuple[int, int]:
    """Both, checked. Engines ask once a trace and step, so the usual case is told at a glance."""
    if type(generated) is int and type(prompt) is int and generated >= 0 <= prompt:
        return generated, prompt
    return whole("generated", generated, 0, meaning="tokens"), whole("prompt", prompt, 0, meaning="tokens")


class Periodic(Schedule):
    """A compression at _offset + n * _period for n = 1, 2, ..., each evicting _drop <= _period tokens: closed forms."""

    @property
    @abstractmethod
    def _offset(self) -> int: ...

    @property
    @abstractmethod
    def _period(self) -> int: ...

    @property
    @abstractmethod
    def _drop(self) -> int: ...

    def rounds(self, generated: int) -> int:
        return max(0, (generated - self._offset) // self._period)

    def candidates(self, round: int) -> int:
        whole("round", round, 1, meaning="the first compression is 1")
        return self._offset + round * self._period - (round - 1) * self._drop - self.window

    def kept(self, round: int) -> int:
        return self.candidates(round) - self._drop

    def next_boundary(self, generated: int) -> int | None:
        return self._offset + (self.rounds(generated) + 1) * self._period

    def evicted(self, generated: int) -> int:
        return self.rounds(generated) * self._drop

    def peak(self, generated: int, prompt: int = 0) -> int:
        generated, prompt = _counts(generated, prompt)
        done = self.rounds(generated)
        # What a compression first holds never shrinks from one to the next, as _drop <= _period: the last is the most.
        last = self.candidates(done) + self.window if done else 0
        return prompt + max(generated - self.evicted(generated), last)

    def total(self, generated: int, prompt: int = 0) -> int:
        generated, prompt = _counts(generated, prompt)
        # Step t attends prompt + t - _drop * rounds(t - 1); rounds(s) = (s - _offset) // _period from s = _offset on.
        full, rest = divmod(max(0, generated - self._offset), self._period)
        rounds = self._period * (full * (full - 1) // 2) + full * rest
        return generated * prompt + generated * (generated + 1) // 2 - self._drop * rounds


@dataclass(frozen=True)
class Proportional(Periodic):
    """RPC's schedule (arXiv 2505.13866, section 3): a budget that grows, `ratio` times slower than the output.

    With P = interval, c = ratio, R = window: the first compression is due at P + R generated tokens, then after every
    further P. The N-th scores the (N-1) P/c that were kept and the P new ones together, and keeps N P/c of them plus
    the last R. A ratio of 1 compresses on time and evicts nothing.

    Raises InputError if ratio < 1, window < 1, interval < window, or interval / ratio is no whole number.
    """

    interval: int = 4096
    ratio: int | float = 4
    window: int = 32

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("window", self.window, 1, meaning="generated tokens that always stay")
        whole("interval", self.interval, 1, meaning="generated tokens between two compressions")
        number("ratio", self.ratio, 1)
        if self.ratio > self.interval:
            raise InputError(
                f"ratio is {shown(self.ratio)}, of which interval {self.interval} keeps nothing; expected 1 to {self.interval}"
            )
        if self.interval < self.window:
            raise InputError(
                f"interval is {self.interval}, smaller than window {self.window}; expected an interval of at least "
                f"{self.window}: raise interval or lower window"
            )
        # 1.6 means 8/5 to whoever typed it, not the nearest binary fraction.
        exact = Fraction(str(self.ratio))
        if self.interval % exact.numerator:
            below = self.interval - self.interval % exact.numerator
            near = [n for n in (below, below + exact.numerator) if n >= self.window and n > 0]
            raise InputError(
                f"interval is {self.interval}, of which ratio {self.ratio} keeps no whole number; expected a multiple "
                f"of {exact.numerator}: use interval {' or '.join(map(str, near))}"
            )

    @cached_property
    def share(self) -> int:
        """P / c: tokens by which the kept part grows at each compression."""
        exact = Fraction(str(self.ratio))
        return self.interval * exact.denominator // exact.numerator

    @property
    def _offset(self) -> int:
        return self.window

    @property
    def _period(self) -> int:
        return self.interval

    @property
    def _drop(self) -> int:
        return self.interval - self.share


@dataclass(frozen=True)
class Fixed(Periodic):
    """A fixed budget (H2O, TOVA, StreamingLLM, R-KV): at budget + buffer generated tokens held, compress to budget.

    `window` of the budget are the most recent tokens, the other budget - window are chosen. The prompt doesn't count.

    Raises InputError if budget, buffer or window is below 1, or window exceeds budget.
    """

    budget: int = 1024
    buffer: int = 1
    window: int = 1

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("budget", self.budget, 1, meaning="generated tokens kept")
        whole("buffer", self.buffer, 1, meaning="generated tokens between two compressions")
        whole("window", self.window, 1, meaning="generated tokens that always stay")
        if self.window > self.budget:
            raise InputError(
                f"window is {self.window}, larger than budget {self.budget} that it is part of; expected 1 to "
                f"{self.budget}: lower window or raise budget"
            )

    @property
    def _offset(self) -> int:
        return self.budget

    @property
    def _period(self) -> int:
        return self.buffer

    @property
    def _drop(self) -> int:
        return self.buffer
