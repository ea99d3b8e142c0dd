"""`laconic.compress(model, policy)`: RPC, or any policy, under an unmodified `model.generate`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from laconic import checks
from laconic.compress import Policy
from laconic.engines.base import EngineStats
from laconic.engines.hf.attention import Binding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.context import context_of
from laconic.engines.requests import check_length
from laconic.errors import LaconicError

REFUSED = {
    "assistant_model": "assisted decoding rolls the cache back, and evicted tokens can't come back",
    "prompt_lookup_num_tokens": "prompt-lookup decoding rolls the cache back, and evicted tokens can't come back",
    "penalty_alpha": "contrastive search re-reads the cache with several candidates, which eviction would make wrong",
    "past_key_values": "the cache has to be laconic's own; leave `past_key_values` out (each generate makes a new one)",
    "cache_implementation": "the cache has to be laconic's own; leave `cache_implementation` out",
}


class Compression:
    """What `laconic.compress` returns: a context in which `model.generate` runs under a policy.

    Greedy decoding, sampling, streamers, stopping criteria and padded batches work as always; beam search, assisted decoding
    and caches of your own are refused. Every `generate` inside is a run of its own, in whichever thread; `stats` sums them
    up (peaks are of one generate), `cache` is that of the one that began last. Nothing is left behind on exit: not the
    model's attention, not `generate`, not a registered name.
    """

    def __init__(self, model: PreTrainedModel, policy: Policy) -> None:
        check_model(model)
        check_policy(policy, needed=True)
        self.model, self.policy = model, policy
        self.cache: CompressedCache | None = None
        self._done = EngineStats()
        self._running: list[CompressedCache] = []
        self._lock = threading.Lock()  # several threads may generate at once, or look at `stats`
        self._binding: Binding | None = None
        self._outer: Any = None
        # Fails here, before anything is changed, if there is nothing to compress.
        CompressedCache(text_config(model), policy)

    def __enter__(self) -> Compression:
        if self._binding is not None:
            raise LaconicError("this compression is already entered: make one per `with`")
        self._binding = Binding(self.model).__enter__()
        self._outer = self.model.__dict__.get("generate")
        self.model.__dict__["generate"] = self._generate
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._binding is not None
        if self._outer is None:
            del self.model.__dict__["generate"]
        else:
            self.model.__dict__["generate"] = self._outer
        self._binding.__exit__(*exc)
        self._binding = None

    @property
    def stats(self) -> EngineStats:
        """Summed over the generate calls so far, those that are running included."""
        with self._lock:
            stats = add_stats(EngineStats(), self._done)
            for cache in self._running:
                count_cache(stats, cache)
            if self.cache is not None and self.cache not in self._running:
                count_cache(stats, self.cache)
        return stats

    @contextmanager
    def _counted(self, cache: CompressedCache) -> Iterator[None]:
        """Around a generate with this cache: afterwards it is counted for good, unless it is the latest, which still holds."""
        with self._lock:
            if self.cache is not None and self.cache not in self._running:
                self._retire(self.cache)
            self.cache = cache
            self._running.append(cache)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(cache)
                if cache is not self.cache:
                    self._retire(cache)

    def _retire(self, cache: CompressedCache) -> None:
        count_cache(self._done, cache)
        self._done.live_kv_tokens = self._done.live_kv_bytes = self._done.reserved_kv_bytes = 0

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or self.model.generation_config
        if getattr(config, "cache_implementation", None) is not None and "cache_implementation" not in kwargs:
            config = copy.deepcopy(config)  # a checkpoint's own choice of cache, which ours replaces
            config.cache_implementation = None
            kwargs["generation_config"] = config
        asked = {**{k: getattr(config, k, None) for k in (*REFUSED, "num_beams", "use_cache")}, **kwargs}
        for name, reason in REFUSED.items():
            if asked.get(name) is not None:
                raise LaconicError(f"generate(..., {name}=...) is not supported under compression: {reason}")
        if (asked.get("num_beams") or 1) > 1:
            raise LaconicError(
                f"num_beams is {asked['num_beams']}; beam search reorders the cache between steps, which compression does not "
                "support: use num_beams=1 with sampling or greedy decoding"
            )
        if asked.get("use_cache") is False:
            raise LaconicError("use_cache is False; compression works on the KV cache, so leave use_cache on")
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise LaconicError(
                f"attention_mask has {mask.dim()} dimensions; compression needs the 2D mask [batch, prompt]"
            )
        prompt = _prompt_length(args, kwargs)
        check_prompt_fits(self.model, prompt)
        chunked = getattr(config, "prefill_chunk_size", None) or kwargs.get("prefill_chunk_size")
        cache = CompressedCache(
            text_config(self.model),
            self.policy,
            prompt=prompt if chunked else None,
            limit=_limit(config, kwargs, prompt),
        )
        generate: Any = type(self.model).generate.__get__(self.model)  # type: ignore[attr-defined]
        if self._outer is not None and not isinstance(getattr(self._outer, "__self__", None), Compression):
            generate = self._outer  # somebody else's wrapper stays in the chain
        with self._counted(cache):
            return generate(*args, past_key_values=cache, **kwargs)


def compress(model: PreTrainedModel, policy: Policy) -> Compression:
    """Run `model.generate` under a KV-cache compression policy:

        with laconic.compress(model, laconic.RPC(interval=4096, ratio=4, window=32)) as run:
            out = model.generate(**inputs, max_new_tokens=32768)
        run.stats  # evicted, kept, live bytes, compressions

    Raises LaconicError for an encoder model, a model whose attention laconic can't see, or one without a full-attention layer.
    """
    return Compression(model, policy)


def text_config(model: PreTrainedModel) -> Any:
    return model.config.get_text_config(decoder=True)


def check_model(model: Any) -> None:
    """LaconicError unless `model` is a decoder-only transformers model that can generate."""
    if not isinstance(model, PreTrainedModel):
        raise LaconicError(
            f"model is a {type(model).__name__}; expected a transformers PreTrainedModel that generates text"
        )
    if model.config.is_encoder_decoder:
        raise LaconicError(f"{type(model).__name__} is an encoder-decoder; laconic compresses decoder-only models")
    if not model.can_generate():
        raise LaconicError(
            f"{type(model).__name__} can't generate text; load the causal-LM class, for example AutoModelForCausalLM"
        )


def check_policy(policy: Any, needed: bool = False) -> None:
    """LaconicError for what is no policy; None is one (full KV) unless one is needed."""
    if needed or policy is not None:
        checks.instance("policy", policy, Policy, "one of laconic's policies, for example laconic.RPC()")


def check_tokenizer(tokenizer: Any) -> None:
    """LaconicError for what can't turn texts into tokens and back; None is none."""
    if tokenizer is not None:
        checks.capable("tokenizer", tokenizer, ("__call__", "decode"), "a transformers tokenizer, or None")


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens the model was made for, RoPE scaling included, or None if its config does not say."""
    return context_of(text_config(model))


def check_prompt_fits(model: PreTrainedModel, prompt: int) -> None:
    check_length(prompt, context_length(model))


def count_cache(stats: EngineStats, cache: CompressedCache) -> EngineStats:
    """Add what one cache has seen and holds."""
    ledger, per_token = cache.ledger, cache.bytes_per_token
    stats.steps += ledger.steps
    stats.compressions += ledger.compressions
    stats.evicted += ledger.evicted
    stats.kept += ledger.kept
    stats.kv_token_steps += ledger.token_steps
    stats.prompt_tokens += sum(row.prompt - row.pads for row in ledger.rows)
    stats.generated_tokens += sum(row.generated for row in ledger.rows)
    stats.live_kv_tokens += ledger.tokens
    stats.live_kv_bytes += ledger.tokens * per_token
    stats.reserved_kv_bytes += cache.reserved_bytes
    stats.peak_kv_tokens = max(stats.peak_kv_tokens, ledger.peak_tokens)
    stats.peak_kv_bytes = max(stats.peak_kv_bytes, ledger.peak_tokens * per_token)
    stats.left_alone = cache.left_alone
    return stats


def add_stats(into: EngineStats, other: EngineStats) -> EngineStats:
    """A fresh sum: counts add, peaks take the larger."""
    for name in EngineStats.__dataclass_fields__:
        mine, its = getattr(into, name), getattr(other, name)
        if name == "left_alone":
            setattr(into, name, dict(its))
        else:
            setattr(into, name, max(mine, its) if name.startswith("peak") else mine + its)
    return into


def _prompt_length(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    for value in (
        kwargs.get("inputs_embeds"),
        kwargs.get("input_ids"),
        kwargs.get("inputs"),
        args[0] if args else None,
    ):
        if value is not None:
            return int(value.shape[1])
    return 1  # generate starts from the bos token


def _limit(config: Any, kwargs: dict[str, Any], prompt: int) -> int | None:
    """Tokens a row may generate, from generate's own settings."""
    new = kwargs.get("max_new_tokens") or (None if "max_length" in kwargs else getattr(config, "max_new_tokens", None))
    if new is not None:
        return int(new)
    length = kwargs.get("max_length") or getattr(config, "max_length", None)
    return max(int(length) - prompt, 1) if length is not None else None
