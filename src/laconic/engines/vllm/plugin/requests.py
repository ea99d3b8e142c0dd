"""A request's plan, made from what vLLM knows of it: in the front end to refuse it in time, in the scheduler and the
workers to act.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.engines.vllm.plugin.settings import KEY, LaunchSettings, parse_request
from laconic.errors import InputError


def make_plan(extra_args: Mapping[str, Any] | None, sent: int, end: int, launch: LaunchSettings) -> CompressionPlan:
    """The plan of a request of `sent` tokens that ends at `end` tokens at most.

    Raises InputError for bad settings, and a `prompt_tokens` beyond what was sent.
    """
    asked = parse_request((extra_args or {}).get(KEY), launch)
    prompt = sent if asked.prompt_tokens is None else asked.prompt_tokens
    if prompt > sent:
        raise InputError(f"prompt_tokens is {prompt}, but {sent} tokens were sent; expected at most that")
    return CompressionPlan(asked.policy, prompt, max(end, sent))


def plan_of(request: Any, launch: LaunchSettings, max_model_len: int) -> CompressionPlan:
    """The plan of a scheduler's request (vllm.v1.request.Request)."""
    params, sent = request.sampling_params, request.num_prompt_tokens
    end = min(sent + request.max_tokens, max_model_len)
    return make_plan(None if params is None else params.extra_args, sent, end, launch)
