"""What laconic refuses to run beside, checked when vLLM starts. Every refusal is one sentence with its reason.

All hooks are private interfaces of vLLM. So the versions they were tested with are listed, and the signatures they rely on are
compared, before anything runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from laconic.engines.vllm.plugin.launch import ASYNC_SCHEDULER, SCHEDULER, WORKERS, settings_of
from laconic.engines.vllm.plugin.settings import LaunchSettings
from laconic.errors import InputError

VERSIONS = ("0.32.0",)
"""Versions of vLLM that the tests ran with."""

SIGNATURES = {
    "vllm.v1.core.sched.scheduler:Scheduler._reserve_prefill_lookahead": "self request num_computed_tokens num_new_tokens",
    "vllm.v1.core.sched.scheduler:Scheduler._update_after_schedule": "self scheduler_output",
    "vllm.v1.core.sched.scheduler:Scheduler._get_local_prefix_cache_hit": "self request",
    "vllm.v1.core.sched.scheduler:Scheduler._free_blocks": "self request",
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": "self request",
    "vllm.v1.core.kv_cache_manager:KVCacheManager.truncate_computed_blocks": "self blocks num_computed_tokens",
    "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager.get_num_blocks_to_allocate": (
        "self request_id num_tokens new_computed_blocks total_computed_tokens num_local_computed_tokens num_tokens_main_model "
        "apply_admission_cap prefill_end"
    ),
    "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager.allocate_new_blocks": (
        "self request_id num_tokens num_tokens_main_model"
    ),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs": "self scheduler_output num_scheduled_tokens",
    "vllm.v1.worker.block_table:MultiGroupBlockTable.compute_slot_mapping": "self num_reqs query_start_loc positions",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.prepare_attn": "self input_batch",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.execute_model": (
        "self scheduler_output intermediate_tensors dummy_run skip_attn_for_dummy_run is_profile context_len "
        "valid_dummy_state_slots randomize_inputs"
    ),
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionBackendImpl.do_kv_cache_update": (
        "self layer key value kv_cache slot_mapping"
    ),
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": (
        "self request_id prompt params supported_tasks arrival_time lora_request tokenization_kwargs trace_headers priority "
        "data_parallel_rank resumable session_id kv_hints"
    ),
}
"""Parameters, in order, of what our hooks override or call."""

NO_SETTINGS = (
    "laconic's scheduler or worker was chosen, but --additional-config has no settings for it: give "
    """--additional-config '{"laconic": {"policy": "rpc", "interval": 1024, "ratio": 4}}', or leave the class out"""
)


def check_version(version: str) -> None:
    """Raises InputError for a vLLM that the hooks weren't tested with."""
    # A build's own suffix (0.32.0+cpu) says nothing of the sources.
    if version.split("+")[0] not in VERSIONS:
        raise InputError(
            f"vLLM is {version}, but laconic's hooks were tested with {', '.join(VERSIONS)} only: install that version, or "
            "start without laconic's settings"
        )


def check_environment(environ: Mapping[str, str]) -> None:
    """Raises InputError for a front end in which nobody would refuse a bad request."""
    if environ.get("VLLM_USE_RUST_FRONTEND", "0").strip() not in ("", "0"):
        raise InputError(
            "vLLM's Rust front end neither checks the settings of single requests nor shows laconic's metrics: unset "
            "VLLM_USE_RUST_FRONTEND, or start without laconic's settings"
        )


def check_signatures(expected: dict[str, str] = SIGNATURES) -> None:
    """Raises InputError if a function that our hooks rely on has other parameters than it had when they were tested."""
    for path, wanted in expected.items():
        module, _, name = path.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            raise InputError(
                f"this vLLM has no {path}, which laconic's hooks need: install vLLM {VERSIONS[-1]}"
            ) from None
        have = " ".join(inspect.signature(found).parameters)
        if have != wanted:
            raise InputError(
                f"{path} of this vLLM takes ({have}), but laconic's hooks were written for ({wanted}): install vLLM "
                f"{VERSIONS[-1]}"
            )


def check_config(vllm_config: Any) -> None:
    """Raises InputError for a configuration that can't be compressed, with the reason."""
    for reason in _unsupported_features(vllm_config):
        raise InputError(f"laconic can't compress under this configuration: {reason}")


