"""Policies fed in step with full KV, against one masked pass over the whole text, single steps, and each trace alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engines.hf.families import VOCAB, family, prompts
from tests.reference import fidelity as reference
from tests.reference.kvzap import write_kvzap

from laconic.compress import (
    H2O,
    RKV,
    RPC,
    TOVA,
    Custom,
    FullKV,
    Hindsight,
    KVzap,
    Policy,
    Proportional,
    Random,
    WindowAttention,
)
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.facts import fit
from laconic.engines.hf.recording import future_lookup, record_future
from laconic.errors import LaconicError
from laconic.lab.fidelity import divergence as module
from laconic.lab.fidelity.divergence import Divergence, compare, is_stepwise, likeliest_of, measure

POLICIES: list[Policy] = [
    RPC(interval=16, ratio=4, window=8),
    RPC(interval=16, ratio=2, window=8, aggregation="group"),
    Random(interval=12, ratio=4, window=8, aggregation="group"),
    H2O(budget=24, buffer=10),
    TOVA(budget=20),
    RKV(budget=24, buffer=16, window=8),
    Hindsight(interval=16, ratio=4, window=8),
    Hindsight(interval=16, ratio=4, window=8, aggregation="group"),
    Custom(Proportional(16, 4, 8), WindowAttention(20, aggregation="group")),
    FullKV(),
]
LENGTHS = [50, 33, 61]
NUMBERS = [7, 3, 900]


def traces() -> tuple[list[list[int]], list[list[int]]]:
    return prompts([12, 3, 9]), prompts(LENGTHS, seed=11)


FEW = [POLICIES[i] for i in (1, 3, 7)]
"""One that draws the same for all, one that compresses at each step, one that knows the end: on families beside the first."""


def measured(name: str, policies: list[Policy], rows: list[int] | None = None) -> list[list[Divergence]]:
    """[policy][row], cut to each trace's own tokens."""
    rows = [0, 1, 2] if rows is None else rows
    asked, tokens = traces()
    found = measure(
        family(name), [asked[i] for i in rows], [tokens[i] for i in rows], policies, [NUMBERS[i] for i in rows]
    )
    return [[Divergence(*(part[at, : LENGTHS[row]] for part in one)) for at, row in enumerate(rows)] for one in found]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_figures_are_those_of_one_masked_pass(name: str) -> None:
    asked, tokens = traces()
    model = family(name)
    recorded = record_future(model, asked, tokens, block=4)  # compressions come at multiples of 4
    for policy, found in zip(POLICIES, measured(name, POLICIES), strict=True):
        moved = 0.0
        for row, ours in enumerate(found):
            look_up = future_lookup({NUMBERS[row]: recorded[row]})
            seen = reference.kept_sets(model, policy, asked[row], tokens[row], NUMBERS[row], look_up)
            everything = [[[set(range(i + 1))] for i in range(LENGTHS[row])]] * len(seen)
            full = reference.masked_logits(model, everything, asked[row], tokens[row]).tolist()
            other = reference.masked_logits(model, seen, asked[row], tokens[row]).tolist()
            want = [reference.divergence(*each) for each in zip(full, other, tokens[row], strict=True)]
            for part, column in zip(ours, zip(*want, strict=True), strict=True):
                torch.testing.assert_close(part, torch.tensor(column), rtol=2e-3, atol=2e-5)
            moved += float(ours.kl.sum())
        assert (moved > 1) == (policy != FullKV()), "nothing was evicted: the comparison would be empty"


def test_a_policy_that_reads_hidden_states(tmp_path: Path) -> None:
    asked, tokens = traces()
    model = family("llama")
    write_kvzap(tmp_path / "networks", 2, 2, 32, 12)
    policy = fit(KVzap(str(tmp_path / "networks"), interval=16, window=8), model)
    found = measured("llama", [FullKV(), policy])[1]
    for row, ours in enumerate(found):
        seen = reference.kept_sets(model, policy, asked[row], tokens[row], NUMBERS[row])
        other = reference.masked_logits(model, seen, asked[row], tokens[row]).log_softmax(-1)
        plain = model(torch.tensor([asked[row] + tokens[row]])).logits[0, len(asked[row]) - 1 : -1].log_softmax(-1)
        want = (plain.exp() * (plain - other)).sum(-1).detach()
        torch.testing.assert_close(ours.kl, want, rtol=2e-3, atol=2e-5)
        assert float(want.sum()) > 1


