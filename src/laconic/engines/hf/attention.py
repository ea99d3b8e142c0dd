"""Switching a model to laconic's attention and back, through transformers' two registries and nothing else.

`AttentionBinding` registers one name for one model: the attention the model had, followed by a look at the queries; and the
mask the model had, cut to what the cache really holds. It wraps the model's `forward`, so that what is due happens when a
forward pass is over (`ForwardPass`). Name and wrapper disappear with the binding.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laconic.compress import Policy
from laconic.engines.hf.ledger import Ledger
from laconic.engines.hf.models import attention_of, eager_attention_of, switch_attention
from laconic.errors import InputError

PREFIX = "laconic_"
_numbers = itertools.count()
_lock = threading.RLock()
_stacks: WeakKeyDictionary[PreTrainedModel, list[AttentionBinding]] = WeakKeyDictionary()


# The pass that runs now, in this thread. It travels with the call itself, so several models and threads do not meet.
_RUNNING: ContextVar[ForwardPass | None] = ContextVar("laconic_pass", default=None)


class WritingLayer(Protocol):
    """What a pass needs of a layer of a compressed cache."""

    ledger: Ledger
    index: int

    @property
    def must_be_seen(self) -> bool: ...

    def attended(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> None: ...

    def evict(self) -> None: ...


class ForwardPass:
    """One forward pass of a bound model: which cache it feeds, who has attended, and the eviction at its end.

    Eviction waits until the whole pass is over. Within a pass any layer may read any layer's keys and values again (KV-sharing
    layers read another layer's, some models attend twice), and the pass that compresses attends to everything.
    """

    __slots__ = ("given", "inputs", "layers", "ledger", "mask_of", "model", "seen", "writer")

    def __init__(self, model: str, given: Ledger | None) -> None:
        self.model = model
        self.given = given  # of the compressed cache that the call names, if it names one
        self.ledger: Ledger | None = None  # of the cache that was written to
        self.layers: list[WritingLayer] = []  # that have written
        self.seen = 0  # of the layers, those whose attention was seen
        self.writer: WritingLayer | None = None  # wrote its keys and values, has not attended yet
        self.inputs: Tensor | None = None  # what the latest attention module reads, [B, q, E], where a binding looks
        self.mask_of: Ledger | None = None  # was asked for the sizes of the mask that transformers makes next

    def write(self, layer: WritingLayer, batch: int, q: int) -> None:
        """`layer` is about to append `q` tokens to each of `batch` rows."""
        ledger = layer.ledger
        if self.ledger is None:
            ledger.begin_pass(batch, q)
            self.ledger = ledger
        elif ledger is not self.ledger:
            raise InputError(f"one forward pass of {self.model} feeds two compressed caches; give it one")
        elif layer in self.layers:
            raise InputError(
                f"{self.model} writes the KV cache of layer {layer.index} twice in one forward pass, which can't be compressed"
            )
        self.layers.append(layer)
        self.writer = layer

    def attended(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> None:
        """An attention call is over. It is the latest writer's if that hasn't attended yet; otherwise somebody reads again."""
        layer, self.writer = self.writer, None
        if layer is not None:
            self.seen += 1
            layer.attended(query, key, value, scaling, mask)

    def finish(self) -> None:
        """All layers have read: evict what is due."""
        ledger = self.ledger
        if ledger is None:
            if self.given is not None and not self.given.rows:
                raise InputError(
                    f"{self.model} wrote nothing into its KV cache; laconic compresses decoders that keep one "
                    "(encoders such as BERT don't)"
                )
            return
        if self.seen < len(self.layers) and any(layer.must_be_seen for layer in self.layers):
            raise InputError(
                f"{self.model} does not go through transformers' attention interface in every layer, so laconic can't see "
                "its queries; models written for transformers 5 do"
            )
        if ledger.eviction is not None:
            for layer in self.layers:
                layer.evict()
        ledger.end_pass()


def required_pass() -> ForwardPass:
    """The pass that runs now. Raises InputError where there is none: the model is not bound to laconic."""
    running = _RUNNING.get()
    if running is None:
        raise InputError(
            "this compressed KV cache is used outside of laconic, where nobody looks at the queries: it serves the generate "
            "call that made it, inside `with laconic.compress(...)`; leave past_key_values out, or call generate there anew"
        )
    return running


def running_pass() -> ForwardPass | None:
    """The pass that runs now, or None."""
    return _RUNNING.get()


@contextmanager
def forward_pass(model: str, given: Ledger | None) -> Iterator[None]:
    """Around one forward pass. A pass inside another (a decoder called by its language model) is part of it.

    given: the ledger of the compressed cache that the call names, if it names one.
    """
    if _RUNNING.get() is not None:
        yield
        return
    running = ForwardPass(model, given)
    token = _RUNNING.set(running)
    try:
        yield
        running.finish()
    except BaseException:
        if running.ledger is not None:
            running.ledger.fail_pass()
        raise
    finally:
        _RUNNING.reset(token)


class AttentionBinding:
    """While entered, `model` attends through laconic. May be nested; each restores what it found.

    policy: whose scorer may read what each attention module reads (`ForwardPass.inputs`); None: nobody does. Raises InputError
    for a model whose attention can't be switched (it does not use transformers' attention interface).
    """

    def __init__(self, model: PreTrainedModel, policy: Policy | None = None) -> None:
        self.model = model
        scorer = None if policy is None else policy.scorer
        self.shows_inputs = scorer is not None and scorer.reads_inputs
        self._hooks: list[RemovableHandle] = []
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
            if self.shows_inputs:
                modules = [m for m in self.model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")]
                self._hooks = [m.register_forward_pre_hook(_see_inputs, with_kwargs=True) for m in modules]
        return self

    def __exit__(self, *exc: object) -> None:
        with _lock:
            stack = _stacks[self.model]
            stack.remove(self)
            for hook in self._hooks:
                hook.remove()
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
            if running is not None and running.writer is not None:
                if getattr(module, "is_causal", None) is False:
                    raise InputError(
                        f"{running.model} attends to later tokens as well, as encoders do; laconic runs decoder-only models"
                    )
                scaling = kwargs.get("scaling")
                scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
                running.attended(query, key, value, scaling, attention_mask)
            return out

        return attention

    def _make_mask(self) -> Callable[..., Any]:
        base_mask = ALL_MASK_ATTENTION_FUNCTIONS[self.base]
        simple = self.base == "sdpa"

        def mask(*args: Any, **kwargs: Any) -> Any:
            running = running_pass()
            if running is None or running.mask_of is None:
                return base_mask(*args, **kwargs)
            ledger, running.mask_of = running.mask_of, None
            q, held = kwargs["q_length"], ledger.length
            if ledger.prompt_left is None or ledger.prompt_left > 0:
                ledger.set_prompt_mask(kwargs.get("attention_mask"), held + q)
            valid = ledger.validity(q, kwargs.get("device", "cpu")) if ledger.rows else None
            if simple and q == 1:
                return None if valid is None else valid[:, None, None, :]
            kwargs |= {"attention_mask": valid, "kv_length": held + q, "kv_offset": 0, "q_offset": held}
            return base_mask(*args, **kwargs)

        return mask


def _see_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    running = running_pass()
    if running is not None:
        running.inputs = kwargs.get("hidden_states", args[0] if args else None)


def _entrances(model: PreTrainedModel) -> list[nn.Module]:
    """Where a forward pass can begin: the language model, or its decoder called by itself."""
    return [model] if model.base_model is model else [model, model.base_model]


def _wrap(module: nn.Module) -> None:
    inner, name = module.forward, type(module).__name__
    had = module.__dict__.get("forward")  # another library's wrapper stays, inside ours

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        ledgers = (getattr(value, "ledger", None) for value in (*kwargs.values(), *args))
        with forward_pass(name, next((found for found in ledgers if isinstance(found, Ledger)), None)):
            return inner(*args, **kwargs)

    forward.laconic_before = had  # type: ignore[attr-defined]
    module.__dict__["forward"] = forward


def _unwrap(module: nn.Module) -> None:
    before = module.__dict__["forward"].laconic_before
    if before is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = before
