"""The rows that would be in the batch: HFEngine's own ledger, without a model or a cache below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from laconic.compress import Schedule
from laconic.engines.base import EngineStats, Trace
from laconic.engines.hf.ledger import Ledger
from laconic.engines.recorded import Part, Pieces


@dataclass(slots=True, eq=False)
class Play:
    """A trace and what is left to play of it. number: stable; sent, sent_text: tokens and characters that chunks carried."""

    trace: Trace
    number: int
    part: Part
    sent: int = 0
    sent_text: int = 0
    pieces: Pieces | None = None

    @property
    def computed(self) -> int:
        """Generated tokens whose KV an engine would have computed: all but the newest."""
        return max(len(self.trace.token_ids) - 1, 0)


class PlayedRows:
    """The rows that would be in the batch: HFEngine's own ledger, without a cache below it."""

    def __init__(self, schedule: Schedule, bytes_per_token: int) -> None:
        self.schedule, self.bytes_per_token = schedule, bytes_per_token
        self.plays: list[Play] = []
        self.ledger: Ledger | None = None
        self._gone = EngineStats()

    def admit(self, group: Sequence[Play]) -> None:
        """One that resumes, rebuilt from its tokens in pieces that end at its compressions, or new ones of one prompt."""
        ledger = Ledger(self.schedule, queries=0)
        _pass(ledger, 1, len(group[0].trace.prompt_ids))
        left = group[0].computed
        while left:
            room = ledger.tokens_to_compression()
            fed = left if room is None else min(left, room)
            _pass(ledger, 1, fed)
            left -= fed
        if len(group) > 1:
            ledger.take_rows([0] * len(group))
        if self.ledger is None:
            self.ledger = ledger
        else:
            self.ledger.append_rows(ledger)
        self.plays = [*self.plays, *group]

    def step(self) -> None:
        assert self.ledger is not None
        _pass(self.ledger, len(self.plays), 1)

    def remove(self, rows: Sequence[int]) -> None:
        """Rows leave; rows from the end take their places, as in the cache, so that chunks come in the same order."""
        if not rows:
            return
        assert self.ledger is not None
        left = len(self.plays) - len(rows)
        if not left:
            gone = self.stats()
            gone.live_kv_tokens = gone.live_kv_bytes = 0
            self._gone, self.ledger, self.plays = gone, None, []
            return
        self.plays = [self.plays[i] for i in self.ledger.remove_rows(rows)]
        self.ledger.trim_slots()

    def held(self, play: Play) -> int:
        """Tokens of KV that a running trace holds."""
        assert self.ledger is not None
        return self.ledger.rows[self.plays.index(play)].tokens

    def stats(self) -> EngineStats:
        stats, ledger = replace(self._gone), self.ledger
        if ledger is not None:
            stats.steps += ledger.steps
            stats.compressions += ledger.compressions
            stats.evicted += ledger.evicted
            stats.kept += ledger.kept
            stats.kv_token_steps += ledger.token_steps
            stats.live_kv_tokens = ledger.tokens
            stats.peak_kv_tokens = max(stats.peak_kv_tokens, ledger.peak_tokens)
        stats.live_kv_bytes = stats.live_kv_tokens * self.bytes_per_token
        stats.peak_kv_bytes = stats.peak_kv_tokens * self.bytes_per_token
        return stats


def _pass(ledger: Ledger, rows: int, tokens: int) -> None:
    """What the layers do to the ledger in one forward pass."""
    ledger.begin_pass(rows, tokens)
    ledger.end_pass()
