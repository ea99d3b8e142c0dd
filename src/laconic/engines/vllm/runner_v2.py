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
from vllm.utils import torch_utils  # as a module: vLLM's CPU worker replaces a function in it
from vllm.utils.math_utils import cdiv

from laconic.engines.vllm.compressor import Compressor

NOBODY = torch.empty(0, dtype=torch.long)


class HooksV2:
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
        if dummy_run:
            # Its padding's queries must not land where the last step's went: a recorded graph writes whatever `places` says.
            if self.compressor.ring is not None:
                self.compressor.ring.steer(NOBODY, NOBODY)
            return self._execute_model(scheduler_output, intermediate_tensors, dummy_run=True, **kwargs)
        self.compressor.begin(scheduler_output)
        try:
            result = self._execute_model(scheduler_output, intermediate_tensors, **kwargs)
        finally:
            self._restore()
        if scheduler_output.total_num_scheduled_tokens:
            self._compact()
        return result

    def prepare_attn(self, input_batch: Any) -> Any:
        """Stock calls this for real steps only, once lengths and positions are in the input buffers."""
        new = input_batch.num_scheduled_tokens.astype(np.int64)
        evicted = self.compressor.arrange(input_batch.req_ids, input_batch.num_computed_tokens_np.astype(np.int64), new)
        if evicted is None:
            return self._prepare_attn(input_batch)
        self._shift(input_batch, evicted)
        logical = input_batch.positions
        physical = logical.clone()
        physical[: input_batch.num_tokens] -= self._to_device(np.repeat(evicted, new))
        input_batch.positions = physical
        try:
            return self._prepare_attn(input_batch)
        finally:
            input_batch.positions = logical  # the model rotates by these

    def _shift(self, input_batch: Any, evicted: np.ndarray) -> None:
        lost = self._to_device(evicted.astype(np.int32))
        logical = input_batch.seq_lens_cpu_upper_bound
        physical = logical.clone()
        physical[: len(evicted)] -= torch.from_numpy(evicted.astype(np.int32))
        input_batch.seq_lens_cpu_upper_bound = physical
        input_batch.seq_lens[: len(evicted)] -= lost
        self._shifted = (input_batch, logical, lost)

    @torch.inference_mode()
    def _restore(self) -> None:
        if self._shifted is not None:
            input_batch, logical, lost = self._shifted
            self._shifted = None
            input_batch.seq_lens_cpu_upper_bound = logical
            input_batch.seq_lens[: len(lost)] += lost

    def _to_device(self, numbers: np.ndarray) -> Tensor:
        """A copy that does not wait for the step before, which may still run."""
        return torch_utils.async_tensor_h2d(numbers, device=self.runner.device)

    @torch.inference_mode()
    def _compact(self) -> None:
        tables, rows = self.runner.block_tables, self.runner.req_states.req_id_to_index
        size = tables.block_sizes[0]

        def blocks_of(request_id: str, held: int) -> Tensor:
            return tables.block_tables[0].gpu[rows[request_id], : cdiv(held, size)].long()

        for request_id, held in self.compressor.finish(blocks_of).items():
            # The device's copy follows with the next step's `apply_staged_writes`, before anything reads it.
            tables.num_blocks.np[0, rows[request_id]] = cdiv(held, size)
