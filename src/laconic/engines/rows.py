"""What a loop drives: the rows that run now, one a trace, whatever computes their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from laconic.engines.base import EngineStats, TokenLogprobs
from laconic.engines.scheduler import ScheduledTrace

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.engines.hf.cache import CompressedCache

T = TypeVar("T", bound=ScheduledTrace)


class NextToken(NamedTuple):
    """What was drawn for a row."""

    token: int | None
    """None: the model gave no distribution for it (NaN or infinite logits)."""
    confidence: float | None = None
    """As `Sampling.confidence_top_k` asks; None: it doesn't."""
    logprobs: TokenLogprobs | None = None
    """As `Sampling.logprobs` asks; None: it doesn't."""
    fed: bool = False
    """The policy put it there (`Policy.next_fed`), and nobody drew it."""


class Rows(Protocol[T]):
    """The rows that run now. They know traces and tokens, and nothing of text, chunks or who waits."""

    entries: list[T]
    """Row i runs entries[i]."""

    def join(self, group: Sequence[T], rows: int) -> Sequence[NextToken] | None:
        """Traces join: new ones of one prompt, whose prefill they share, or one that resumes and is rebuilt from its tokens.

        rows: that will be needed in all, so that memory grows once. Returns the first token of each new one, None for one that
        resumes. If it fails before the rows that ran were touched, `entries` is as it was; else `entries` holds the group
        as well, and nothing of what the rows hold can be relied on.
        """

    def step(self) -> Sequence[NextToken]:
        """Feed every row's newest token; returns every row's next. If it fails, what the rows hold can't be relied on."""

    def leap(self) -> int:
        """Steps taken at once for all rows, none of which ends one, where the rows can do so more cheaply than one by one; each
        entry has noted its tokens. 0: none was, as always where tokens are computed."""

    def leave(self, rows: Sequence[int]) -> None:
        """Rows leave and give their memory back; rows from the end fill the holes."""

    def clear(self) -> None:
        """All rows leave, whatever state they are in."""

    def lose(self, entries: Sequence[T]) -> None:
        """`clear`, since a step broke off: what was remembered of these traces is out of date."""

    def remember(self, entry: T) -> None:
        """Its row is about to leave: note of it what is asked for later."""

    def clock(self) -> float:
        """Seconds, once all work that was begun is done; always 0 where nothing is computed."""

    def stats(self) -> EngineStats:
        """Over all rows that have been here: steps, compressions and KV. Prompt and generated tokens are not counted here."""


class ReadableRows(Rows[T], Protocol[T]):
    """Rows that can be read beside their decoding (`trace_reader`)."""

    @property
    def bytes_per_token(self) -> int:
        """Of KV, over the layers that are compressible."""

    def tokens_held(self, entry: T) -> int:
        """Tokens of KV in a running trace's row, one layer."""

    def held(self, entry: T) -> Tensor | None:
        """bool [compressible layers, g, generated tokens]: which tokens' KV each layer holds; g is 1 or the KV heads.

        None: there is no cache to look at, so it has to be built from the trace's tokens. Raises InputError where the
        trace has left and it was not recorded.
        """

    def recorded_states(self, entry: T) -> Sequence[Tensor]:
        """Hidden states of the trace's first tokens, [D] each, as far as they were recorded."""

    def fork(self, entries: Sequence[T]) -> CompressedCache | None:
        """A copy of running traces' rows, to be fed on its own. None: there is no cache to copy."""
