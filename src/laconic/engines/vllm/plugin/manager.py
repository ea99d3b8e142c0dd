"""The KV cache of compressed requests on the scheduler's side: how many blocks they need, and which may be shared.

Registered with vLLM's own registry of KV-cache specs, so that stock code builds the manager where a worker reports
`CompressedAttentionSpec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager, register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request

from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.plans import CompressionPlan


@dataclass(frozen=True, kw_only=True)
class CompressedAttentionSpec(FullAttentionSpec):
    """Full attention whose generated tokens are compressed: the most memory of a request is that of its physical peak."""

    def max_memory_usage_bytes(self, vllm_config: VllmConfig) -> int:
        """Bytes that the longest request can take. Its prompt is taken to be one token: a longer one, which is never
        compressed, is checked when it is sent."""
        settings = settings_of(vllm_config)
        most = vllm_config.model_config.max_model_len
        if settings is not None:
            most = CompressionPlan(settings.policy, prompt=1, end=most).peak(most)
        return cdiv(most, self.block_size) * self.page_size_bytes


class CompressedAttentionManager(FullAttentionManager):
    """Counts a request's blocks by what it holds, not by how long it is; shares only blocks of prompts.

    `plans` is the scheduler's dictionary: request id -> CompressionPlan.
    """

    plans: dict[str, CompressionPlan]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plans = {}

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[KVCacheBlock],
        total_computed_tokens: int,
        num_local_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
        prefill_end: int = 0,
    ) -> int:
        plan = self.plans.get(request_id)
        if plan is not None and num_tokens:
            # The admission cap asks for a whole sequence, which passes compressions; otherwise for one step, which ends at one.
            num_tokens = plan.peak(num_tokens) if apply_admission_cap else plan.slots_needed(num_tokens)
        return super().get_num_blocks_to_allocate(
            request_id,
            num_tokens,
            new_computed_blocks,
            total_computed_tokens,
            num_local_computed_tokens,
            num_tokens_main_model,
            apply_admission_cap,
            prefill_end,
        )

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> list[KVCacheBlock]:
        plan = self.plans.get(request_id)
        if plan is not None:
            num_tokens = num_tokens_main_model = plan.slots_needed(num_tokens)
        return super().allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)

    def cache_blocks(self, request: Request, num_tokens: int, *args: Any, **kwargs: Any) -> None:
        """Generated tokens move when a compression comes, so their blocks are never hashed for others to find."""
        plan = self.plans.get(request.request_id)
        if plan is not None:
            num_tokens = min(num_tokens, plan.prompt)
        super().cache_blocks(request, num_tokens, *args, **kwargs)

    def num_blocks(self, request_id: str) -> int:
        """How many blocks the request has now."""
        return len(self.req_to_blocks.get(request_id, ()))

    def free_tail(self, request_id: str, held: int) -> int:
        """Give back the blocks that `held` tokens don't need. Returns how many."""
        blocks = self.req_to_blocks.get(request_id)
        keep = cdiv(held, self.block_size)
        if not blocks or len(blocks) <= keep:
            return 0
        tail = blocks[keep:]
        del blocks[keep:]
        self.block_pool.free_blocks(reversed(tail))
        return len(tail)


def _register() -> None:
    # The registry counts as filled once anything is in it, so its own entries have to come first.
    register_all_kvcache_specs(None)
    KVCacheSpecRegistry.register(
        CompressedAttentionSpec, CompressedAttentionManager, uniform_type_base_spec=FullAttentionSpec
    )


# Whoever unpickles a worker's spec imports this module, and so knows the spec's manager.
_register()
