"""vLLM's workers, with compression: they report the compressed cache, keep the query ring, and hook their model runner."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_layers_from_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec
from vllm.v1.worker.gpu_worker import Worker

from laconic.engines.vllm.plugin.compaction import AttentionLayer
from laconic.engines.vllm.plugin.compressor import Compressor
from laconic.engines.vllm.plugin.guards import check_launch_complete
from laconic.engines.vllm.plugin.layouts import check_layout, layout_of
from laconic.engines.vllm.plugin.manager import CompressedAttentionSpec
from laconic.engines.vllm.plugin.model_info import WorkerModelInfo, first_head, layer_index
from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.engines.vllm.plugin.ring import QueryRing
from laconic.engines.vllm.plugin.settings import LaunchSettings
from laconic.errors import InputError

logger = init_logger("vllm.laconic")


class CompressionWorkerMixin:
    """The mixin; goes before a stock worker."""

    compressor: Compressor
    model_info: WorkerModelInfo

    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        # Now, before memory is measured: what the ring takes is not promised to the KV cache.
        settings = check_launch_complete(self.vllm_config)
        scheduling = self.vllm_config.scheduler_config
        layers = attention_layers(self.vllm_config)
        ring = None
        if settings.queries:
            ring = QueryRing(
                {name: (layer.num_heads, layer.head_size) for name, layer in layers.items()},
                requests=scheduling.max_num_seqs,
                queries=settings.queries,
                tokens=_max_step_tokens(self.vllm_config),
                dtype=self.model_config.dtype,
                device=self.device,
            )
            for name, layer in layers.items():
                _record_queries(layer, name, ring)
        across = _mean_over_ranks(self.parallel_config.tensor_parallel_size)
        most = self.model_config.max_model_len
        self.model_info = info = WorkerModelInfo(self.vllm_config, get_tensor_model_parallel_rank(), self.device)
        for policy in settings.policies:
            info.fit(policy)
        self.compressor = Compressor(settings, scheduling.max_num_seqs, most, ring, across, info.fit)
        logger.info("%s", start_line(settings, most, scheduling.max_num_seqs, ring, info.bytes))

    def get_kv_cache_spec(self: Any) -> dict[str, KVCacheSpec]:
        return {name: _compressed_spec(name, spec) for name, spec in super().get_kv_cache_spec().items()}  # type: ignore[misc]

    def initialize_from_config(self: Any, kv_cache_config: Any) -> None:
        super().initialize_from_config(kv_cache_config)  # type: ignore[misc]
        head = first_head(self.vllm_config, get_tensor_model_parallel_rank())
        self.compressor.layers = [
            _attention_layer(layer_index(name, place), name, layer, head)
            for place, (name, layer) in enumerate(attention_layers(self.vllm_config).items())
        ]
        self.compressor.block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        if self.use_v2_model_runner:
            from laconic.engines.vllm.plugin.runner_v2 import RunnerHooksV2

            self.runner_hooks = RunnerHooksV2(self.model_runner, self.compressor)
        else:
            from laconic.engines.vllm.plugin.runner_v1 import RunnerHooksV1

            self.runner_hooks = RunnerHooksV1(self.model_runner, self.compressor)


class CompressionWorker(CompressionWorkerMixin, Worker):
    """A GPU's worker with compression."""


def attention_layers(vllm_config: Any) -> dict[str, Any]:
    """This worker's attention layers by name, in order. Raises InputError for one that can't be compressed."""
    layers = get_layers_from_vllm_config(vllm_config, Attention)
    for name, layer in layers.items():
        reason = ""
        if layer.sliding_window is not None:
            reason = "attends to a sliding window"
        elif layer.kv_sharing_target_layer_name is not None:
            reason = "shares another layer's KV"
        elif getattr(layer.impl, "alibi_slopes", None) is not None:
            reason = "uses ALiBi, which takes distances from places in the cache"
        if reason:
            raise InputError(f"layer {name} {reason}, which is not supported: serve without laconic's settings")
    return dict(layers)


def start_line(
    settings: LaunchSettings, max_model_len: int, max_requests: int, ring: QueryRing | None, selectors: int = 0
) -> str:
    """What the log says at start. selectors: bytes that they take."""
    policy = settings.policy
    first = policy.schedule.next_boundary(0)
    when = "no compression" if first is None else f"first compression at {first} generated tokens"
    second = None if first is None else policy.schedule.next_boundary(first)
    if first is not None and second is not None:
        when += f", then every {second - first}"
    most = CompressionPlan(policy, prompt=1, end=max_model_len).peak(max_model_len)
    kept = "no queries kept"
    if ring is not None:
        kept = f"{ring.queries} queries a request kept, {ring.bytes / 2**20:.1f} MiB for {max_requests} requests"
    if selectors:
        kept += f"; selectors of {selectors / 2**20:.1f} MiB"
    return (
        f"laconic: policy {policy.spec()}: {when}; {max_model_len} tokens take the memory of {most} at most; {kept}. "
        "Requests may ask for other settings."
    )


def _compressed_spec(name: str, spec: KVCacheSpec) -> KVCacheSpec:
    if type(spec) is not FullAttentionSpec:
        raise InputError(
            f"layer {name} keeps its cache as {type(spec).__name__}; only full attention can be compressed: serve without "
            "laconic's settings"
        )
    return CompressedAttentionSpec(**{f.name: getattr(spec, f.name) for f in fields(spec) if f.init})


def _max_step_tokens(vllm_config: Any) -> int:
    """The most tokens of a step, the padding of CUDA graphs included."""
    captured = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    scheduling = vllm_config.scheduler_config
    return max(scheduling.max_num_batched_tokens, scheduling.max_num_seqs, *captured) + 1


def _record_queries(layer: Any, name: str, ring: QueryRing) -> None:
    """Let a layer's queries pass through the ring. They are rotated already where the backend sees them."""
    stock = layer.impl.forward
    cuda = torch.cuda.is_available()

    def forward(layer: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        # A graph that is being captured has to hold the write, whoever's queries will be wanted when it runs.
        if ring.active or (cuda and torch.cuda.is_current_stream_capturing()):
            ring.write(name, query)
        return stock(layer, query, *args, **kwargs)

    layer.impl.forward = forward


def _attention_layer(index: int, name: str, layer: Any, first_head: int) -> AttentionLayer:
    def write(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        layer.impl.do_kv_cache_update(layer, key, value, cache, slots)

    backend = layer.attn_backend.get_name()
    layout = layout_of(backend, layer.kv_cache, layer.head_size, write)
    check_layout(layout, layer.kv_cache, layer.num_kv_heads, layer.head_size, write)
    return AttentionLayer(
        name=name,
        index=index,
        heads=layer.num_heads,
        kv_heads=layer.num_kv_heads,
        first_head=first_head,
        head_size=layer.head_size,
        scaling=layer.impl.scale,
        cache=lambda: layer.kv_cache,
        write=write,
        layout=layout,
    )


def _mean_over_ranks(size: int) -> Any:
    if size == 1:
        return None
    from vllm.distributed import tensor_model_parallel_all_reduce

    return lambda mean: tensor_model_parallel_all_reduce(mean) / size
