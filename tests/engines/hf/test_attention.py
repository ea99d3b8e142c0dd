"""One forward pass: everybody reads what was there, then what is due goes; one that fails or runs outside leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import DogeConfig, DogeForCausalLM

from laconic.compress import H2O, RKV, RPC, TOVA, FullKV, Random, StreamingLLM
from laconic.engines.base import Sampling
from laconic.engines.hf import CompressedCache, HFEngine, compress
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.scoring import visible
from laconic.engines.text import Detokenizer
from laconic.errors import LaconicError
from tests.engines.hf.families import COMMON, FAMILIES, READ_AGAIN, cache_of, family, padded, prompts

POLICY = RPC(interval=16, ratio=4, window=8)
POLICIES = [POLICY, RPC(interval=16, ratio=4, window=8, aggregation="group"), H2O(budget=24), TOVA(budget=24)]
POLICIES += [StreamingLLM(budget=24), RKV(budget=24, buffer=16, window=8), Random(interval=16, ratio=4, window=8)]


def logits_of(model, policy, steps):
    """Logits [steps, 1, V] of greedy decoding."""
    with compress(model, policy) as run:
        out = model.generate(
            **padded(prompts([12])),
            max_new_tokens=steps,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return torch.stack(out.logits), run.stats


# RPC on every family; the other policies where attention is not a plain one.
ODD = (*READ_AGAIN, "deepseek-v3", "falcon-h1")
PAIRS = [(name, policy) for policy in POLICIES for name in FAMILIES if policy in POLICIES[:2] or name in ODD]


@pytest.mark.parametrize(("name", "policy"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.spec())
def test_the_pass_that_compresses_attends_to_everything(name, policy):
    model, first = family(name), policy.schedule.next_boundary(0)
    full, _ = logits_of(model, FullKV(), first + 2)
    ours, stats = logits_of(model, policy, first + 2)
    assert stats.compressions >= 1
    assert torch.equal(ours[: first + 1], full[: first + 1])  # logits[i] come from the pass of the i-th generated token
    assert not torch.equal(ours[first + 1], full[first + 1]), "nothing was evicted: the comparison would be empty"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.spec())
def test_masks_of_each_head_are_understood(policy):
    """Doge's heads each attend to a part of the text that they choose."""
    torch.manual_seed(7)
    model = DogeForCausalLM(DogeConfig(**COMMON)).eval()
    first = policy.schedule.next_boundary(0)
    full, _ = logits_of(model, FullKV(), first + 2)
    ours, stats = logits_of(model, policy, first + 2)
    assert stats.evicted > 0
    assert torch.equal(ours[: first + 1], full[: first + 1])


def test_latent_attention_is_scored_on_expanded_keys_and_holds_latents():
    model = family("deepseek-v3")
    with compress(model, POLICIES[1]) as run:
        model.generate(**padded(prompts([12, 3])), max_new_tokens=60, do_sample=False)
    layer = cache_of(run).compressed_layers[0]
    assert layer.keys is not None
    assert layer.values is not None
    assert layer.keys.shape[1] == layer.values.shape[1] == 1  # one latent a token for all heads
    assert (layer.keys.shape[3], layer.values.shape[3]) == (12, 8)  # kv_lora_rank, qk_rope_head_dim
    assert layer.held_positions(0).shape[0] == 1  # so one set of tokens, whatever the aggregation
    assert run.stats.evicted > 0


def keys_of(cache: CompressedCache) -> list[torch.Tensor]:
    """The keys of each layer, of whatever kind it is."""
    return [layer.keys for layer in cache.layers]  # type: ignore[union-attr, misc]  # all of them attend


