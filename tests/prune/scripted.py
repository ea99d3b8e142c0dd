"""An engine that plays scripts step by step, as a real one does, and judges to go with it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import torch

from laconic.engines.base import Chunk, GivenUpError, Sampling, Trace
from laconic.errors import InputError, LaconicError
from laconic.prune.judge import Cost

SAMPLING = Sampling(max_new_tokens=10_000, temperature=1.0)


@dataclass(frozen=True)
class Script:
    """What a trace will be: `length` tokens, the last of which carries the answer (None: none)."""

    length: int
    answer: str | None = None
    finish: Literal["stop", "length"] = "stop"
    confidence: tuple[float, ...] = ()

    def piece(self, at: int) -> str:
        if at < self.length - 1:
            return f"w{at} "
        return "end" if self.answer is None else f"\\boxed{{{self.answer}}}"

    def logprob(self, at: int) -> float:
        return -(self.confidence[at % len(self.confidence)] if self.confidence else 1.0)


@dataclass
class _Row:
    trace: Trace
    script: Script
    pending: int = 0


@dataclass
class ScriptedEngine:
    """A TraceEngine over scripts: trace i of a prompt plays script i. All that happened is in `log`."""

    scripts: list[Script]
    max_batch: int = 64
    chunk_tokens: int = 1
    fail_at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("the engine broke"))
    log: list[tuple[str, str]] = field(default_factory=list)
    lost: dict[int, int] = field(default_factory=dict)
    """Traces by index that are given up after so many tokens."""

    def __post_init__(self):
        self._rows: dict[str, _Row] = {}
        self._waiting: deque[_Row] = deque()
        self._batch: list[_Row] = []
        self._leaving: set[str] = set()
        self._outbox: deque[Chunk] = deque()
        self._streaming = False
        self._given_up: list[str] = []
        self._prompts = 0
        self.steps = self.kv_token_steps = self.peak = self.rebuilt = 0

    @property
    def stats(self):
        held = sum(len(row.trace.prompt_ids) + len(row.trace.token_ids) for row in self._batch)
        self.peak = max(self.peak, 2 * held)
        return SimpleNamespace(live_kv_bytes=2 * held, peak_kv_bytes=self.peak, kv_token_steps=self.kv_token_steps)

    def render(self, question):
        return f"<{question}>"

    def submit(self, prompt, sampling, n=1, ids=None):
        assert n <= len(self.scripts)
        names = [f"p{self._prompts}-{i}" for i in range(n)]
        self._prompts += 1
        for index, name in enumerate(names):
            row = _Row(Trace(name, index, tuple(map(ord, prompt)), sampling), self.scripts[index])
            self._rows[name] = row
            self._waiting.append(row)
        return names

    def stream(self):
        assert not self._streaming, "streaming already"
        self._streaming, given_up = True, len(self._given_up)
        try:
            while True:
                while self._outbox:
                    yield self._outbox.popleft()
                for row in [row for row in self._batch if row.trace.id in self._leaving]:
                    self._batch.remove(row)
                    row.trace.state, row.trace.finish_reason = "stopped", "stopped"
                    self._send(row)
                self._leaving.clear()
                if self._admit():
                    self._emit()
                if self._batch:
                    self._step()
                elif not self._waiting and not self._outbox:
                    if len(self._given_up) > given_up:
                        raise GivenUpError(f"trace {self._given_up[-1]!r} can't go on: the line was cut")
                    return
        finally:
            self._streaming = False

    def _admit(self):
        joined = False
        while self._waiting and len(self._batch) < self.max_batch:
            row = self._waiting.popleft()
            row.trace.state = "running"
            self._batch.append(row)
            if row.trace.token_ids:
                self.rebuilt += 1  # a resumed trace is prefilled again
            else:
                self._draw(row)
            joined = True
        return joined

    def _step(self):
        if self.fail_at is not None and self.steps >= self.fail_at:
            self.fail_at = None
            raise self.error
        self.steps += 1
        for row in self._batch:
            self.kv_token_steps += len(row.trace.prompt_ids) + len(row.trace.token_ids)
            self._draw(row)
        self._emit()

    def _draw(self, row):
        trace, script = row.trace, row.script
        at = len(trace.token_ids)
        trace.token_ids.append(100 * trace.index + at)
        trace.text += script.piece(at)
        if trace.sampling.confidence_top_k:
            trace.confidences.append(-script.logprob(at))
        row.pending += 1

    def _emit(self):
        for row in list(self._batch):
            trace = row.trace
            limit = len(trace.token_ids) >= trace.sampling.max_new_tokens
            if self._gives_up(row):
                trace.state, trace.finish_reason, trace.error = "stopped", "stopped", "the line was cut"
                self._given_up.append(trace.id)
                self._batch.remove(row)
                self._send(row)
                continue
            if len(trace.token_ids) >= row.script.length or limit:
                trace.state = "finished"
                trace.finish_reason = row.script.finish if len(trace.token_ids) >= row.script.length else "length"
                self._batch.remove(row)
                self._send(row)
            elif row.pending >= self.chunk_tokens:
                self._send(row)

    def _gives_up(self, row):
        return len(row.trace.token_ids) >= self.lost.get(row.trace.index, 1 << 30)

    def _send(self, row):
        ids = row.trace.token_ids
        fresh = tuple(ids[len(ids) - row.pending :])
        row.pending = 0
        self._outbox.append(Chunk(row.trace.id, fresh, "", None, row.trace.finish_reason))

    def stop(self, trace_id):
        row = self._rows[trace_id]
        self.log.append(("stop", trace_id))
        if row.trace.state == "waiting":
            self._waiting.remove(row)
            row.trace.state, row.trace.finish_reason = "stopped", "stopped"
        elif row.trace.state == "running":
            self._leaving.add(trace_id)

    def resume(self, trace_id):
        row = self._rows[trace_id]
        self.log.append(("resume", trace_id))
        if trace_id in self._leaving:
            self._leaving.discard(trace_id)
            return
        if row.trace.state != "stopped":
            raise LaconicError(f"trace {trace_id!r} is {row.trace.state}")
        row.trace.state, row.trace.finish_reason = "waiting", None
        self._waiting.append(row)

    def trace(self, trace_id):
        return self._rows[trace_id].trace

    def forget(self, trace_ids):
        for trace_id in trace_ids:
            assert self._rows[trace_id].trace.state in ("stopped", "finished")
            del self._rows[trace_id]

    def decode(self, token_ids):
        return "".join(self.scripts[t // 100].piece(t % 100) for t in token_ids)

    def states(self, trace_ids, tokens):
        raise InputError("a script has no states")

    def probe(self, trace_ids, suffix, steps):
        raise InputError("a script can't be asked anything")

    def kept(self, trace_id):
        raise InputError("a script keeps nothing")

    @property
    def clean(self):
        """Nothing of any run is left."""
        return not (self._rows or self._waiting or self._batch or self._outbox or self._streaming)


PROBE_COST = 10


@dataclass
class ProbedScripts(ScriptedEngine):
    """Scripts that can be asked: `said(index, tokens)` is what a trace would write at so many tokens. asked: every call."""

    said: Callable[[int, int], str] = lambda index, tokens: "}"
    asked: list[list[tuple[int, int]]] = field(default_factory=list)
    how: set[tuple[str, int, bool]] = field(default_factory=set)
    side_tokens: int = 0
    tokenizer: Any = None

    @property
    def stats(self):
        found = super().stats
        found.side_tokens = self.side_tokens
        return found

    def probe_texts(self, trace_ids, suffix, max_tokens, until_closed=False):
        traces = [self.trace(trace_id) for trace_id in trace_ids]
        assert all(trace.state in ("running", "stopped") for trace in traces)
        self.asked.append([(trace.index, len(trace.token_ids)) for trace in traces])
        self.how.add((suffix, max_tokens, until_closed))
        self.side_tokens += PROBE_COST * len(traces)
        return [self.said(trace.index, len(trace.token_ids)) for trace in traces]


class TableJudge:
    """P(same answer) from a function of two indices; readings are indices. Counts what it is asked."""

    name = "table"

    def __init__(self, same, excerpt=None, tokens=7, fail=None):
        self.same, self.excerpt, self.tokens, self.fail = same, excerpt, tokens, fail
        self.cost = Cost()
        self.read_calls: list[list[str]] = []
        self.seen = []

    def read(self, excerpts, engine=None):
        if self.fail is not None:
            raise self.fail
        self.read_calls.append([e.trace_id for e in excerpts])
        self.seen += excerpts
        self.cost.excerpts += len(excerpts)
        self.cost.tokens += self.tokens * len(excerpts)
        return [int(e.trace_id.split("-")[1]) for e in excerpts]

    def compare(self, pairs):
        self.cost.pairs += len(pairs)
        return [self.same(a, b) for a, b in pairs]


class MatrixJudge(TableJudge):
    """The same, all pairs at once."""

    name = "matrix"

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.matrices: list[int] = []

    def matrix(self, readings):
        self.matrices.append(len(readings))
        return torch.tensor([[float(self.same(a, b)) for b in readings] for a in readings], dtype=torch.float64)


def perfect(scripts):
    """Who sees the answers; no answer agrees with nothing."""
    return lambda a, b: float(scripts[a].answer is not None and scripts[a].answer == scripts[b].answer)


def noisy(scripts, seed, error=0.2):
    """Right with a chance, symmetric."""

    def same(a, b):
        draw = random.Random(f"{seed}:{min(a, b)}:{max(a, b)}")
        right = perfect(scripts)(a, b)
        wrong = draw.random() < error
        return (1 - right if wrong else right) * 0.8 + 0.2 * draw.random()

    return same