@pytest.mark.parametrize(("name", "policies"), [("llama", POLICIES), ("gemma3", FEW), ("deepseek-v3", FEW)])
def test_pieces_are_single_steps_and_rows_are_traces_alone(
    name: str, policies: list[Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = measured(name, policies)
    monkeypatch.setattr(module, "BLOCK", 1)
    alone = [measured(name, policies, [row]) for row in range(3)]
    for number, policy in enumerate(policies):
        for row in range(3):
            for ours, theirs in zip(together[number][row], alone[row][number][0], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=f"{policy.spec()}, trace {row}")


def test_full_kv_run_again_moves_nothing() -> None:
    for found in measured("llama", [RPC(interval=16, ratio=4, window=8), FullKV()])[1]:
        assert bool((found.kl == 0).all())
        assert bool((found.agreement == 1).all())
        assert bool((found.change == 0).all())


def test_before_the_first_compression_nothing_has_moved() -> None:
    for policy, found in zip(POLICIES[:-1], measured("llama", POLICIES[:-1]), strict=True):
        first = policy.schedule.next_boundary(0)
        assert first is not None
        for ours in found:
            assert float(ours.kl[: first + 1].max()) < 1e-6  # the step that compresses still sees everything
            assert len(ours.kl) <= first + 1 or float(ours.kl[first + 1]) > 1e-6


def test_the_distributions_are_those_that_an_engine_draws_from() -> None:
    """What the engine takes greedily under a policy is the likeliest token of the same policy, fed by force."""
    policy = RPC(interval=16, ratio=4, window=8)
    (trace,) = HFEngine(family("llama"), None, policy).generate(
        prompts([12])[:1], Sampling(max_new_tokens=60, temperature=0)
    )[0]

    def keep(full: torch.Tensor, likeliest: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> Divergence:
        keep.tokens += other.argmax(-1)[0].tolist()  # type: ignore[attr-defined]
        return Divergence(*(torch.zeros(targets.shape) for _ in range(3)))

    keep.tokens = []  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compare", keep)
        measure(family("llama"), prompts([12])[:1], [trace.token_ids], [policy], [0])
    assert len(trace.token_ids) == 60
    assert keep.tokens == trace.token_ids[1:]  # type: ignore[attr-defined]


@pytest.mark.parametrize("elements", [1, 200, 1 << 21])
def test_comparing_slice_by_slice(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_ELEMENTS", elements)
    source = torch.Generator().manual_seed(2)
    full, other = torch.randn(3, 5, 40, generator=source) * 3, torch.randn(3, 5, 40, generator=source) * 3
    other[0] = full[0]
    full[1, :, 7] = other[1, :, 7] = -torch.inf  # a token that both rule out
    full[2, :, 7] = -torch.inf
    targets = torch.randint(8, 40, (3, 5), generator=source)
    found = compare(full, likeliest_of(full), other, targets)
    for row in range(3):
        for column in range(5):
            pair = full[row, column].tolist(), other[row, column].tolist()
            want = reference.divergence(*pair, int(targets[row, column]))
            got = [float(part[row, column]) for part in found]
            assert got == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert bool((found.kl[0] == 0).all())
    assert found.kl.min() >= 0


def test_half_precision_is_compared_in_single() -> None:
    source = torch.Generator().manual_seed(2)
    full, other = (torch.randn(2, 3, 40, generator=source).bfloat16() for _ in range(2))
    targets = torch.zeros(2, 3, dtype=torch.long)
    found = compare(full, likeliest_of(full), other, targets)
    again = compare(full.float(), likeliest_of(full.float()), other.float(), targets)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))
    ties = torch.zeros(1, 1, 4).bfloat16()
    assert compare(torch.tensor([[[0.0, 1, 0, 0]]]), torch.tensor([[1]]), ties, targets[:1, :1]).agreement.item() == 1


def test_passes_are_bounded_and_told() -> None:
    asked, tokens = traces()
    heard: list[tuple[int, int]] = []
    calls: list[tuple[int, ...]] = []
    keep = module.compare

    def spy(full: torch.Tensor, *rest: torch.Tensor) -> Divergence:
        calls.append(tuple(full.shape))
        return keep(full, *rest)

    policies: list[Policy] = [RPC(interval=16, ratio=4, window=8), TOVA(budget=20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compare", spy)
        patch.setattr(module, "LOGITS_BYTES", 2 * 4 * VOCAB * 3 * 10)
        measure(family("llama"), asked, tokens, policies, NUMBERS, lambda *event: heard.append(event))
    assert max(shape[1] for shape in calls) == 10
    for number in (-1, 0, 1):
        assert sum(count for which, count in heard if which == number) == 3 * 60
    assert sum(shape[1] == 1 for shape in calls) >= 40  # TOVA's


def test_who_compresses_all_the_time() -> None:
    assert is_stepwise(TOVA(budget=20).schedule, 200)
    assert is_stepwise(H2O(budget=20, buffer=7).schedule, 200)
    assert not is_stepwise(H2O(budget=20, buffer=8).schedule, 200)
    assert not is_stepwise(RPC().schedule, 200)
    assert not is_stepwise(FullKV().schedule, 200)


def test_a_trace_that_the_model_cant_be_fed_is_refused() -> None:
    with pytest.raises(LaconicError, match="a token id of a trace is outside"):
        measure(family("llama"), [[1]], [[1, VOCAB]], [FullKV()], [0])
