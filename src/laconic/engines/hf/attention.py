"""Switching a model to laconic's attention and back, through transformers' two registries and nothing else.

`Binding` registers one name for one model: the attention the model had, followed by a look at the queries; and the mask the
model had, cut to what the cache really holds. It wraps the model's `forward`, so that what is due happens when a forward pass
is over (`passes.py`). Name and wrapper disappear with the binding.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.passes import attending, forward_pass
from laconic.errors import InputError

PREFIX = "laconic_"
_numbers = itertools.count()
_lock = threading.RLock()
_stacks: WeakKeyDictionary[PreTrainedModel, list[Binding]] = WeakKeyDictionary()


class Binding:
    """While entered, `model` attends through laconic. May be nested; each restores what it found.

    Raises InputError for a model whose attention can't be switched (it does not use transformers' attention interface).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.name = f"{PREFIX}{next(_numbers)}"
        self.base = ""

    def __enter__(self) -> Binding:
        with _lock:
            stack = _stacks.setdefault(self.model, [])
            self.base = stack[-1].base if stack else attention_of(self.model)
            AttentionInterface.register(self.name, self._make_attention())
            AttentionMaskInterface.register(self.name, self._make_mask())
            try:
                _switch(self.model, self.name)
            except BaseException:
                self._unregister()
                raise
            if not stack:
                for module in _entrances(self.model):
                    _wrap(module)
            stack.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        with _lock:
            stack = _stacks[self.model]
            stack.remove(self)
            _switch(self.model, stack[-1].name if stack else self.base)
            if not stack:
                del _stacks[self.model]
                for module in _entrances(self.model):
                    _unwrap(module)
            self._unregister()

    def _unregister(self) -> None:
        # The registries offer no way to take a name back; leaving it would keep the closure alive.
        for registry in (AttentionInterface, AttentionMaskInterface):
            registry._global_mapping.pop(self.name, None)

    def _make_attention(self) -> Callable[..., tuple[Tensor, Any]]:
        base = self.base

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, Any]:
            attend = eager_attention_of(module) if base == "eager" else ALL_ATTENTION_FUNCTIONS[base]
            out = attend(module, query, key, value, attention_mask, **kwargs)
            running = attending()
            if running is not None and running.last is not None:
                if getattr(module, "is_causal", None) is False:
                    raise InputError(
                        f"{running.model} attends to later tokens as well, as encoders do; laconic runs decoder-only models"
                    )
                scaling = kwargs.get("scaling")
                running.attended(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling, attention_mask)
            return out

        return attention

    def _make_mask(self) -> Callable[..., Any]:
        base_mask = ALL_MASK_ATTENTION_FUNCTIONS[self.base]
        simple = self.base == "sdpa"

        def mask(*args: Any, **kwargs: Any) -> Any:
            running = attending()
            if running is None or running.masked is None:
                return base_mask(*args, **kwargs)
            ledger, running.masked = running.masked, None
            q, held = kwargs["q_length"], ledger.length
            if ledger.prompt_left is None or ledger.prompt_left > 0:
                ledger.set_prompt_mask(kwargs.get("attention_mask"), held + q)
            valid = ledger.validity(q, kwargs.get("device", "cpu")) if ledger.rows else None
            if simple and q == 1:
                return None if valid is None else valid[:, None, None, :]
            kwargs |= {"attention_mask": valid, "kv_length": held + q, "kv_offset": 0, "q_offset": held}
            return base_mask(*args, **kwargs)

        return mask


def _entrances(model: PreTrainedModel) -> list[nn.Module]:
    """Where a forward pass can begin: the language model, or its decoder called by itself."""
    return [model] if model.base_model is model else [model, model.base_model]


def _wrap(module: nn.Module) -> None:
    inner, name = module.forward, type(module).__name__
    had = module.__dict__.get("forward")  # another library's wrapper stays, inside ours

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        cache = next((v for v in (*kwargs.values(), *args) if isinstance(v, CompressedCache)), None)
        with forward_pass(name, cache):
            return inner(*args, **kwargs)

    forward.laconic_before = had  # type: ignore[attr-defined]
    module.__dict__["forward"] = forward


def _unwrap(module: nn.Module) -> None:
    before = module.__dict__["forward"].laconic_before
    if before is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = before


def attention_of(model: PreTrainedModel) -> str:
    """The name of the model's attention implementation, "eager" or one that transformers has registered."""
    name = model.config.get_text_config(decoder=True)._attn_implementation or "eager"
    if name != "eager" and name not in ALL_ATTENTION_FUNCTIONS:
        raise InputError(f"the model's attention implementation {name!r} is not one that transformers has registered")
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise InputError(
            f"the attention implementation {name!r} brings no mask of its own, which laconic needs: "
            "load the model with attn_implementation='sdpa' or 'eager'"
        )
    return name


def eager_attention_of(module: nn.Module) -> Callable[..., tuple[Tensor, Any]]:
    """The modeling file's own eager attention (GPT-OSS's knows its sinks, Gemma's its soft cap)."""
    for cls in type(module).__mro__:
        found = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise InputError(f"{type(module).__name__} has no eager attention that laconic could call")


def _switch(model: PreTrainedModel, name: str) -> None:
    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        model.set_attn_implementation(name)
    else:
        key = next(k for k in model.config.sub_configs if getattr(model.config, k) is text)
        model.set_attn_implementation({key: name})
    if text._attn_implementation != name:
        raise InputError(
            f"{type(model).__name__} does not go through transformers' attention interface, so laconic can't see its queries; "
            "models written for transformers 5 do"
        )
