"""The tokens by which a fine-tuned model ends its thoughts, and the schedule that a trace's tokens tell: integers, but for one
look-up of ids.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from laconic import checks
from laconic.compress.schedule import Schedule
from laconic.errors import InputError

NAME = "lightthinker"
"""Of the policy."""
FILE = "lightthinker.json"
"""Beside a model's weights: its `ThoughtTokens`."""


@dataclass(frozen=True)
class ThoughtTokens:
    """The ids of the tokens that a fine-tuned model has for its thoughts. Raises InputError for what are no different ids."""

    splitter: int
    """Drawn by the model where a thought is over. Goes with the thought."""
    cache: tuple[int, ...]
    """Fed then: their KV is what stays of the thought."""
    go_on: int
    """Fed after those, once the thought's KV is gone: the continue token. Stays as well."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        object.__setattr__(self, "cache", tuple(checks.wholes("cache", self.cache, 0, meaning="token ids")))
        ids = [checks.whole("splitter", self.splitter, 0), *self.cache, checks.whole("continue", self.go_on, 0)]
        if not self.cache or len(set(ids)) < len(ids):
            raise InputError(f"the tokens of thoughts are {ids}; expected different ids, one cache token at least")

    @property
    def fed(self) -> tuple[int, ...]:
        """What is fed after a splitter, in order. Nobody draws these."""
        return (*self.cache, self.go_on)

    def next_fed(self, generated: Sequence[int]) -> int | None:
        """The token to feed after these generated ones; None: the model draws."""
        fed = self.fed
        for back in range(min(len(fed), len(generated))):
            if generated[-1 - back] == self.splitter:
                return fed[back]
        return None

    def stay(self, ids: Tensor) -> Tensor:
        """Bools, as ids: which tokens stay when a thought goes."""
        return torch.isin(ids, torch.tensor(self.fed, device=ids.device))

    def to_json(self) -> dict[str, Any]:
        return {"splitter": self.splitter, "cache": list(self.cache), "continue": self.go_on}

    @classmethod
    def of(cls, record: Any) -> ThoughtTokens:
        """From what `to_json` wrote. Raises InputError for anything else."""
        if not isinstance(record, Mapping) or not {"splitter", "cache", "continue"} <= record.keys():
            raise InputError(
                f"{FILE} holds {checks.shown(record)}; expected splitter, cache and continue, token ids all"
            )
        return cls(record["splitter"], record["cache"], record["continue"])


@dataclass(frozen=True)
class AtThoughts(Schedule):
    """Compressions where thoughts end: only a trace's tokens tell (`of`), so all that asks by counts alone is refused.

    tokens: the model's; None: not known yet (`Policy.for_model`).
    """

    tokens: ThoughtTokens | None = None
    reads_tokens: ClassVar[bool] = True

    def of(self, generated: Sequence[int]) -> Schedule:
        return ThoughtsOf(known_tokens(self.tokens), generated)

    @property
    def window(self) -> int:  # type: ignore[override]
        return len(known_tokens(self.tokens).cache)

    @property
    def compresses(self) -> bool:
        return True

    def rounds(self, generated: int) -> int:
        _refuse()

    def candidates(self, round: int) -> int:
        _refuse()

    def kept(self, round: int) -> int:
        _refuse()

    def next_boundary(self, generated: int) -> int | None:
        _refuse()


class ThoughtsOf(Schedule):
    """The schedule of one trace: round n is due once the n-th splitter's last cache token has attended, to the thought too.

    What stays of its candidates are the cache and continue tokens of the thoughts before; its window are its own cache tokens.
    The list of generated tokens may grow; a splitter counts from when it is in there.
    """

    def __init__(self, tokens: ThoughtTokens, generated: Sequence[int]) -> None:
        self.tokens, self.generated = tokens, generated
        self.window = len(tokens.cache)
        self._points: list[int] = []
        self._read = 0  # tokens that have been looked at, or need not be

    def points(self) -> list[int]:
        """The counts of generated tokens at which compressions are due, as far as the tokens tell."""
        while self._read < len(self.generated):
            here, self._read = self._read, self._read + 1
            if self.generated[here] == self.tokens.splitter:
                self._points.append(here + 1 + self.window)
                self._read += len(self.tokens.fed)
        return self._points

    def rounds(self, generated: int) -> int:
        return bisect_right(self.points(), generated)

    def candidates(self, round: int) -> int:
        checks.whole("round", round, 1, meaning="the first compression is 1")
        points = self.points()
        before, held = (points[round - 2], self.kept(round - 1) + self.window) if round > 1 else (0, 0)
        return held + points[round - 1] - before - self.window

    def kept(self, round: int) -> int:
        return (round - 1) * len(self.tokens.fed)

    def next_boundary(self, generated: int) -> int | None:
        points = self.points()
        at = bisect_right(points, generated)
        return points[at] if at < len(points) else None


def known_tokens(tokens: ThoughtTokens | None) -> ThoughtTokens:
    """The tokens. Raises InputError for None: nobody has looked them up."""
    if tokens is None:
        raise InputError(f"policy {NAME} has not been given its tokens: run it on a model, through an engine")
    return tokens


def _refuse() -> NoReturn:
    raise InputError(
        f"policy {NAME} compresses where its model ends a thought, which no count of tokens tells: only the hf engine runs it, "
        "as in laconic think, solve and bench accuracy"
    )