def _unsupported_features(config: Any) -> Iterator[str]:
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    if model is None:
        yield "there is no model"
        return
    if config.speculative_config is not None:
        yield "speculative decoding takes back tokens that may be evicted already; leave --speculative-config out"
    if model.runner_type != "generate":
        yield f"the model runs as {model.runner_type}, and only generated tokens are compressed"
    if model.is_encoder_decoder:
        yield "encoder-decoder models have a second cache, which is not supported"
    if model.is_attention_free or model.is_hybrid:
        yield "hybrid models with recurrent or linear layers are not supported"
    if model.use_mla:
        yield "multi-head latent attention (MLA) keeps no key for each head, which is not supported"
    if model.is_multimodal_model and not _text_only(model):
        yield "multimodal models are not supported; start a text-only one, or with --language-model-only"
    window = model.get_sliding_window()
    layer_types = set(getattr(model.hf_text_config, "layer_types", None) or ["full_attention"])
    if window is not None or layer_types != {"full_attention"}:
        kinds = _layer_kinds(window, layer_types)
        yield f"layers with a sliding window or another cache than full attention ({kinds}) are not supported"
    embedding = str(getattr(model.hf_text_config, "position_embedding_type", ""))
    if getattr(model.hf_text_config, "alibi", False) or "alibi" in embedding:
        yield "ALiBi takes a token's distance from its place in the cache, which changes when others are evicted"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        yield "context parallelism spreads one request's tokens over several devices; set both context parallel sizes to 1"
    if getattr(parallel, "use_ubatching", False):
        yield "dual batch overlap splits a step in two; leave --enable-dbo out"
    if config.kv_transfer_config is not None:
        yield "a KV connector expects every token's KV to be there; leave --kv-transfer-config out"
    if cache.cache_dtype not in ("auto", "float32", "float16", "bfloat16", "half", "float"):
        yield f"a quantized KV cache ({cache.cache_dtype}) can't be read back exactly; set --kv-cache-dtype auto"
    if getattr(cache, "kv_sharing_fast_prefill", False):
        yield "layers that share their KV are not supported; leave --kv-sharing-fast-prefill out"
    if parallel.worker_cls not in WORKERS and parallel.worker_cls not in WORKERS.values():
        yield f"worker class {parallel.worker_cls} is none of those that laconic extends: {', '.join(WORKERS)}"
    refused = _refused_block_size(config)
    if refused:
        yield refused
    chosen = config.scheduler_config.scheduler_cls
    if chosen is not None and _class_path(chosen) not in (SCHEDULER, ASYNC_SCHEDULER):
        yield f"scheduler class {_class_path(chosen)} is not laconic's; leave --scheduler-cls out, laconic sets its own"


def _refused_block_size(config: Any) -> str:
    """Why the attention backend can't use the block size; "" if it can, or if vLLM has yet to choose the backend."""
    if config.parallel_config.worker_cls.rpartition(".")[2].endswith("CPUWorker"):
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend as backend
    else:
        chosen = config.attention_config.backend
        if chosen is None:
            return ""
        backend = chosen.get_class()
    size = config.cache_config.block_size
    if backend.supports_block_size(size):
        return ""
    known = ", ".join(str(getattr(s, "base", s)) for s in backend.get_supported_kernel_block_sizes())
    name = backend.get_name()
    return f"the attention backend {name} takes no blocks of {size} tokens; give --block-size a multiple of {known}"


def check_launch_complete(vllm_config: Any) -> LaunchSettings:
    """The settings, or a LaconicError: our scheduler or worker was chosen by hand and its counterpart is not there."""
    settings = settings_of(vllm_config)
    if settings is None:
        raise InputError(NO_SETTINGS)
    if vllm_config.parallel_config.worker_cls not in WORKERS.values():
        raise InputError(
            "laconic's scheduler runs, but its worker doesn't: vLLM did not load laconic's plugin. Is VLLM_PLUGINS set? Unset "
            "it, or add laconic to it"
        )
    return settings


def _text_only(model: Any) -> bool:
    multimodal = getattr(model, "multimodal_config", None)
    return multimodal is not None and bool(getattr(multimodal, "language_model_only", False))


def _layer_kinds(window: object, layer_types: set[str]) -> str:
    said = sorted(layer_types - {"full_attention"})
    return ", ".join(said) if said else f"window {window}"


def _class_path(cls: object) -> str:
    return cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"  # type: ignore[attr-defined]
