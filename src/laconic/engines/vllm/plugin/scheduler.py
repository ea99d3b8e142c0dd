"""vLLM's schedulers, with compression: blocks go back when their tokens are evicted, requests are admitted by what they
will hold.

The mixin adds to the stock classes and replaces none of their loops:

- a chunk of prefill ends where a compression is due (so a preempted request, recomputed from its tokens, is compressed exactly
  where it was);
- after a step has been scheduled, each request that comes to a compression gives back the blocks that it won't need. The
  worker compacts at the end of that step, and whatever is written into those blocks is scheduled later;
- a request is admitted if what it will take until its next compression fits beside what the running ones will take until
  theirs;
- cache hits end with the prompt.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.async_scheduler import AsyncScheduler as StockAsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler as StockScheduler
from vllm.v1.request import Request, RequestStatus

from laconic.engines.vllm.plugin.guards import check_launch_complete
from laconic.engines.vllm.plugin.manager import CompressedAttentionManager
from laconic.engines.vllm.plugin.metrics import CompressionCounts
from laconic.engines.vllm.plugin.plans import CompressionPlan, plan_of
from laconic.errors import InputError


class CompressionSchedulerMixin(StockScheduler):
    """The mixin; goes before a stock scheduler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.launch_settings = check_launch_complete(self.vllm_config)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        if len(managers) != 1 or not isinstance(managers[0], CompressedAttentionManager):
            kinds = ", ".join(type(m.kv_cache_spec).__name__ for m in managers)
            raise InputError(
                f"laconic compresses models whose layers all attend to everything, but this one's KV cache has {kinds}: "
                "serve it without laconic's settings"
            )
        # vLLM may put one manager a kind of layer; with full attention alone there is one.
        self.cache_manager = managers[0]
        self.plans: dict[str, CompressionPlan] = self.cache_manager.plans
        self.compression_counts = CompressionCounts()
        # `schedule` asks the KV-cache manager whether a request fits; it has no hook of its own for another answer.
        self._stock_allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = partial(self._allocate)
        # Blocks that the running requests will yet take until their next compressions; None: not counted in this step.
        self._promised_blocks: int | None = None

    # ---- a request comes and goes ---------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        if request.request_id not in self.plans:
            self.plans[request.request_id] = plan_of(request, self.launch_settings, self.max_model_len)
        super().add_request(request)

    def _free_blocks(self, request: Request) -> None:
        super()._free_blocks(request)
        self.plans.pop(request.request_id, None)

    # ---- a step ---------------------------------------------------------------------------------------------------

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        self._promised_blocks = None
        return super().schedule(*args, **kwargs)

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        new = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        return self.plans[request.request_id].clip_step(num_computed_tokens, new)

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        super()._update_after_schedule(scheduler_output)
        for request_id, new in scheduler_output.num_scheduled_tokens.items():
            plan, computed = self.plans[request_id], self.requests[request_id].num_computed_tokens
            evicted = plan.evicted(computed) - plan.evicted(computed - new)
            if evicted:
                self.compression_counts.add(evicted, self.cache_manager.free_tail(request_id, plan.held(computed)))

    def _get_local_prefix_cache_hit(self, request: Request) -> tuple[KVCacheBlocks, int, int, bool]:
        blocks, hit, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        # Tokens that were generated here may have been another's prompt, in full: not what a compressed cache would hold.
        most = self.plans[request.request_id].prompt // self.block_size * self.block_size
        if hit > most:
            blocks, hit = self.kv_cache_manager.truncate_computed_blocks(blocks, most), most
        return blocks, hit, boundary, diverged

    # ---- admission ------------------------------------------------------------------------------------------------

    def _allocate(self, request: Request, num_new_tokens: int, *args: Any, **kwargs: Any) -> KVCacheBlocks | None:
        """In place of the KV-cache manager's `allocate_slots`; None: the request has to wait.

        Stock admits a request if its next chunk fits. A step that comes to a compression holds the most tokens, so a request
        admitted by its chunk alone would soon be preempted, or preempt others, over and over.
        """
        if request.status not in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
            return self._stock_allocate(request, num_new_tokens, *args, **kwargs)
        if self.running:  # alone, a request takes what it needs as it needs it
            if self._promised_blocks is None:
                self._promised_blocks = sum(self._blocks_until_boundary(other) for other in self.running)
            # Blocks of the prompt that others hold already cost nothing; those that are cached but free have to be taken.
            hits = kwargs.get("new_computed_blocks")
            shared = 0 if hits is None else sum(block.ref_cnt > 0 for block in hits.blocks[0])
            more = cdiv(self._tokens_until_boundary(request), self.block_size) - shared
            if more + self._promised_blocks > self.cache_manager.block_pool.get_num_free_blocks():
                return None
        got = self._stock_allocate(request, num_new_tokens, *args, **kwargs)
        if got is not None and self._promised_blocks is not None:
            self._promised_blocks += self._blocks_until_boundary(request)
        return got

    def _tokens_until_boundary(self, request: Request) -> int:
        """The most tokens the request will hold until the next compression after those it has to repeat."""
        plan = self.plans[request.request_id]
        return max(plan.peak(request.num_tokens), plan.peak_until_boundary(request.num_tokens))

    def _blocks_until_boundary(self, request: Request) -> int:
        """Blocks that the request will yet take until its next compression."""
        needed = cdiv(self._tokens_until_boundary(request), self.block_size)
        return max(0, needed - self.cache_manager.num_blocks(request.request_id))

    # ---- seen from outside ----------------------------------------------------------------------------------------

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        stats = super().make_stats(*args, **kwargs)
        if stats is not None:
            computed = [(self.plans[r.request_id], r.num_computed_tokens) for r in self.running]
            physical = sum(plan.held(count) for plan, count in computed)
            self.compression_counts.report(stats, physical=physical, logical=sum(count for _, count in computed))
        return stats


class CompressionScheduler(CompressionSchedulerMixin):
    """The synchronous scheduler with compression."""


class AsyncCompressionScheduler(CompressionSchedulerMixin, StockAsyncScheduler):
    """The asynchronous scheduler with compression."""
