"""Hooks into one model runner of vLLM's first kind (`v1/worker/gpu_model_runner.py`, and the CPU's on top of it).

Positions, token ids and sampling keep logical counts. Only where a token's KV goes and how much of the cache is attended to is
shifted by what was evicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.utils.math_utils import cdiv

from laconic.engines.vllm.plugin.compressor import Compressor
from laconic.engines.vllm.plugin.device import to_device


class RunnerHooksV1:
    """Put in place when made. runner: a GPUModelRunner whose KV cache has been set up."""

    def __init__(self, runner: Any, compressor: Compressor) -> None:
        self.runner, self.compressor = runner, compressor
        # Of the step under way: tokens that each row of the batch has lost, int64 [rows]; None: none has lost any.
        self._evicted: np.ndarray | None = None
        self._prepare_inputs, self._execute_model = runner._prepare_inputs, runner.execute_model
        runner._prepare_inputs, runner.execute_model = self.prepare_inputs, self.execute_model
        table = runner.input_batch.block_table
        self._compute_slot_mapping = table.compute_slot_mapping
        table.compute_slot_mapping = self.compute_slot_mapping

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self.compressor.begin_step(scheduler_output)
        self._evicted = None
        result = self._execute_model(scheduler_output, *args, **kwargs)
        if scheduler_output.total_num_scheduled_tokens:
            self._compact()
        return result

    def prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: np.ndarray) -> Any:
        runner = self.runner
        count = runner.input_batch.num_reqs
        computed = runner.input_batch.num_computed_tokens_cpu[:count].astype(np.int64)
        ids = runner.input_batch.req_ids[:count]
        self._evicted = self.compressor.prepare_step(ids, computed, num_scheduled_tokens.astype(np.int64))
        result = self._prepare_inputs(scheduler_output, num_scheduled_tokens)
        if self._evicted is not None:
            lost = torch.from_numpy(self._evicted.astype(np.int32))
            # Sampling has read the logical lengths by now; attention's metadata is built from these afterwards.
            runner.optimistic_seq_lens_cpu[:count] -= lost
            # On a CPU both are one tensor, which is shifted once.
            if runner.seq_lens.data_ptr() != runner.optimistic_seq_lens_cpu.data_ptr():
                runner.seq_lens[:count] -= to_device(lost, runner.device)
        return result

    def compute_slot_mapping(self, num_reqs: int, query_start_loc: Tensor, positions: Tensor) -> None:
        if self._evicted is not None:
            lost = to_device(torch.from_numpy(self._evicted), positions.device)
            positions = positions - lost[self.runner.req_indices.gpu[: positions.shape[0]]]
        self._compute_slot_mapping(num_reqs, query_start_loc, positions)

    @torch.inference_mode()
    def _compact(self) -> None:
        batch = self.runner.input_batch
        table = batch.block_table[0]

        def blocks_of(request_id: str, held: int) -> Tensor:
            row = batch.req_id_to_index[request_id]
            ids = table.block_table.np[row, : cdiv(held, table.block_size)]
            return to_device(torch.from_numpy(ids.astype(np.int64)), self.runner.device)

        for request_id, held in self.compressor.finish_step(blocks_of).items():
            keep = cdiv(held, table.block_size)
            table.num_blocks_per_row[batch.req_id_to_index[request_id]] = keep
            del self.runner.requests[request_id].block_ids[0][keep:]
