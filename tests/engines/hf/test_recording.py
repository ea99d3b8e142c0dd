"""What later tokens attend to, recorded in one pass, against the model's own attention maps; and what an observer sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laconic.compress import RPC, Aggregation, Hindsight
from laconic.engines.hf import CompressedCache, HFEngine, compress
from laconic.engines.hf import forced as forced_module
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.observing import AttentionCall
from laconic.engines.hf.recording import FutureRecorder, future_lookup, observe, observe_traces, record_future
from laconic.errors import LaconicError
from tests.engines.hf.families import family, prompts
from tests.reference import future as reference
from tests.reference import scorers

LENGTHS = [40, 23, 51]


def traces() -> tuple[list[list[int]], list[list[int]]]:
    return prompts([7, 12, 3]), prompts(LENGTHS, seed=11)


def maps(name: str, prompt: list[int], tokens: list[int]) -> tuple[Tensor, ...]:
    """The model's own attention, [H, T, T] of every layer."""
    model = family(name)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.tensor([prompt + tokens]), output_attentions=True).attentions
    model.set_attn_implementation(before)
    return tuple(layer[0].float() for layer in found)


@pytest.mark.parametrize("pass_tokens", [1024, 30])
@pytest.mark.parametrize(("name", "groups"), [("llama", 2), ("qwen3", 2), ("gemma3", 2), ("deepseek-v3", 4)])
def test_maxima_are_those_of_the_models_own_maps(
    name: str, groups: int, pass_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forced_module, "PASS_TOKENS", pass_tokens)
    asked, tokens = traces()
    layers = [1] if name == "gemma3" else [0, 1]  # of gemma3's three, one attends to everything
    for block in (16, 10):
        recorded = record_future(family(name), asked, tokens, block)
        assert len(recorded) == 3
        for row, by_layer in enumerate(recorded):
            assert sorted(by_layer) == layers
            whole = maps(name, asked[row], tokens[row])
            for layer, maxima in by_layer.items():
                assert maxima.maxima.shape == (-(-LENGTHS[row] // block), groups, LENGTHS[row])
                assert maxima.maxima.dtype == torch.float16
                for generated in (0, 17, 32):
                    want = reference.after(whole[layer], groups, len(asked[row]), generated, block)
                    torch.testing.assert_close(maxima.after(generated), torch.tensor(want), rtol=2e-3, atol=1e-5)
                want = reference.delayed(whole[layer], groups, len(asked[row]), 9, block)
                torch.testing.assert_close(maxima.delayed(9), torch.tensor(want), rtol=2e-3, atol=1e-5)


def test_an_observer_sees_every_layer_and_where_its_tokens_are() -> None:
    asked, tokens = traces()
    calls: list[AttentionCall] = []
    observe_traces(family("llama"), asked, tokens, calls.append, numbers=[5, 9, 2])
    assert [call.layer for call in calls] == [0, 1] * (len(calls) // 2)
    assert sum(call.query.shape[2] for call in calls if call.layer == 0) == max(LENGTHS)  # no prompt goes by
    for call in calls:
        q, slots = call.query.shape[2], call.key.shape[2]
        assert call.query.shape == (3, 4, q, 8)
        assert call.key.shape == call.value.shape == (3, 2, slots, 8)
        assert call.scaling == 8**-0.5
        assert call.held == call.generated
        assert call.rows == (5, 9, 2)
        assert slots == 12 + call.held[0]
        assert call.valid is not None
        assert call.valid.sum(-1).tolist() == [len(prompt) + call.held[0] for prompt in asked]
        assert bool(call.valid[:, -1].all())


def test_looking_on_changes_nothing_and_goes_on_under_a_policy() -> None:
    asked, tokens = traces()
    policy, found = RPC(interval=16, ratio=4, window=8), []
    seen: list[AttentionCall] = []
    for observer in (None, seen.append):
        cache = CompressedCache(family("llama").config, policy)
        with AttentionBinding(family("llama")):
            family("llama")(torch.tensor([asked[0]]), past_key_values=cache)
            cache.set_observer(observer)
            for token in tokens[0]:
                out = family("llama")(torch.tensor([[token]]), past_key_values=cache)
        found.append(out.logits)
    assert torch.equal(*found)
    assert seen[-1].generated == (40,)
    assert seen[-1].held == (4 + 8 + 16,)  # the step that compresses still sees what it drops
    assert cache.ledger.rows[0].held == 8 + 8


def test_a_lookup_gives_each_row_its_own_future() -> None:
    asked, tokens = traces()
    recorded = record_future(family("llama"), asked, tokens)
    look_up = future_lookup(dict(zip([5, 9, 2], recorded, strict=True)))
    positions = torch.tensor([[[0, 3, 20]], [[1, 2, 30]], [[4, 5, 6]]])  # the second trace has but 23 tokens
    found = look_up(1, [2, 9, 5], [32, 32, 16], positions)
    assert found.shape == (3, 2, 3)
    for row, (trace, generated) in enumerate([(2, 32), (1, 32), (0, 16)]):
        want = recorded[trace][1].after(generated)
        for g in range(2):
            for column, position in enumerate(positions[row, 0].tolist()):
                if position < LENGTHS[trace]:
                    assert found[row, g, column] == want[g, position]
    per_head = positions.expand(-1, 2, -1).clone()
    per_head[:, 1] += 1
    assert torch.equal(look_up(1, [2, 9, 5], [32, 32, 16], per_head)[:, 0], found[:, 0])
    assert torch.equal(found[0, 1, 1:2], recorded[2][1].after(32)[1, 3:4])


@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_hindsight_keeps_what_the_whole_maps_say(aggregation: Aggregation) -> None:
    asked, tokens = traces()
    model, policy = family("llama"), Hindsight(interval=16, ratio=4, window=8, aggregation=aggregation)
    schedule = policy.schedule
    with AttentionBinding(model):
        rows = ForcedTraces(model, asked, tokens).under(policy)
        recorder = FutureRecorder(LENGTHS, [0, *schedule.compression_points(rows.longest)])
        observe(ForcedTraces(model, asked, tokens), recorder)
        rows.cache.set_future_lookup(future_lookup(dict(enumerate(recorder.maxima()))))
        while rows.fed < rows.longest:
            rows.feed(rows.piece(rows.longest))
    for row, (prompt, trace) in enumerate(zip(asked, tokens, strict=True)):
        for layer, whole in enumerate(maps("llama", prompt, trace)):
            held = [list(range(0)), list(range(0))] if aggregation == "group" else [list(range(0))]
            before = 0
            for number, count in enumerate(schedule.compression_points(len(trace)), start=1):
                future = reference.after(whole, 2, len(prompt), count, 8)
                scores = scorers.future_attention(future, aggregation)
                for g, mine in enumerate(held):
                    candidates = mine + list(range(before, count - 8))
                    best = sorted(candidates, key=lambda i: (scores[g][i], i))[-schedule.kept(number) :]
                    held[g] = sorted(best)
                before = count - 8
            ours = rows.cache.compressed_layers[layer].held_positions(row)
            if len(trace) == rows.longest:  # others have been fed what fills them up
                assert ours.tolist() == [mine + list(range(before, len(trace))) for mine in held]
                assert schedule.rounds(len(trace)) == 2


def test_without_a_recorded_trace_hindsight_is_one_sentence() -> None:
    model, policy = family("llama"), Hindsight(interval=16, ratio=4, window=8)
    says = "later tokens will attend to, which only a recorded trace tells: use it in `laconic bench fidelity`"
    for begin in (lambda: HFEngine(model, None, policy), lambda: compress(model, policy)):
        with pytest.raises(LaconicError, match=says):
            begin()
    asked, tokens = traces()
    with AttentionBinding(model):
        rows = ForcedTraces(model, asked, tokens).under(policy)
        with pytest.raises(LaconicError, match=says):
            rows.feed(24)
