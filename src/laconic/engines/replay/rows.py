"""The rows that would be in the batch: HFEngine's own ledger, without a model or a cache below it. The replay's `Rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from laconic.compress import Schedule
from laconic.engines.base import EngineStats, FinishReason
from laconic.engines.hf.ledger import Ledger
from laconic.engines.replay.records import RecordedOutput, RecordedText
from laconic.engines.rows import NextToken
from laconic.engines.sampling import trace_key
from laconic.engines.scheduler import ScheduledTrace


@dataclass(slots=True, eq=False, kw_only=True)
class ReplayedTrace(ScheduledTrace):
    """A trace in ReplayEngine."""

    output: RecordedOutput
    """What it plays."""
    text: RecordedText
    """Its text."""

    @property
    def draw_key(self) -> int:
        """See ScheduledTrace; as it was when the trace was drawn."""
        return trace_key(self.output.record.seed, self.trace.index) & 0xFFFFFFFF

    def add_next(self, count: int) -> None:
        """Note the next `count` tokens, which are at least one."""
        at, trace = len(self.trace.token_ids), self.trace
        tokens = self.output.tokens[at : at + count]
        trace.token_ids.extend(tokens)
        self.pending.extend(tokens)
        if self.output.confidences:
            confidences = self.output.record.confidences
            if confidences is not None:
                trace.confidences.extend(confidences[at : at + count])
                self.pending_confidences.extend(confidences[at : at + count])
        self.pending_text.append(self.text.add_next(count))
        trace.text = self.text.text

    def end_reason(self) -> FinishReason | None:
        """As recorded, or as the request cuts it short."""
        return self.output.finish_reason if len(self.trace.token_ids) == len(self.output.tokens) else None


class ReplayedRows:
    """Counts what rows in a batch would hold and cost, and hands out their recorded tokens.

    bytes_per_token: of KV, over the layers that were compressible. acts_at: see `leap`.
    """

    def __init__(self, schedule: Schedule, bytes_per_token: int, acts_at: int | None = None) -> None:
        self.schedule, self.bytes_per_token, self.acts_at = schedule, bytes_per_token, acts_at
        self.entries: list[ReplayedTrace] = []
        self.ledger: Ledger | None = None
        self._gone = EngineStats()  # of ledgers that all rows have left

    # ---- what the loop drives -------------------------------------------------------------------------------------

    def join(self, group: Sequence[ReplayedTrace], rows: int) -> list[NextToken] | None:
        """See Rows.join."""
        first, fresh = group[0], not group[0].trace.token_ids
        ledger = Ledger(self.schedule, queries=0)
        _pass(ledger, 1, len(first.trace.prompt_ids))
        for start, end in self.schedule.spans(first.computed):
            _pass(ledger, 1, end - start)
        if len(group) > 1:
            ledger.take_rows([0] * len(group))
        if self.ledger is None:
            self.ledger = ledger
        else:
            self.ledger.append_rows(ledger)
        self.entries = [*self.entries, *group]
        return [_next(entry) for entry in group] if fresh else None

    def step(self) -> list[NextToken]:
        """See Rows.step."""
        assert self.ledger is not None
        _pass(self.ledger, len(self.entries), 1)
        return [_next(entry) for entry in self.entries]

    def leap(self) -> int:
        """See Rows.leap: all steps before that in which the first row ends, or has `acts_at` tokens; None: none."""
        if self.acts_at is None or not self.entries:
            return 0
        assert self.ledger is not None
        steps = min(_ahead(entry, self.acts_at) for entry in self.entries) - 1
        if steps < 1:
            return 0
        for _ in range(steps):
            _pass(self.ledger, len(self.entries), 1)
        for entry in self.entries:
            entry.add_next(steps)
        return steps

    def leave(self, rows: Sequence[int]) -> None:
        """See Rows.leave. Rows change places as in the cache, so that chunks come in the same order."""
        if not rows:
            return
        assert self.ledger is not None
        if len(rows) == len(self.entries):
            self.clear()
            return
        self.entries = [self.entries[i] for i in self.ledger.remove_rows(rows)]
        self.ledger.trim_slots()

    def lose(self, entries: Sequence[ReplayedTrace]) -> None:
        """See Rows.lose. Nothing is remembered here."""
        self.clear()

    def clear(self) -> None:
        """See Rows.clear."""
        gone = self.stats()
        gone.live_kv_tokens = gone.live_kv_bytes = 0
        self._gone, self.ledger, self.entries = gone, None, []

    def remember(self, entry: ReplayedTrace) -> None:
        """Nothing: there is no cache."""

    def clock(self) -> float:
        """0: nothing is computed."""
        return 0.0

    def stats(self) -> EngineStats:
        """See Rows.stats."""
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

    @property
    def live_kv_bytes(self) -> int:
        """Held now."""
        return 0 if self.ledger is None else self.ledger.tokens * self.bytes_per_token

    # ---- what is read beside playing ------------------------------------------------------------------------------

    def tokens_held(self, entry: ReplayedTrace) -> int:
        """See ReadableRows.tokens_held."""
        assert self.ledger is not None
        return self.ledger.rows[self.entries.index(entry)].tokens

    def held(self, entry: ReplayedTrace) -> None:
        """There is no cache to look at."""

    def recorded_states(self, entry: ReplayedTrace) -> Sequence[Tensor]:
        """None are."""
        return ()

    def fork(self, entries: Sequence[ReplayedTrace]) -> None:
        """There is no cache to copy."""


def _ahead(entry: ReplayedTrace, acts_at: int) -> int:
    """Tokens that a row has before somebody acts on it."""
    end, have = len(entry.output.tokens), len(entry.trace.token_ids)
    return (acts_at if have < acts_at < end else end) - have


def _pass(ledger: Ledger, rows: int, tokens: int) -> None:
    """What the layers do to the ledger in one forward pass."""
    ledger.begin_pass(rows, tokens)
    ledger.end_pass()


def _next(entry: ReplayedTrace) -> NextToken:
    output, at = entry.output, len(entry.trace.token_ids)
    confidences = output.record.confidences if output.confidences else None
    return NextToken(output.tokens[at], None if confidences is None else confidences[at])
