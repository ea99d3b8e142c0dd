"""`laconic.compress` under unmodified `generate`, on all families."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)

from laconic.compress import H2O, RKV, RPC, TOVA, FullKV, Oracle, Random, RandomAttention, StreamingLLM, VaSE
from laconic.engines.hf import compress
from laconic.errors import LaconicError
from tests.engines.hf.families import FAMILIES, HYBRIDS, cache_of, family, padded, prompts
from tests.reference.generation import reference_generate

STEPS = 90
NO_EVICTION = [FullKV(), RPC(interval=16, ratio=1, window=8), RPC(interval=256, ratio=4, window=8)]
EVICTING = [
    RPC(interval=16, ratio=4, window=8),
    RPC(interval=16, ratio=2, window=4, pooling="max", kernel=3),
    RPC(interval=16, ratio=4, window=8, aggregation="group"),
    H2O(budget=24),
    TOVA(budget=24),
    StreamingLLM(budget=24),
    RKV(budget=24, buffer=16, window=8),
    Random(interval=16, ratio=4, window=8),
    RandomAttention(interval=16, ratio=4, window=8),
    VaSE(interval=16, ratio=2, window=8),
]


RPCS = [EVICTING[0], EVICTING[2]]


def greedy(model, inputs, steps=STEPS, **kwargs):
    return model.generate(**inputs, max_new_tokens=steps, do_sample=False, **kwargs)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("policy", NO_EVICTION, ids=lambda p: p.spec())
def test_no_eviction_gives_the_tokens_of_plain_generate(name, policy):
    model = family(name)
    for lengths in ([12], [12, 3, 9, 17]):
        inputs = padded(prompts(lengths))
        plain = greedy(model, inputs)
        with compress(model, policy) as run:
            ours = greedy(model, inputs)
        assert torch.equal(ours, plain)
        assert len(set(plain[0].tolist())) > 10, "the text is too dull to tell caches apart"
        assert run.stats.evicted == 0


# RPC on every family; the others on a plain one, one with sinks, sliding layers and eager attention, and latent attention.
# Zamba's layers share one attention module, whose calls don't tell the reference their layer; Gemma 3n is slow, and as Gemma 4.
ALL_POLICIES = ("llama", "gpt-oss", "deepseek-v3")
PAIRS = [
    (name, policy)
    for policy in EVICTING
    for name in FAMILIES
    if name in ALL_POLICIES or (policy in RPCS and name not in ("zamba2", "gemma3n"))
    if not (name == "deepseek-v3" and isinstance(policy, VaSE))
]


@pytest.mark.parametrize(("name", "policy"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.spec())
def test_eviction_gives_the_tokens_of_the_slow_reference(name, policy):
    model = family(name)
    rows = prompts([12, 3, 9, 17])
    inputs = padded(rows)
    with compress(model, policy) as run:
        ours = greedy(model, inputs)
    assert run.stats.evicted > 0
    plain = greedy(model, inputs)
    assert not torch.equal(ours, plain), "eviction changed nothing: the comparison below would be empty"
    for i, row in enumerate(rows if policy is EVICTING[0] else rows[:2]):
        want = reference_generate(model, torch.tensor([row]), policy, STEPS, row=i)
        assert ours[i, inputs["input_ids"].shape[1] :].tolist() == want


def test_values_that_latent_attention_does_not_cache_are_refused():
    model = family("deepseek-v3")
    with (
        compress(model, VaSE(interval=16, ratio=2, window=8)),
        pytest.raises(LaconicError, match="latent attention doesn't cache: use another, such as rpc"),
    ):
        greedy(model, padded(prompts([12])))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_right_padded_prompts_are_masked_like_plain_generate(name):
    model = family(name)
    inputs = padded(prompts([12, 3, 9, 17]), side="right")
    plain = greedy(model, inputs)
    with compress(model, FullKV()):
        assert torch.equal(greedy(model, inputs), plain)
    policy = RPC(interval=16, ratio=4, window=8)
    with compress(model, policy):
        together = greedy(model, inputs)
    # A row's pads stay masked after evictions: other pad tokens change nothing. `generate` goes on from the last one, though.
    junk = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 50)
    junk[:, -1] = inputs["input_ids"][:, -1]
    assert (junk != inputs["input_ids"]).any(dim=1).tolist() == [True, True, True, False]
    with compress(model, policy) as run:
        again = greedy(model, {"input_ids": junk, "attention_mask": inputs["attention_mask"]})
    assert run.stats.evicted > 0
    assert torch.equal(again[:, 17:], together[:, 17:])


@pytest.mark.parametrize("lengths", [[12], [12, 3, 9, 17]])
@pytest.mark.parametrize("policy", EVICTING, ids=lambda p: p.spec())
def test_live_memory_is_what_the_schedule_says(policy, lengths):
    model = family("qwen3")
    with compress(model, policy) as run:
        greedy(model, padded(prompts(lengths)))
    computed = STEPS - 1  # the last token's KV is never needed
    want = sum(policy.schedule.physical(computed, n) for n in lengths)
    per_token = 2 * 2 * 8 * 4 * 2  # key and value, 2 KV heads of 8, float32, 2 layers
    assert run.stats.live_kv_tokens == want
    assert run.stats.live_kv_bytes == want * per_token
    assert run.stats.peak_kv_tokens == sum(policy.schedule.peak(computed, n) for n in lengths)
    assert run.stats.evicted == policy.schedule.evicted(computed) * len(lengths)
    assert run.stats.kv_token_steps == sum(policy.schedule.total(computed, n) for n in lengths)
    # and the buffers themselves, not only the book about them
    width = max(lengths)
    for layer in cache_of(run).compressed_layers:
        assert layer.keys is not None
        assert layer.values is not None
        assert layer.keys.shape == (len(lengths), 2, policy.schedule.physical(computed, width), 8)
        reserved = layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes()
        assert reserved <= len(lengths) * 2 * 2 * 8 * 4 * (width + policy.schedule.peak(STEPS) + 1)


@pytest.mark.parametrize("name", HYBRIDS)
def test_sliding_layers_are_left_alone_and_said_so(name):
    model = family(name)
    with compress(model, RPC(interval=16, ratio=4, window=8)) as run:
        greedy(model, padded(prompts([5])))
    assert run.stats.left_alone == {"sliding": [0, 2]}
    assert [layer.index for layer in cache_of(run).compressed_layers] == [1]


def test_sampling_streaming_and_stopping_work_as_always(capsys):
    from tests.engines.hf.tokens import tokenizer

    model, inputs = family("qwen2"), padded(prompts([9]))
    torch.manual_seed(1)
    plain = model.generate(**inputs, max_new_tokens=40, do_sample=True, num_return_sequences=3)
    with compress(model, RPC(interval=64, ratio=4, window=8)):
        torch.manual_seed(1)
        ours = model.generate(**inputs, max_new_tokens=40, do_sample=True, num_return_sequences=3)
        assert torch.equal(ours, plain)
        model.generate(**inputs, max_new_tokens=5, do_sample=False, streamer=TextStreamer(tokenizer()))
        stopped = model.generate(
            **inputs, max_new_tokens=40, do_sample=False, eos_token_id=int(greedy(model, inputs)[0, 14])
        )
    assert capsys.readouterr().out.strip()
    assert stopped.shape[1] < 49


def test_chunked_prefill_and_embeddings_count_as_prompt():
    model = family("llama")
    inputs = padded(prompts([23]))
    policy = RPC(interval=16, ratio=4, window=8)
    with compress(model, policy) as run:
        want = greedy(model, inputs)
        chunked = greedy(model, inputs, prefill_chunk_size=7)
        assert torch.equal(chunked, want)
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        from_embeds = model.generate(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], max_new_tokens=STEPS, do_sample=False
        )
        assert from_embeds[0].tolist() == want[0, 23:].tolist()
    assert run.stats.evicted == 3 * policy.schedule.evicted(STEPS - 1)


@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_bfloat16(name):
    model = copy.deepcopy(family(name)).bfloat16()
    inputs = padded(prompts([12, 3]))
    plain = greedy(model, inputs)
    with compress(model, FullKV()):
        assert torch.equal(greedy(model, inputs), plain)
    for policy in (EVICTING[0], EVICTING[3], EVICTING[6]):
        with compress(model, policy) as run:
            greedy(model, inputs)
        keys = cache_of(run).compressed_layers[0].keys
        assert keys is not None
        assert keys.dtype == torch.bfloat16
        assert run.stats.live_kv_tokens == sum(policy.schedule.physical(STEPS - 1, n) for n in (12, 3))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_long_padding_whole_or_in_chunks(side, chunk):
    """Padding wider than a chunk of the prefill, and than any allowance in the masks."""
    model = family("llama")
    inputs = padded(prompts([150, 11, 70]), side=side)
    plain = greedy(model, inputs, steps=40)
    extra = {} if chunk is None else {"prefill_chunk_size": chunk}
    with compress(model, FullKV()):
        ours = greedy(model, inputs, steps=40, **extra)
    assert torch.equal(ours, plain)
    policy = RPC(interval=16, ratio=4, window=8)
    with compress(model, policy) as run:
        whole = greedy(model, inputs)
    assert run.stats.live_kv_tokens == sum(policy.schedule.physical(STEPS - 1, n) for n in (150, 11, 70))
    with compress(model, policy):
        assert torch.equal(greedy(model, inputs, **extra), whole)


def test_nothing_global_is_left_behind():
    model = family("llama")
    names = (list(AttentionInterface().keys()), list(AttentionMaskInterface().keys()))
    before = model.config._attn_implementation
    with compress(model, RPC(interval=16, ratio=4, window=8)):
        greedy(model, padded(prompts([5])), steps=30)
        assert model.config._attn_implementation != before
    with pytest.raises(LaconicError), compress(model, RPC(interval=16, ratio=4, window=8)):
        greedy(model, padded(prompts([5])), num_beams=2)
    assert (list(AttentionInterface().keys()), list(AttentionMaskInterface().keys())) == names
    assert model.config._attn_implementation == before
    assert "generate" not in model.__dict__


def test_nested_and_two_models():
    a, b = family("llama"), family("qwen3")
    inputs = padded(prompts([12, 4]))
    fine, coarse = RPC(interval=16, ratio=2, window=8), RPC(interval=16, ratio=8, window=8)

    def alone(model, policy):
        with compress(model, policy):
            return greedy(model, inputs)

    want = {key: alone(*key) for key in ((a, fine), (a, coarse), (b, fine))}
    with compress(a, fine) as outer, compress(b, fine):
        assert torch.equal(greedy(a, inputs), want[a, fine])
        with compress(a, coarse) as inner:
            assert torch.equal(greedy(a, inputs), want[a, coarse])
            assert torch.equal(greedy(b, inputs), want[b, fine])
        assert torch.equal(greedy(a, inputs), want[a, fine])
    assert inner.stats.evicted > outer.stats.evicted / 2
    assert torch.equal(greedy(a, inputs), alone(a, FullKV()))


def test_two_models_in_two_threads():
    models, inputs = [family("llama"), family("qwen3")], padded(prompts([12, 4]))
    policies = [RPC(interval=16, ratio=2, window=8), RPC(interval=16, ratio=8, window=8)]
    want = []
    got: list[torch.Tensor | None] = [None, None]
    for model, policy in zip(models, policies, strict=True):
        with compress(model, policy):
            want.append(greedy(model, inputs))

    def work(i):
        with compress(models[i], policies[i]):
            for _ in range(3):
                got[i] = greedy(models[i], inputs)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, alone in zip(got, want, strict=True):
        assert ours is not None
        assert torch.equal(ours, alone)


class Meeting(StoppingCriteria):
    """Generates of several threads wait for each other at a step: all of them are under way then, whatever the clock does."""

    def __init__(self, barrier, at):
        self.barrier, self.at, self.steps = barrier, at, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        if self.steps == self.at:
            self.barrier.wait(60)
            self.barrier.wait(60)  # whoever looks has looked
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_several_threads_generate_at_once_and_all_are_counted():
    model, policy = family("llama"), RPC(interval=16, ratio=4, window=8)
    batches = [padded(prompts([12, 4])), padded(prompts([9])), padded(prompts([7, 3, 5]))]
    want, alone = [], []
    for inputs in batches:
        with compress(model, policy) as run:
            want.append(greedy(model, inputs))
        alone.append(run.stats)
    barrier, errors = threading.Barrier(4), []
    got: list[torch.Tensor | None] = [None] * 3
    with compress(model, policy) as run:

        def work(i):
            try:
                got[i] = greedy(model, batches[i], stopping_criteria=StoppingCriteriaList([Meeting(barrier, 40)]))
                if i == 0:  # and one after another in a thread
                    got[i] = greedy(model, batches[i])
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        barrier.wait(60)
        during = run.stats
        barrier.wait(60)
        for thread in threads:
            thread.join()
    assert not errors
    for ours, plain in zip(got, want, strict=True):
        assert ours is not None
        assert torch.equal(ours, plain)
    # Six rows of 40 steps, each but the prompt's having fed one token.
    assert during.generated_tokens == 6 * 39
    assert during.prompt_tokens == 12 + 4 + 9 + 7 + 3 + 5
    assert during.live_kv_tokens == during.prompt_tokens + during.generated_tokens - during.evicted
    for name in ("steps", "prompt_tokens", "generated_tokens", "compressions", "evicted", "kept", "kv_token_steps"):
        once = [getattr(stats, name) for stats in alone]
        assert getattr(run.stats, name) == sum(once) + once[0], name
    assert run.stats.peak_kv_tokens == max(stats.peak_kv_tokens for stats in alone)
    # What is held now is the latest's alone.
    assert run.stats.live_kv_tokens == cache_of(run).ledger.tokens


def test_a_generate_that_fails_in_a_thread_is_counted_and_leaves_the_others():
    model, inputs = family("llama"), padded(prompts([12]))

    class Fails(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            raise RuntimeError("enough")

    with compress(model, FullKV()) as run:
        with pytest.raises(RuntimeError, match="enough"):
            greedy(model, inputs, stopping_criteria=StoppingCriteriaList([Fails()]))
        greedy(model, inputs, steps=5)
        assert run.stats.prompt_tokens == 24
        assert run.stats.generated_tokens == 4


def test_a_streamer_read_in_another_thread():
    from tests.engines.hf.tokens import tokenizer

    model, inputs, policy = family("qwen2"), padded(prompts([9])), RPC(interval=16, ratio=4, window=8)
    with compress(model, policy) as run:
        want = greedy(model, inputs)
    alone = run.stats
    with compress(model, policy) as run:
        streamers = [TextIteratorStreamer(tokenizer(), skip_prompt=True, timeout=60) for _ in range(2)]
        threads = [threading.Thread(target=greedy, args=(model, inputs), kwargs={"streamer": s}) for s in streamers]
        for thread in threads:
            thread.start()
        texts = ["".join(streamer) for streamer in streamers]
        for thread in threads:
            thread.join()
    assert texts == [tokenizer().decode(want[0, 9:])] * 2
    assert run.stats.generated_tokens == 2 * alone.generated_tokens
    assert run.stats.evicted == 2 * alone.evicted > 0


def test_plain_calls_inside_are_plain():
    model, inputs = family("llama"), padded(prompts([12, 4]))
    want = model(**inputs).logits
    with compress(model, RPC(interval=16, ratio=4, window=8)):
        assert torch.equal(model(**inputs).logits, want)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"num_beams": 2}, "num_beams is 2"),
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"prompt_lookup_num_tokens": 3}, "rolls the cache back"),
        ({"assistant_model": object()}, "rolls the cache back"),
        ({"assistant_early_exit": 1}, "rolls the cache back"),
        ({"use_mtp": True}, "rolls the cache back"),
        ({"past_key_values": object()}, "laconic's own"),
        ({"cache": object()}, "leave `cache` out"),
        ({"attention_mask": torch.ones(1, 1, 5, 5)}, "2D mask"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_what_compression_can_not_serve_is_refused_with_a_reason(kwargs, says):
    model = family("llama")
    with compress(model, RPC(interval=16, ratio=4, window=8)), pytest.raises(LaconicError, match=says):
        model.generate(**{**padded(prompts([5])), "max_new_tokens": 3, **kwargs})


def test_bad_models_prompts_and_policies():
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    policy = RPC(interval=16, ratio=4, window=8)
    tiny: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
    }
    with pytest.raises(LaconicError, match="can't generate"):
        compress(BertModel(BertConfig(**tiny)), policy)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(LaconicError, match="encoder-decoder"):
        compress(t5, policy)
    with pytest.raises(LaconicError, match="expected a transformers"):
        compress(torch.nn.Linear(2, 2), policy)  # type: ignore[arg-type]
    with pytest.raises(LaconicError, match="expected one of laconic's policies"):
        compress(family("llama"), "rpc")  # type: ignore[arg-type]
    with compress(family("llama"), policy), pytest.raises(LaconicError, match="context is 1024"):
        greedy(family("llama"), padded(prompts([1030])))
    with compress(family("llama"), policy), pytest.raises(LaconicError, match="prompt is empty"):
        family("llama").generate(input_ids=torch.empty((1, 0), dtype=torch.long), max_new_tokens=3)
    oracle = Oracle(keep=lambda ids: ids, interval=16, ratio=4, window=8)
    with compress(family("llama"), oracle), pytest.raises(LaconicError, match="HFEngine"):
        greedy(family("llama"), padded(prompts([5])))


def test_a_model_with_sliding_layers_only_is_refused():
    from transformers import MistralConfig, MistralForCausalLM

    from tests.engines.hf.families import COMMON

    model = MistralForCausalLM(MistralConfig(**COMMON, sliding_window=8))
    with pytest.raises(LaconicError, match="no plain full-attention layer"):
        compress(model, RPC(interval=16, ratio=4, window=8))


def test_a_cache_without_laconic_attention_is_an_error_and_not_wrong_text():
    from laconic.engines.hf import CompressedCache

    model = family("llama")
    cache = CompressedCache(model.config, RPC(interval=16, ratio=4, window=8))
    with pytest.raises(LaconicError, match="outside of laconic"):
        model.generate(**padded(prompts([5])), max_new_tokens=40, do_sample=False, past_key_values=cache)


def test_arguments_by_position_and_a_checkpoint_s_own_kind_of_cache():
    model, ids = copy.deepcopy(family("llama")), torch.tensor(prompts([12]))
    policy = RPC(interval=16, ratio=4, window=8)
    with compress(model, policy):
        want = model.generate(input_ids=ids, max_new_tokens=40, do_sample=False)
    settings = GenerationConfig(max_new_tokens=40, do_sample=False)
    static = GenerationConfig(max_new_tokens=40, do_sample=False, cache_implementation="static")
    for own in (None, "static"):
        model.generation_config.cache_implementation = own
        with compress(model, policy) as run:
            for calls, config in enumerate((settings, static), 1):
                assert torch.equal(model.generate(ids, config), want)
                assert torch.equal(model.generate(ids, generation_config=config), want)
                assert run.stats.evicted == 2 * calls * policy.schedule.evicted(39)
            assert torch.equal(model.generate(ids, max_new_tokens=40, do_sample=False), want)
            with pytest.raises(TypeError, match="multiple values"):
                model.generate(ids, inputs=ids)
    assert static.cache_implementation == "static"


def test_continuous_batching_inside_is_refused_and_back_afterwards():
    model = family("llama")
    with compress(model, RPC(interval=16, ratio=4, window=8)):
        with pytest.raises(LaconicError, match="generate_batch brings a paged cache"):
            model.generate_batch([[5, 6, 7]], max_new_tokens=3)  # type: ignore[operator]
        with pytest.raises(LaconicError, match="init_continuous_batching brings a paged cache"):
            model.init_continuous_batching()  # type: ignore[operator]
    assert not {"generate", "generate_batch", "prepare_inputs_for_generation", "forward"} & set(model.__dict__)


def test_encoders_and_caches_of_a_class_of_their_own_are_refused_before_anything_runs():
    from transformers import (
        BertConfig,
        BertGenerationConfig,
        BertGenerationDecoder,
        BertLMHeadModel,
        MiniMaxConfig,
        MiniMaxForCausalLM,
    )

    tiny: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 96,
    }
    policy = RPC(interval=16, ratio=4, window=8)
    with pytest.raises(LaconicError, match="is an encoder"):
        compress(BertLMHeadModel(BertConfig(**tiny)), policy)
    decoder = BertLMHeadModel(BertConfig(**tiny, is_decoder=True)).eval()
    inputs = padded(prompts([12]))
    plain = greedy(decoder, inputs)
    with compress(decoder, FullKV()):
        assert torch.equal(greedy(decoder, inputs), plain)
    with compress(decoder, policy) as run:
        greedy(decoder, inputs)
    assert run.stats.evicted == policy.schedule.evicted(STEPS - 1)
    for own in (True, False):  # a config that no list of encoders names
        config = BertGenerationConfig(**tiny, is_decoder=own, max_position_embeddings=512, pad_token_id=0)
        model = BertGenerationDecoder(config).eval()
        model.generation_config.eos_token_id = None
        with compress(model, policy) as run:
            if own:
                greedy(model, inputs)
                assert run.stats.evicted == policy.schedule.evicted(STEPS - 1)
            else:
                with pytest.raises(LaconicError, match="attends to later tokens as well"):
                    greedy(model, inputs)
    mixed: dict[str, Any] = {
        "layer_types": ["linear_attention", "full_attention"],
        "num_local_experts": 2,
        "num_key_value_heads": 2,
    }
    with pytest.raises(LaconicError, match="a cache of its own class"):
        compress(MiniMaxForCausalLM(MiniMaxConfig(**tiny, **mixed, head_dim=8)), policy)
