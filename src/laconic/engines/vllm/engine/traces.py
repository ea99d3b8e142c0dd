"""One trace as VLLMEngine's loop sees it, and the request that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laconic.compress import Policy
from laconic.engines.scheduler import ScheduledTrace
from laconic.engines.vllm.engine.counts import Holding
from laconic.engines.vllm.engine.draw_params import DrawParams
from laconic.engines.vllm.engine.messages import Request
from laconic.engines.vllm.plugin.settings import KEY, policy_mapping


@dataclass(slots=True, eq=False, kw_only=True)
class VLLMTrace(ScheduledTrace):
    """A trace in VLLMEngine."""

    key: int
    """Of its random stream."""
    policy: Policy
    """Under which it runs."""
    request: str = ""
    """Its present request's id; empty: it has none."""
    holding: Holding | None = None
    """What it holds, from that request's first token on."""

    def make_request(self, launch: Policy, vocabulary: int) -> Request:
        """The request that goes on from the trace's tokens. launch: the policy of requests that name none."""
        trace, sampling = self.trace, self.trace.sampling
        at = len(trace.token_ids)
        extra: dict[str, Any] = {}
        if sampling.temperature > 0:
            extra |= DrawParams(self.key, at, sampling).to_extra_args()
        own = {} if self.policy == launch else policy_mapping(self.policy)
        if at and self.policy.schedule.next_boundary(0) is not None:
            own["prompt_tokens"] = len(trace.prompt_ids)
        if own:
            extra[KEY] = own
        tokens = (*trace.prompt_ids, *trace.token_ids)
        top_k = min(sampling.confidence_top_k, vocabulary)
        logprobs = None if sampling.logprobs is None else min(sampling.logprobs, vocabulary)
        return Request(self.request, tokens, self.limit - at, self.stop_ids, top_k, logprobs, extra)
