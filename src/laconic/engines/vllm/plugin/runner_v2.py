"""Hooks into one model runner of vLLM's second kind (`v1/worker/gpu/model_runner.py`, the default on GPUs).

Positions, token ids and sampling keep logical counts. Only where a token's KV goes and how much of the cache is attended to is
shifted by what was evicted, between `prepare_attn` and the end of the forward pass: before, `prepare_inputs` finds a request's
latest token by its logical length; after, the sampler does.

What is shifted in place lies in buffers that CUDA graphs have recorded, and is shifted before a graph is replayed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.utils.math_utils import cdiv

from laconic.engines.vllm.plugin.compressor import Compressor
from laconic.engines.vllm.plugin.device import to_device


class RunnerHooksV2:
    """Put in place when made. runner: a GPUModelRunner whose KV cache has been set up."""

    def __init__(self, runner: Any, compressor: Compressor) -> None:
        self.runner, self.compressor = runner, compressor
        # While a step's lengths are shifted: its batch, its logical lengths on the CPU, what each request has lost.
        self._shifted: tuple[Any, Tensor, Tensor] | None = None
        self._prepare_attn, self._execute_model = runner.prepare_attn, runner.execute_model
        runner.prepare_attn, runner.execute_model = self.prepare_attn, self.execute_model

    def execute_model(
        self, scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False, **kwargs: Any
    ) -> Any:
        if dummy_run:  # nobody's requests; since the last step's end the ring takes nothing either
            return self._execute_model(scheduler_output, intermediate_tensors, dummy_run=True, **kwargs)
        self.compressor.begin_step(scheduler_output)
        try:
            result = self._execute_model(scheduler_output, intermediate_tensors, **kwargs)
        finally:
            self._restore_lengths()
        if scheduler_output.total_num_scheduled_tokens:
            self._compact()
        return result

    def prepare_attn(self, input_batch: Any) -> Any:
        """Stock calls this for real steps only, once lengths and positions are in the input buffers."""
        new = input_batch.num_scheduled_tokens.astype(np.int64)
        evicted = self.compressor.prepare_step(
            input_batch.req_ids, input_batch.num_computed_tokens_np.astype(np.int64), new
        )
        if evicted is None:
            return self._prepare_attn(input_batch)
        self._shift_lengths(input_batch, evicted)
        logical = input_batch.positions
        physical = logical.clone()
        physical[: input_batch.num_tokens] -= to_device(torch.from_numpy(np.repeat(evicted, new)), logical.device)
        input_batch.positions = physical
        try:
            return self._prepare_attn(input_batch)
        finally:
            input_batch.positions = logical  # the model rotates by these

    def _shift_lengths(self, input_batch: Any, evicted: np.ndarray) -> None:
        lost = torch.from_numpy(evicted.astype(np.int32))
        logical = input_batch.seq_lens_cpu_upper_bound
        physical = logical.clone()
        physical[: len(lost)] -= lost
        input_batch.seq_lens_cpu_upper_bound = physical
        lost = to_device(lost, input_batch.seq_lens.device)
        input_batch.seq_lens[: len(lost)] -= lost
        self._shifted = (input_batch, logical, lost)

    @torch.inference_mode()
    def _restore_lengths(self) -> None:
        if self._shifted is not None:
            input_batch, logical, lost = self._shifted
            self._shifted = None
            input_batch.seq_lens_cpu_upper_bound = logical
            input_batch.seq_lens[: len(lost)] += lost

    @torch.inference_mode()
    def _compact(self) -> None:
        tables, rows = self.runner.block_tables, self.runner.req_states.req_id_to_index
        size = tables.block_sizes[0]

        def blocks_of(request_id: str, held: int) -> Tensor:
            return tables.block_tables[0].gpu[rows[request_id], : cdiv(held, size)].long()

        for request_id, held in self.compressor.finish_step(blocks_of).items():
            # The device's copy follows with the next step's `apply_staged_writes`, before anything reads it.
            tables.num_blocks.np[0, rows[request_id]] = cdiv(held, size)
