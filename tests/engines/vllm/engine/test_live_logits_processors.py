"""The two logits processors, without an engine: which rows they draw for, at which position, and that they leave the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from laconic.engines.base import Sampling
from laconic.engines.sampling import draw, uniform
from laconic.engines.vllm.engine.draw_params import KEY, DrawParams
from laconic.engines.vllm.engine.logits_processors import PROCESSORS, DrawLogitsProcessor, DrawLogitsProcessorV2
from laconic.errors import LaconicError

V = 50
WARM, HOT = Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=2.0, top_p=1.0)


def logits(rows: int) -> torch.Tensor:
    return torch.randn((rows, V), generator=torch.Generator().manual_seed(rows))


def params(drawn_by: DrawParams | None = None) -> SamplingParams:
    return SamplingParams(temperature=0, extra_args=None if drawn_by is None else drawn_by.to_extra_args())


def drawn(row: torch.Tensor, drawn_by: DrawParams, position: int) -> int:
    return int(draw(row[None], [drawn_by.sampling], [uniform(drawn_by.key, drawn_by.at + position)])[0])


def check(before: torch.Tensor, after: torch.Tensor, want: dict[int, tuple[DrawParams, int]]) -> None:
    """want: row -> its drawn_by and position; other rows are as they were."""
    for row in range(len(before)):
        if row not in want:
            assert torch.equal(after[row], before[row])
            continue
        picked = drawn(before[row], *want[row])
        assert after[row].argmax() == picked
        assert torch.isfinite(after[row]).nonzero().tolist() == [[picked]]


def test_the_first_runner_follows_its_batch() -> None:
    one = DrawLogitsProcessor(None, torch.device("cpu"), False)
    a, b, c = DrawParams(7, 0, WARM), DrawParams(8, 30, HOT), DrawParams(9, 2, WARM)
    tokens: dict[str, list[int]] = {name: [] for name in "abcx"}
    added = [(0, params(a), [1], tokens["a"]), (1, params(), [1], tokens["x"]), (2, params(b), [1], tokens["b"])]
    one.update_state(BatchUpdate(3, [], added, []))
    for position in range(3):  # a request's own list of tokens grows
        before = logits(3)
        check(before, one.apply(before.clone()), {0: (a, position), 2: (b, position)})
        for generated in tokens.values():
            generated.append(5)
        one.update_state(None)
    # Row 0 leaves, the last one takes its place; a new one comes where it was.
    moved = [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]
    one.update_state(BatchUpdate(2, [0], [], moved))
    before = logits(2)
    check(before, one.apply(before.clone()), {0: (b, 3)})
    one.update_state(BatchUpdate(3, [], [(2, params(c), [1], [4])], [(0, 1, MoveDirectionality.SWAP)]))
    before = logits(3)
    check(before, one.apply(before.clone()), {1: (b, 3), 2: (c, 1)})
    one.update_state(BatchUpdate(3, [], [(1, params(), [1], [])], []))
    before = logits(3)
    check(before, one.apply(before.clone()), {2: (c, 1)})
    assert one.is_argmax_invariant() is False


def context(slots: list[int], lengths: list[int]) -> Any:
    return SimpleNamespace(idx_mapping_np=np.array(slots), seq_lens_upper_bound_np=np.array(lengths))


def test_the_second_runner_follows_its_slots() -> None:
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([10, 20, 30, 40])))
    one = DrawLogitsProcessorV2(None, states)
    a, b = DrawParams(7, 0, WARM), DrawParams(8, 30, HOT)
    assert one.add_request(0, params(a)) is True
    assert one.add_request(1, params()) is False
    assert one.add_request(3, params(b)) is True
    before = logits(3)
    # Rows come in any order; a length is prompt and generated tokens.
    check(before, one.apply(before.clone(), context([3, 1, 0], [42, 21, 10])), {0: (b, 2), 2: (a, 0)})
    before = logits(1)
    check(before, one.apply(before.clone(), context([0], [4])), {0: (a, 0)})  # half a prompt: thrown away
    assert one.add_request(3, params()) is False  # a slot is used again
    before = logits(2)
    check(before, one.apply(before.clone(), context([3, 0], [42, 15])), {1: (a, 5)})
    with pytest.raises(LaconicError, match="one row of logits a request"):
        one.apply(logits(3), context([0, 3], [11, 42]))


@pytest.mark.parametrize("processor", [DrawLogitsProcessor, DrawLogitsProcessorV2])
def test_a_bad_draw_params_is_refused_at_the_door(processor: Any) -> None:
    processor.validate_params(params(DrawParams(7, 0, WARM)))
    processor.validate_params(params())
    with pytest.raises(ValueError, match="expected a mapping of key"):
        processor.validate_params(SamplingParams(temperature=0, extra_args={KEY: 3}))
    with pytest.raises(ValueError, match=r"temperature is 1\.0 beside laconic_draw; expected 0"):
        processor.validate_params(SamplingParams(temperature=1.0, extra_args=DrawParams(7, 0, WARM).to_extra_args()))


def test_both_are_found_by_name() -> None:
    for path in PROCESSORS.values():
        module, _, name = path.partition(":")
        assert module == DrawLogitsProcessor.__module__
        assert name in (DrawLogitsProcessor.__name__, DrawLogitsProcessorV2.__name__)
    assert PROCESSORS[False] != PROCESSORS[True]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_without_a_distribution_are_refused(value: float) -> None:
    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([10])))
    second = DrawLogitsProcessorV2(None, states)
    second.add_request(0, params(DrawParams(7, 0, WARM)))
    first = DrawLogitsProcessor(None, torch.device("cpu"), False)
    first.update_state(BatchUpdate(1, [], [(0, params(DrawParams(7, 0, WARM)), [1], [])], []))
    broken = logits(1)
    broken[0, 3] = value
    with pytest.raises(LaconicError, match=r"no probabilities .* NaN or infinite"):
        first.apply(broken.clone())
    with pytest.raises(LaconicError, match=r"no probabilities .* NaN or infinite"):
        second.apply(broken.clone(), context([0], [12]))
