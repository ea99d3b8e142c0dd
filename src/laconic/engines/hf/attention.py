"""Switching a model to laconic's attention and back, through transformers' two registries and nothing else.

`AttentionBinding` registers one name for one model: the attention the model had, followed by a look at the queries; and the
mask the model had, cut to what the cache really holds. It wraps the model's `forward`, so that what is due happens when a
forward pass is over (`passes.py`). Name and wrapper disappear with the binding.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import attention_of, eager_attention_of, switch_attention
from laconic.engines.hf.passes import forward_pass, running_pass
from laconic.errors import InputError

PREFIX = "laconic_"
_numbers = itertools.count()
_lock = threading.RLock()
_stacks: WeakKeyDictionary[PreTrainedModel, list[AttentionBinding]] = WeakKeyDictionary()


class AttentionBinding:
    """While entered, `model` attends through laconic. May be nested; each restores what it found.

    Raises InputError for a model whose attention can't be switched (it does not use transformers' attention interface).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.name = f"{PREFIX}{next(_numbers)}"
        self.base = ""

    def __enter__(self) -> AttentionBinding:
        with _lock:
            stack = _stacks.setdefault(self.model, [])
            self.base = stack[-1].base if stack else attention_of(self.model)
            AttentionInterface.register(self.name, self._make_attention())
            AttentionMaskInterface.register(self.name, self._make_mask())
            try:
                switch_attention(self.model, self.name)
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
            switch_attention(self.model, stack[-1].name if stack else self.base)
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
            running = running_pass()
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
            running = running_pass()
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
