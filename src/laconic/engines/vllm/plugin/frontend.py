"""What the front end's process adds: bad per-request settings are refused before they reach the engine, counts become
metrics.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.utils.math_utils import cdiv
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.metrics.loggers import StatLoggerManager

from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.metrics import PrometheusMetrics, take_counts
from laconic.engines.vllm.plugin.model_info import resolve_request
from laconic.engines.vllm.plugin.plans import make_plan
from laconic.errors import InputError, LaconicError


def install_hooks() -> None:
    """Put the hooks into this process, once. Each looks at its object's configuration first: stock ones are left as they
    are.
    """
    if getattr(InputProcessor.process_inputs, "by_laconic", False):
        return
    process, record, start = InputProcessor.process_inputs, StatLoggerManager.record, StatLoggerManager.__init__

    @functools.wraps(process)
    def process_inputs(self: InputProcessor, *args: Any, **kwargs: Any) -> EngineCoreRequest:
        request = process(self, *args, **kwargs)
        if settings_of(self.vllm_config) is not None:
            try:
                check_request(request, self.vllm_config)
            except LaconicError as error:
                raise VLLMValidationError(f"laconic: {error}") from None
        return request

    @functools.wraps(start)
    def start_loggers(self: StatLoggerManager, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        start(self, vllm_config, *args, **kwargs)
        if settings_of(vllm_config) is not None:
            self.laconic_metrics = PrometheusMetrics(vllm_config.model_config.served_model_name)

    @functools.wraps(record)
    def record_stats(self: StatLoggerManager, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
        metrics = getattr(self, "laconic_metrics", None)
        if metrics is not None:
            engine = kwargs.get("engine_idx") or 0
            metrics.observe(take_counts(scheduler_stats), engine)
        record(self, scheduler_stats, *args, **kwargs)

    process_inputs.by_laconic = True  # type: ignore[attr-defined]
    InputProcessor.process_inputs = process_inputs
    StatLoggerManager.__init__ = start_loggers
    StatLoggerManager.record = record_stats


def blocks_of_an_engine(vllm_config: Any) -> int:
    """KV blocks of each engine; 0 where none has told. A front end of several (data parallel) is told their sum, and a
    request lives in one of them."""
    parallel = vllm_config.parallel_config
    engines = parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    return (vllm_config.cache_config.num_gpu_blocks or 0) // max(1, engines)


def check_request(request: EngineCoreRequest, vllm_config: Any) -> None:
    """Raises InputError for settings that are wrong, a streaming session, or a request that could never fit the KV cache.

    What a policy looks up is said in the request's settings afterwards.
    """
    launch = settings_of(vllm_config)
    if launch is None or request.sampling_params is None:
        return
    if request.resumable:
        raise InputError(
            "streaming sessions add to a prompt after it was compressed, which is not supported: send it whole"
        )
    if request.prompt_token_ids is None:
        raise InputError("prompts given as embeddings are not supported: send token ids or text")
    params, sent = request.sampling_params, len(request.prompt_token_ids)
    most = vllm_config.model_config.max_model_len
    end = most if params.max_tokens is None else min(sent + params.max_tokens, most)
    resolve_request(params, launch, vllm_config)
    plan = make_plan(params.extra_args, sent, end, launch)
    blocks, size = blocks_of_an_engine(vllm_config), vllm_config.cache_config.block_size
    if blocks:
        peak = plan.peak(max(sent, plan.end - 1))  # the last token's KV is never computed
        if cdiv(peak, size) > blocks - 1:  # one block is vLLM's own
            raise InputError(
                f"the request would hold {peak} tokens at its peak ({plan.prompt} of prompt, {plan.end - plan.prompt} "
                f"generated, policy {plan.policy.spec()}), but the KV cache has room for {(blocks - 1) * size}: lower "
                "max_tokens, shorten the prompt or compress more"
            )
