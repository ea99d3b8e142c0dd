"""One trace as the engine's loop sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from laconic.engines.base import Chunk, FinishReason, Trace
from laconic.engines.text import Detokenizer
from laconic.engines.vllm.engine.counts import Holding
from laconic.engines.vllm.engine.draw_params import DrawParams
from laconic.engines.vllm.engine.messages import Request
from laconic.engines.vllm.plugin.settings import KEY


@dataclass(slots=True, eq=False)
class Run:
    """number: in order of submission; key: of its random stream; limit: tokens it may generate. request: its present one's id;
    holding: what it holds, from that request's first token on. pending: tokens, text and log-probabilities that no chunk has
    carried yet.
    """

    trace: Trace
    number: int
    key: int
    limit: int
    stop_ids: frozenset[int]
    text: Detokenizer
    request: str = ""
    holding: Holding | None = None
    pending: list[int] = field(default_factory=list)
    pending_text: list[str] = field(default_factory=list)
    pending_logprobs: list[float] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Generated tokens whose KV has been computed: all but the newest."""
        return max(len(self.trace.token_ids) - 1, 0)

    def make_request(self, compresses: bool, vocabulary: int) -> Request:
        """The request that goes on from the trace's tokens. compresses: the engine has a policy that does."""
        trace, sampling = self.trace, self.trace.sampling
        at = len(trace.token_ids)
        extra: dict[str, Any] = {}
        if sampling.temperature > 0:
            extra |= DrawParams(self.key, at, sampling).to_extra_args()
        if at and compresses:
            extra[KEY] = {"prompt_tokens": len(trace.prompt_ids)}
        tokens = (*trace.prompt_ids, *trace.token_ids)
        logprobs = min(sampling.logprobs, vocabulary)
        return Request(self.request, tokens, self.limit - at, self.stop_ids, logprobs, extra)

    def add(self, token: int, logprob: float | None) -> None:
        """The next token."""
        trace = self.trace
        trace.token_ids.append(token)
        self.pending.append(token)
        if logprob is not None:
            trace.logprobs.append(logprob)
            self.pending_logprobs.append(logprob)
        if token not in self.stop_ids:
            self.pending_text.append(self.text.add(token))
            trace.text = self.text.text

    def finish_text(self) -> None:
        """The trace has ended: what the detokenizer held back comes now."""
        held_back = self.text.finish([token for token in self.trace.token_ids if token not in self.stop_ids])
        self.pending_text.append(held_back)
        self.trace.text = self.text.text

    def flush(self, reason: FinishReason | None = None) -> Chunk:
        """What is pending, as a chunk."""
        logprobs = tuple(self.pending_logprobs) if self.trace.sampling.logprobs else None
        chunk = Chunk(self.trace.id, tuple(self.pending), "".join(self.pending_text), logprobs, reason)
        self.pending, self.pending_text, self.pending_logprobs = [], [], []
        return chunk
