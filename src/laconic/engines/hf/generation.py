"""`laconic.compress(model, policy)`: RPC, or any policy, under an unmodified `model.generate`."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from transformers import PreTrainedModel

from laconic.compress import Policy
from laconic.engines.base import EngineStats
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.facts import fit
from laconic.engines.hf.models import cache_argument, check_model, check_prompt_fits, text_config
from laconic.engines.hf.rotation import check_rotation
from laconic.engines.hf.stats import add_stats, count_cache
from laconic.engines.requests import check_goes_by_counts, check_policy
from laconic.errors import InputError

REFUSED = {
    "assistant_model": "assisted decoding rolls the cache back, and evicted tokens can't come back",
    "assistant_early_exit": "assisted decoding rolls the cache back, and evicted tokens can't come back",
    "use_mtp": "drafting several tokens rolls the cache back, and evicted tokens can't come back",
    "prompt_lookup_num_tokens": "prompt-lookup decoding rolls the cache back, and evicted tokens can't come back",
    "penalty_alpha": "contrastive search re-reads the cache with several candidates, which eviction would make wrong",
    "past_key_values": "the cache has to be laconic's own; leave `past_key_values` out (each generate makes a new one)",
    "cache": "the cache has to be laconic's own; leave `cache` out (each generate makes a new one)",
    "cache_implementation": "the cache has to be laconic's own; leave `cache_implementation` out",
}
# Entries of transformers' continuous batching, which brings a paged cache and an attention of its own.
CONTINUOUS = ("generate_batch", "continuous_batching_context_manager", "init_continuous_batching")
# The cache of the generate call that runs now, in this thread.
_serving: ContextVar[CompressedCache | None] = ContextVar("laconic_serving", default=None)


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
        check_goes_by_counts(policy, "model.generate")
        self.model, self.policy = model, fit(policy, model)
        self.cache: CompressedCache | None = None
        self._done = EngineStats()
        self._running: list[CompressedCache] = []
        self._lock = threading.Lock()  # several threads may generate at once, or look at `stats`
        self._binding: AttentionBinding | None = None
        self._outer: dict[str, Any] = {}
        # Fails here, before anything is changed, if there is nothing to compress.
        CompressedCache(text_config(model), policy)

    def __enter__(self) -> Compression:
        if self._binding is not None:
            raise InputError("this compression is already entered: make one per `with`")
        self._binding = AttentionBinding(self.model, self.policy).__enter__()
        mine = {"generate": self._generate, "prepare_inputs_for_generation": self._prepare()}
        mine |= {name: _refused(name) for name in CONTINUOUS if hasattr(self.model, name)}
        self._outer = {name: self.model.__dict__.get(name) for name in mine}
        self.model.__dict__.update(mine)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._binding is not None
        for name, outer in self._outer.items():
            if outer is None:
                del self.model.__dict__[name]
            else:
                self.model.__dict__[name] = outer
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

    def _prepare(self) -> Callable[..., Any]:
        """The model's `prepare_inputs_for_generation`, which must not put another cache in the place of ours."""
        inner: Any = self.model.prepare_inputs_for_generation

        @functools.wraps(inner)
        def prepare(*args: Any, **kwargs: Any) -> Any:
            inputs = inner(*args, **kwargs)
            ours, name = _serving.get(), cache_argument(self.model)
            if ours is not None and inputs.get(name) is not ours:
                if (
                    ours.ledger.logical_length == 0
                ):  # Phi-3 does so with a long prompt too, where an empty cache is as good
                    return {**inputs, name: ours}
                raise InputError(
                    f"{type(self.model).__name__} put another cache in the place of laconic's at {ours.ledger.logical_length} "
                    "tokens, so nothing would be compressed from there on: generate fewer tokens, or use another model"
                )
            return inputs

        return prepare

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        generate: Any = type(self.model).generate.__get__(self.model)  # type: ignore[attr-defined]
        kwargs = _by_name(generate, args, kwargs)
        own = self.model.generation_config
        config = kwargs.get("generation_config") or own
        if "cache_implementation" not in kwargs and any(
            getattr(c, "cache_implementation", None) is not None for c in (config, own)
        ):
            # A checkpoint's own choice of cache, which ours replaces; generate fills a config's gaps from the checkpoint's.
            config = copy.deepcopy(config)
            config.cache_implementation = None
            kwargs |= {"generation_config": config, "cache_implementation": None}
        asked = {**{k: getattr(config, k, None) for k in (*REFUSED, "num_beams", "use_cache")}, **kwargs}
        for name, reason in REFUSED.items():
            if asked.get(name) is not None and asked[name] is not False:
                raise InputError(f"generate(..., {name}=...) is not supported under compression: {reason}")
        if (asked.get("num_beams") or 1) > 1:
            raise InputError(
                f"num_beams is {asked['num_beams']}; beam search reorders the cache between steps, which compression does not "
                "support: use num_beams=1 with sampling or greedy decoding"
            )
        if asked.get("use_cache") is False:
            raise InputError("use_cache is False; compression works on the KV cache, so leave use_cache on")
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise InputError(
                f"attention_mask has {mask.dim()} dimensions; compression needs the 2D mask [batch, prompt]"
            )
        prompt = _prompt_length(kwargs)
        check_prompt_fits(self.model, prompt)
        limit = _limit(config, kwargs, prompt)
        check_rotation(self.model, prompt, limit, mixed=False)
        chunked = getattr(config, "prefill_chunk_size", None) or kwargs.get("prefill_chunk_size")
        cache = CompressedCache(text_config(self.model), self.policy, prompt=prompt if chunked else None, limit=limit)
        outer = self._outer["generate"]
        if outer is not None and not isinstance(getattr(outer, "__self__", None), Compression):
            generate = outer  # somebody else's wrapper stays in the chain
        token = _serving.set(cache)
        try:
            with self._counted(cache):
                return generate(**{cache_argument(self.model): cache}, **kwargs)
        finally:
            _serving.reset(token)


def compress(model: PreTrainedModel, policy: Policy) -> Compression:
    """Run `model.generate` under a KV-cache compression policy:

        with laconic.compress(model, laconic.RPC(interval=4096, ratio=4, window=32)) as run:
            out = model.generate(**inputs, max_new_tokens=32768)
        run.stats  # evicted, kept, live bytes, compressions

    Raises InputError for an encoder model, a model whose attention laconic can't see, or one without a full-attention layer.
    """
    return Compression(model, policy)


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise InputError(
            f"{name} brings a paged cache of its own, which laconic does not compress: call generate inside "
            "`with laconic.compress(...)`, or use laconic's engine (HFEngine), where traces come and go as well"
        )

    return refuse


def _by_name(generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of `generate` by name, those given by position too. Python's own TypeError if they don't fit."""
    bound = inspect.signature(generate).bind_partial(*args, **kwargs)
    rest = next((p.name for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    named = dict(bound.arguments)
    return named | named.pop(rest, {}) if rest is not None else named


def _prompt_length(kwargs: dict[str, Any]) -> int:
    for name in ("inputs_embeds", "input_ids", "inputs"):
        if kwargs.get(name) is not None:
            return int(kwargs[name].shape[1])
    return 1  # generate starts from the bos token


def _limit(config: Any, kwargs: dict[str, Any], prompt: int) -> int | None:
    """Tokens a row may generate, from generate's own settings."""
    new = kwargs.get("max_new_tokens") or (None if "max_length" in kwargs else getattr(config, "max_new_tokens", None))
    if new is not None:
        return int(new)
    length = kwargs.get("max_length") or getattr(config, "max_length", None)
    return max(int(length) - prompt, 1) if length is not None else None
