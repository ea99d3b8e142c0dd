"""The hooks into vLLM's second model runner, on a stand-in for it: the real one needs Triton (benchmarks/vllm_v2.py)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from laconic.engines.vllm.plugin.runner_v2 import RunnerHooksV2

LOST = np.array([0, 48, 16])


class Runner:
    """What the hooks touch: three requests, one of them in the middle of its prompt, and two padded rows."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.seq_lens = torch.tensor([7, 90, 40, 0, 0], dtype=torch.int32)
        self.batch = SimpleNamespace(
            req_ids=["a", "b", "c"],
            num_tokens=6,
            num_scheduled_tokens=np.array([1, 1, 4], dtype=np.int32),
            num_computed_tokens_np=np.array([6, 89, 36], dtype=np.int32),
            positions=torch.tensor([6, 89, 36, 37, 38, 39, 0, 0]),
            seq_lens=self.seq_lens[:5],
            seq_lens_cpu_upper_bound=torch.tensor([7, 90, 40, 0, 0], dtype=torch.int32),
        )
        self.block_tables = SimpleNamespace(
            block_sizes=[32],
            block_tables=[SimpleNamespace(gpu=torch.arange(20, dtype=torch.int32).view(4, 5))],
            num_blocks=SimpleNamespace(np=np.array([[5, 5, 5, 5]])),
        )
        self.req_states = SimpleNamespace(req_id_to_index={"a": 3, "b": 0, "c": 2})
        self.mapped: list[int] = []
        self.lengths: list[list[int]] = []
        self.arguments: Any = None
        self.failure: Exception | None = None

    def prepare_attn(self, batch: Any) -> str:
        self.mapped = batch.positions.tolist()
        return "tables"

    def execute_model(
        self, output: Any, intermediate_tensors: Any = None, dummy_run: bool = False, **kwargs: Any
    ) -> str:
        self.arguments = (intermediate_tensors, dummy_run, kwargs)
        if output.total_num_scheduled_tokens and not dummy_run:
            assert self.prepare_attn(self.batch) == "tables"
            self.forward()
        return "result"

    def forward(self) -> None:
        self.seen.append("forward")
        self.lengths = [self.seq_lens.tolist(), self.batch.seq_lens_cpu_upper_bound.tolist()]
        if self.failure is not None:
            raise self.failure


class Compressor:
    """Says what it is told to say and writes down what it is asked."""

    def __init__(self, runner: Runner, lost: np.ndarray | None, left: dict[str, int]) -> None:
        self.runner, self.lost, self.left = runner, lost, left
        self.arranged: Any = None
        self.blocks: list[list[int]] = []

    def begin_step(self, output: Any) -> None:
        self.runner.seen.append("begin_step")

    def prepare_step(self, ids: list[str], computed: np.ndarray, new: np.ndarray) -> np.ndarray | None:
        self.runner.seen.append("prepare_step")
        self.arranged = (ids, computed.tolist(), new.tolist(), computed.dtype, new.dtype)
        return self.lost

    def finish_step(self, blocks_of: Any) -> dict[str, int]:
        self.runner.seen.append("finish_step")
        assert self.runner.seq_lens.tolist() == [7, 90, 40, 0, 0]  # the sampler's turn is next
        self.blocks = [blocks_of("b", 64).tolist(), blocks_of("c", 65).tolist()]
        return self.left


def hooked(lost: np.ndarray | None, left: dict[str, int] | None = None) -> tuple[Runner, Compressor]:
    runner = Runner()
    compressor = Compressor(runner, lost, left or {})
    RunnerHooksV2(runner, compressor)  # type: ignore[arg-type]
    return runner, compressor


STEP = SimpleNamespace(total_num_scheduled_tokens=6)


def test_a_step_writes_and_attends_by_what_is_held() -> None:
    runner, compressor = hooked(LOST)
    logical = runner.batch.positions
    assert runner.execute_model(STEP, "tensors") == "result"
    assert runner.seen == ["begin_step", "prepare_step", "forward", "finish_step"]
    assert runner.arguments == ("tensors", False, {})
    assert compressor.arranged == (["a", "b", "c"], [6, 89, 36], [1, 1, 4], np.int64, np.int64)
    assert runner.mapped == [6, 89 - 48, 36 - 16, 37 - 16, 38 - 16, 39 - 16, 0, 0]
    assert runner.lengths == [[7, 42, 24, 0, 0], [7, 42, 24, 0, 0]]
    # The model and the sampler see tokens that were never evicted.
    assert runner.batch.positions is logical
    assert logical.tolist() == [6, 89, 36, 37, 38, 39, 0, 0]
    assert runner.seq_lens.tolist() == [7, 90, 40, 0, 0]
    assert runner.batch.seq_lens_cpu_upper_bound.tolist() == [7, 90, 40, 0, 0]


def test_lengths_are_shifted_in_the_buffer_that_a_graph_has_recorded() -> None:
    runner, _ = hooked(LOST)
    before = runner.batch.seq_lens.data_ptr()
    runner.execute_model(STEP)
    assert runner.batch.seq_lens.data_ptr() == before == runner.seq_lens.data_ptr()


def test_nobody_lost_anything() -> None:
    runner, _ = hooked(None)
    bound = runner.batch.seq_lens_cpu_upper_bound
    runner.execute_model(STEP)
    assert runner.mapped == runner.batch.positions.tolist()
    assert runner.lengths[0] == [7, 90, 40, 0, 0]
    assert runner.batch.seq_lens_cpu_upper_bound is bound


def test_a_failing_step_leaves_logical_lengths() -> None:
    runner, _ = hooked(LOST)
    runner.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.execute_model(STEP)
    assert runner.lengths[0] == [7, 42, 24, 0, 0]
    assert runner.seq_lens.tolist() == [7, 90, 40, 0, 0]
    assert runner.seen == ["begin_step", "prepare_step", "forward"]
    runner.failure = None
    runner.execute_model(STEP)
    assert runner.lengths[0] == [7, 42, 24, 0, 0]


def test_compacted_requests_have_the_blocks_that_they_need() -> None:
    runner, compressor = hooked(LOST, {"b": 33, "c": 32})
    runner.execute_model(STEP)
    assert compressor.blocks == [[0, 1], [10, 11, 12]]
    assert runner.block_tables.num_blocks.np.tolist() == [[2, 5, 1, 5]]


def test_a_dummy_run_is_left_alone() -> None:
    runner, _ = hooked(LOST)
    assert runner.execute_model(STEP, dummy_run=True, context_len=8) == "result"
    assert runner.arguments == (None, True, {"context_len": 8})
    assert runner.seen == []


def test_a_step_without_tokens_tells_who_has_gone() -> None:
    runner, _ = hooked(LOST)
    runner.execute_model(SimpleNamespace(total_num_scheduled_tokens=0))
    assert runner.seen == ["begin_step"]