def test_a_forward_pass_outside_of_laconic_is_refused_and_leaves_nothing_behind():
    model, inputs = family("gemma3"), padded(prompts([12]))  # its first layer slides: it would be fed before ours
    with compress(model, POLICY) as run:
        want = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    held = [keys.clone() for keys in keys_of(cache_of(run))]
    for _ in range(2):
        with pytest.raises(LaconicError, match="outside of laconic"):
            model(torch.tensor([[5]]), past_key_values=run.cache)
    assert all(torch.equal(keys, before) for keys, before in zip(keys_of(cache_of(run)), held, strict=True))
    with compress(model, POLICY):
        assert torch.equal(model.generate(**inputs, max_new_tokens=40, do_sample=False), want)


def test_a_forward_pass_by_hand_inside_goes_on_where_generate_ended():
    model, inputs = family("llama"), padded(prompts([12]))
    with compress(model, POLICY) as run:
        tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        longer = model.generate(**inputs, max_new_tokens=41, do_sample=False)
        again = cache_of(run)
        assert again.ledger.rows[0].generated == 40
        model.generate(**inputs, max_new_tokens=40, do_sample=False)
        out = model(tokens[:, -1:], past_key_values=run.cache)
        assert int(out.logits[0, -1].argmax()) == int(longer[0, -1])
        hidden = model.model(tokens[:, -1:], past_key_values=run.cache)  # the decoder by itself is bound as well
        assert cache_of(run).ledger.rows[0].generated == 41
        assert hidden.last_hidden_state.shape == (1, 1, 32)
        with pytest.raises(LaconicError, match="crosses a compression point"):
            model(torch.full((1, 30), 5), past_key_values=run.cache)
        with pytest.raises(LaconicError, match="the batch has 2 rows"):
            model(torch.full((2, 1), 5), past_key_values=run.cache)


