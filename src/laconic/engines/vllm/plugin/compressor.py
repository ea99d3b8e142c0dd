"""What a worker knows of its requests' compression, apart from which of vLLM's model runners it serves.

Before a step: `begin_step` (who came and went), `prepare_step` (who has lost how many tokens, whose queries are kept). After
it: `finish_step` compacts those that came to a compression. All from counts that the worker has anyway; the scheduler, from
the same counts, has given the same blocks back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.compress import Policy
from laconic.engines.vllm.plugin.compaction import AttentionLayer, DueRequest, compact
from laconic.engines.vllm.plugin.plans import CompressionPlan, make_plan
from laconic.engines.vllm.plugin.ring import QueryRing
from laconic.engines.vllm.plugin.settings import LaunchSettings

NEVER = np.iinfo(np.int64).max
"""Where no compression is due."""


@dataclass(slots=True)
class RequestState:
    """A request that this worker holds blocks of."""

    plan: CompressionPlan
    slot: int
    """Its slot in the ring and in the compressor's arrays."""
    positions: dict[str, Tensor] = field(default_factory=dict)
    """Which generated tokens its layers hold: see `DueRequest.positions`."""


class Compressor:
    """Carries out the compressions of one worker's requests.

    max_requests: requests that run at once, at most. ring: their latest queries; None: no policy reads any. across: see
    `Evidence`. fit: gives a policy what it needs of the model (`Policy.for_model`); asked at each compression. `layers` and
    `block_size` (tokens) are set once there is a KV cache.
    """

    def __init__(
        self,
        settings: LaunchSettings,
        max_requests: int,
        max_model_len: int,
        ring: QueryRing | None,
        across: Callable[[Tensor], Tensor] | None = None,
        fit: Callable[[Policy], Policy] = lambda policy: policy,
    ) -> None:
        self.settings, self.max_model_len, self.ring = settings, max_model_len, ring
        self.across, self.fit = across, fit
        self.layers: list[AttentionLayer] = []
        self.block_size = 0
        # A preempted request keeps its plan and loses its state: it starts anew, from its first token, in another slot.
        self._plans: dict[str, CompressionPlan] = {}
        self._requests: dict[str, RequestState] = {}
        self._free = list(range(max_requests - 1, -1, -1))
        # By slot, so that a step's arithmetic over all its requests is a few array operations: tokens evicted, the count of
        # computed tokens at the next compression, and the latest queries that it will read.
        self._evicted = np.zeros(max_requests, dtype=np.int64)
        self._boundary = np.full(max_requests, NEVER, dtype=np.int64)
        self._window = np.zeros(max_requests, dtype=np.int64)
        # Requests that come to a compression with the step under way, and their computed tokens then.
        self._due: list[tuple[str, int]] = []

    # ---- before a step --------------------------------------------------------------------------------------------

    def begin_step(self, output: Any) -> None:
        """Hear who has come and who has gone. output: vLLM's SchedulerOutput."""
        for request_id in output.finished_req_ids:
            self._free_slot(request_id)
            self._plans.pop(request_id, None)
        for request_id in output.preempted_req_ids or ():
            self._free_slot(request_id)
        for new in output.scheduled_new_reqs:
            params = new.sampling_params
            self._free_slot(new.req_id)
            self._plans[new.req_id] = make_plan(
                None if params is None else params.extra_args, new.prompt_len, self.max_model_len, self.settings
            )

    def prepare_step(self, request_ids: Sequence[str], computed: np.ndarray, new: np.ndarray) -> np.ndarray | None:
        """What a step with these requests, in the batch's order, has to know: tokens each has lost, int64 [requests].

        computed: tokens computed before the step; new: tokens of the step. None: nobody has lost any. Also steers the ring and
        remembers who comes to a compression with this step.
        """
        slots = np.fromiter(
            (self._slot_of(i, int(n)) for i, n in zip(request_ids, computed, strict=True)), dtype=np.int64
        )
        end = computed + new
        boundary = self._boundary[slots]
        due = end == boundary
        self._due = [(request_ids[i], int(end[i])) for i in due.nonzero()[0]]
        if self.ring is not None:
            self._set_ring_places(self.ring, slots, computed, new)
        evicted = self._evicted[slots]
        return evicted if evicted.any() else None

    def _set_ring_places(self, ring: QueryRing, slots: np.ndarray, computed: np.ndarray, new: np.ndarray) -> None:
        """Keep the queries of the last tokens before a compression, and no others."""
        first = np.maximum(computed, self._boundary[slots] - self._window[slots])
        end = computed + new
        kept = np.maximum(end - first, 0)
        rows = kept.nonzero()[0]
        if not len(rows):
            ring.clear_places()
            return
        counts = kept[rows]
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.cumsum(new) - new
        tokens = np.repeat(starts[rows] + (first[rows] - computed[rows]), counts) + step
        position = torch.from_numpy(np.repeat(first[rows], counts) + step)
        slot = torch.from_numpy(np.repeat(slots[rows], counts))
        ring.set_places(torch.from_numpy(tokens), ring.place_of(slot, position))

    def _slot_of(self, request_id: str, computed: int) -> int:
        request = self._requests.get(request_id)
        if request is None:
            plan = self._plans[request_id]
            request = self._requests[request_id] = RequestState(plan, self._free.pop())
            if plan.evicted(computed):
                raise RuntimeError(
                    f"request {request_id} starts at {computed} tokens, beyond a compression that nobody did"
                )
            self._note_boundary(request, computed)
        return request.slot

    def _note_boundary(self, request: RequestState, computed: int) -> None:
        plan, slot = request.plan, request.slot
        boundary, scorer = plan.next_boundary(computed), plan.policy.scorer
        self._evicted[slot] = plan.evicted(computed)
        self._boundary[slot] = NEVER if boundary is None else boundary
        self._window[slot] = 0 if scorer is None or boundary is None else scorer.queries

    def _free_slot(self, request_id: str) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._free.append(request.slot)

    # ---- after a step ---------------------------------------------------------------------------------------------

    def finish_step(self, blocks_of: Callable[[str, int], Tensor]) -> Mapping[str, int]:
        """Compact the requests that came to a compression. Returns how many tokens each of them holds now.

        blocks_of: (request id, tokens it holds) -> long [n], its block ids, on the cache's device.
        """
        by_policy: dict[Policy, list[DueRequest]] = defaultdict(list)
        left: dict[str, int] = {}
        for request_id, computed in self._due:
            request = self._requests[request_id]
            plan = request.plan
            before = plan.slots_needed(computed)
            by_policy[plan.policy].append(
                DueRequest(
                    prompt=plan.prompt,
                    held=before,
                    round=plan.rounds(computed),
                    computed=computed,
                    slot=request.slot,
                    blocks=blocks_of(request_id, before),
                    positions=request.positions,
                )
            )
            left[request_id] = plan.held(computed)
            self._note_boundary(request, computed)
        self._due = []
        for policy, due in by_policy.items():
            compact(self.layers, self.fit(policy), due, self.block_size, self.ring, self.across)
        if self.ring is not None:
            self.ring.clear_places()
        return left
