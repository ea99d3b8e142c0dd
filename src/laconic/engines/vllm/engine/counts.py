"""What an engine's traces hold and held, by their schedule's arithmetic: nothing is asked of the memory itself."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.compress.schedule import Schedule
from laconic.engines.base import EngineStats


@dataclass(slots=True, eq=False)
class Holding:
    """One trace's tokens of KV. computed: of its generated tokens. held: after the latest step; attended: by that step."""

    schedule: Schedule
    prompt: int
    computed: int
    held: int
    attended: int
    rounds: int


class Counts:
    """Adds up `stats` as traces enter, take steps and leave. Every trace counts its own prompt, as an engine without sharing
    would hold it. schedule: of traces that have none of their own. bytes_per_token: of KV, over the layers that are
    compressible."""

    def __init__(self, schedule: Schedule, bytes_per_token: int) -> None:
        self.schedule, self.bytes_per_token = schedule, bytes_per_token
        self.stats = EngineStats()
        self._attended = 0

    def enter(self, prompt: int, computed: int, schedule: Schedule | None = None) -> Holding:
        """A trace is there, its KV computed up to `computed` generated tokens; 0: it is new. Compressions up to there are
        done now, also those that were done before it was stopped. schedule: its own, where it has one."""
        own = schedule or self.schedule
        held = own.physical(computed, prompt)
        holding = Holding(own, prompt, computed, held, held, own.rounds(computed))
        self._rounds(own, 1, holding.rounds)
        self._move(holding.held, holding.attended)
        return holding

    def step(self, holding: Holding) -> None:
        """One more of its tokens is computed; a compression due there is done."""
        attended, held_before = holding.held + 1, holding.held
        attended_before, rounds = holding.attended, holding.rounds
        holding.computed += 1
        holding.rounds = holding.schedule.rounds(holding.computed)
        holding.attended = attended
        holding.held = holding.schedule.physical(holding.computed, holding.prompt)
        self._rounds(holding.schedule, rounds + 1, holding.rounds)
        self.stats.kv_token_steps += attended
        self._move(holding.held - held_before, attended - attended_before)

    def leave(self, holding: Holding) -> None:
        self._move(-holding.held, -holding.attended)

    def _rounds(self, schedule: Schedule, first: int, last: int) -> None:
        for number in range(first, last + 1):
            kept, candidates = schedule.kept(number), schedule.candidates(number)
            if kept == candidates:  # nothing goes: no engine computes anything then
                continue
            self.stats.compressions += 1
            self.stats.evicted += candidates - kept
            self.stats.kept += kept + schedule.window

    def _move(self, held: int, attended: int) -> None:
        stats = self.stats
        self._attended += attended
        stats.live_kv_tokens += held
        stats.live_kv_bytes = stats.live_kv_tokens * self.bytes_per_token
        # A step first attends to everything, then compresses; rows take their steps together.
        stats.peak_kv_tokens = max(stats.peak_kv_tokens, self._attended)
        stats.peak_kv_bytes = stats.peak_kv_tokens * self.bytes_per_token