def test_a_pass_that_fails_half_way_ends_its_cache_and_no_other():
    model, inputs = copy.deepcopy(family("llama")), padded(prompts([12]))
    with compress(model, POLICY) as run:
        want = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        broken = model.model.layers[1].mlp.register_forward_pre_hook(raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.generate(**inputs, max_new_tokens=40, do_sample=False)
        broken.remove()
        with pytest.raises(LaconicError, match="ended half-way"):
            model(torch.tensor([[5]]), past_key_values=run.cache)
        assert torch.equal(model.generate(**inputs, max_new_tokens=40, do_sample=False), want)


@pytest.mark.parametrize("policy", [FullKV(), POLICY, H2O(budget=24)], ids=lambda p: p.spec())
def test_an_engine_goes_on_after_a_step_that_failed(policy):
    model = copy.deepcopy(family("gemma3"))
    rows, sampling = prompts([12, 3, 17]), Sampling(max_new_tokens=60, temperature=0.8, seed=4)
    want = [t[0].token_ids for t in HFEngine(model, None, policy).generate(rows, sampling)]
    engine = HFEngine(model, None, policy, max_batch=2)
    ids = [engine.submit(row, sampling)[0] for row in rows]
    seen: dict[str, list[int]] = {i: [] for i in ids}
    fails = iter([7, 30, 31, 55, 80])

    calls, due = 0, set(fails)

    def failing(module, args):
        nonlocal calls
        calls += 1
        if calls in due:
            raise KeyboardInterrupt

    hook = model.model.layers[2].mlp.register_forward_pre_hook(failing)
    ended, interrupts = False, 0
    while not ended:
        try:
            for chunk in engine.stream():
                seen[chunk.trace_id] += chunk.token_ids
            ended = True
        except KeyboardInterrupt:
            interrupts += 1
    hook.remove()
    assert interrupts == 5
    assert [engine.trace(i).token_ids for i in ids] == want
    assert [seen[i] for i in ids] == want


def test_a_trace_that_was_to_stop_has_stopped_after_a_step_that_failed():
    model = copy.deepcopy(family("llama"))
    engine = HFEngine(model, None, POLICY)
    first, second = (engine.submit(p, Sampling(max_new_tokens=40, temperature=0))[0] for p in prompts([12, 3]))
    stream = engine.stream()
    next(stream)
    broken = model.model.layers[1].mlp.register_forward_pre_hook(raising(MemoryError))
    with pytest.raises(MemoryError):
        for _ in stream:
            pass
    engine.stop(first)
    broken.remove()
    assert {chunk.trace_id for chunk in engine.stream() if chunk.finish_reason == "length"} == {second}
    assert engine.trace(first).state == "stopped"
    engine.resume(first)
    for _ in engine.stream():
        pass
    assert len(engine.trace(first).token_ids) == 40


def test_a_step_interrupted_after_some_rows_were_told_their_tokens_loses_none():
    """The first row's end came in the very step that was interrupted: it has ended, and isn't gone on with."""
    model, rows = family("llama"), prompts([12, 3])
    plain = [t[0].token_ids for t in HFEngine(model, None, POLICY).generate(rows, Sampling(40, temperature=0))]
    at = next(i for i in range(8, 40) if plain[0][i] not in plain[0][:i] + plain[1][: i + 1])
    end = plain[0][at]
    sampling = Sampling(40, temperature=0, stop_token_ids=(end,))
    want = [t[0].token_ids for t in HFEngine(model, None, POLICY).generate(rows, sampling)]
    assert len(want[0]) == at + 1
    engine = HFEngine(model, None, POLICY)
    first, second = (engine.submit(row, sampling)[0] for row in rows)
    told = iter([False] * at + [True])

    class Interrupted(Detokenizer):
        def add(self, token):
            if next(told, False):
                raise KeyboardInterrupt
            return super().add(token)

    engine._scheduler.entry(second).text = Interrupted(None)
    with pytest.raises(KeyboardInterrupt):
        for _ in engine.stream():
            pass
    for _ in engine.stream():
        pass
    assert [engine.trace(i).token_ids for i in (first, second)] == want
    assert engine.trace(first).finish_reason == "stop"


def raising(error):
    def hook(module, args):
        raise error

    return hook


class Odd(nn.Module):
    """A module with a forward of its own in the place of a layer's attention."""

    def __init__(self, attention, forward):
        super().__init__()
        self.inner, self.layer_idx, self._forward = attention, attention.layer_idx, forward

    def forward(self, hidden_states, **kwargs):
        if "cache" in kwargs:  # its name from transformers 5.24 on; the former goes on being taken
            kwargs["past_key_values"] = kwargs.pop("cache")
        return self._forward(self.inner, hidden_states, **kwargs)


def odd_model(forward):
    model = copy.deepcopy(family("llama"))
    model.model.layers[1].self_attn = Odd(model.model.layers[1].self_attn, forward)
    return model


def blind(attention, hidden, past_key_values=None, **kwargs):
    """Writes its keys and values, and attends by itself."""
    batch, q = hidden.shape[:2]
    kv = hidden.view(batch, q, 4, 8).transpose(1, 2)[:, :2]
    _, values = past_key_values.update(kv, kv, 1)
    return hidden + values.mean((1, 2))[:, None].repeat(1, 1, 4), None


def twice(attention, hidden, past_key_values=None, **kwargs):
    attention(hidden, past_key_values=past_key_values, **kwargs)
    return attention(hidden, past_key_values=past_key_values, **kwargs)


def picky(attention, hidden, past_key_values=None, **kwargs):
    """Attends to a part of what it has cached."""

    class Part:
        def update(self, keys, values, index, **more):  # transformers 5.24 gives more
            keys, values = past_key_values.update(keys, values, index, **more)
            return keys[:, :, -4:], values[:, :, -4:]

    return attention(hidden, past_key_values=Part(), **{**kwargs, "attention_mask": None})


def silent(attention, hidden, past_key_values=None, **kwargs):
    return attention(hidden, **kwargs)


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (blind, "does not go through transformers' attention interface in every layer"),
        (twice, "writes the KV cache of layer 1 twice"),
        (picky, "attends to 4 tokens while its KV cache holds"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_attention_that_laconic_does_not_understand_is_refused_at_the_prompt(forward, says):
    model = odd_model(forward)
    with compress(model, POLICY) as run, pytest.raises(LaconicError, match=says):
        model.generate(**padded(prompts([12])), max_new_tokens=40, do_sample=False)
    assert run.stats.generated_tokens == 0


def test_a_model_that_keeps_no_cache_is_refused_at_the_prompt():
    model = family("llama")
    cache = CompressedCache(model.config, POLICY)
    inner = copy.deepcopy(model)
    for layer in inner.model.layers:
        layer.self_attn = Odd(layer.self_attn, silent)
    with AttentionBinding(inner), pytest.raises(LaconicError, match="wrote nothing into its KV cache"):
        inner(**padded(prompts([12])), past_key_values=cache)


def test_two_compressed_caches_in_one_pass_are_refused():
    model = family("llama")
    one, other = (CompressedCache(model.config, POLICY) for _ in range(2))
    one.layers[1] = other.layers[1]
    with AttentionBinding(model), pytest.raises(LaconicError, match="two compressed caches"):
        model(**padded(prompts([12])), past_key_values=one)


def validity(cache, incoming, device):
    """Which slots may be attended, of a batch with padding: there is a mask."""
    mask = cache.ledger.validity(incoming, device)
    assert mask is not None
    return mask


def test_layers_on_two_devices_have_their_own_masks_and_choices():
    """The second device is torch's meta device: tensors of it meet no others, so any that is shared would raise."""
    model = family("llama")
    cache = CompressedCache(model.config, POLICY)
    near, far = cache.compressed_layers
    with AttentionBinding(model):
        model(**padded(prompts([12, 5])), past_key_values=cache)
    assert far.buffers is not None
    far.buffers.keys, far.buffers.values = far.buffers.keys.to("meta"), far.buffers.values.to("meta")
    far.device = torch.device("meta")
    cpu, meta = validity(cache, 1, "cpu"), validity(cache, 1, torch.device("meta"))
    assert (cpu.device.type, meta.device.type) == ("cpu", "meta")
    assert cpu.shape == meta.shape == (2, 13)
    assert validity(cache, 1, "cpu").data_ptr() == cpu.data_ptr(), "each device's mask is built once"
    from laconic.engines.hf.attention import forward_pass, running_pass

    while cache.ledger.compressions == 0:
        with forward_pass("test", cache.ledger):
            for layer in (near, far):
                kv = torch.randn(2, 2, 1, 8, device=layer.device)
                keys, values = cache.update(kv, kv, layer.index)
                mask = validity(cache, 0, layer.device)
                running = running_pass()
                assert running is not None
                query = torch.randn(2, 4, 1, 8, device=layer.device)
                running.attended(query, keys, values, 1.0, mask[:, None, None])
    for layer, kind in ((near, "cpu"), (far, "meta")):
        assert layer.buffers is not None
        for tensor in (layer.keys, layer.values, layer.buffers.query_ring, layer.buffers.kept_positions):
            assert tensor is not None
            assert tensor.device.type == kind
    assert near.keys is not None
    assert far.keys is not None
    assert near.keys.shape == far.keys.shape == (2, 2, 12 + 4 + 8, 8)


def test_a_mask_of_padding_alone_is_read_and_others_are_refused():
    """Flash attention's masks are [B, T]; flex attention's are no tensors."""

    def seen(mask, queries):
        found = visible(mask, queries, 5)
        assert found is not None
        return found

    padding = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    one = seen(padding, 1)
    assert one.shape == (2, 1, 1, 5)
    assert torch.equal(one[:, 0, 0], padding.bool())
    two = seen(padding, 2)
    assert two[1, 0].tolist() == [[False, False, True, True, False], [False, False, True, True, True]]
    added = torch.zeros(1, 1, 1, 5)
    added[..., 0] = torch.finfo(torch.float32).min
    assert seen(added, 1)[0, 0, 0].tolist() == [False, True, True, True, True]
    assert visible(None, 1, 5) is None
    for odd in (object(), torch.ones(2, 4)):
        with pytest.raises(LaconicError, match="has a mask that can't be read here"):
            visible(odd, 1, 5)
