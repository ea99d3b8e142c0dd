"""Models whose rotary frequencies change with the length of the text: longrope (Phi-3, Phi-4-mini) and dynamic NTK scaling.

transformers picks the frequencies at each forward pass, from the largest position in the batch. A cache filled before the
change holds keys of the other rotation: under longrope `generate` throws it away there and computes it anew, which evicted
tokens don't allow, and in a batch of rows of different lengths one row would change the rotation of all.
`fixed_rotation` keeps one set of frequencies for a whole run, as vLLM does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from laconic import checks
from laconic.engines.hf.context import context_of
from laconic.errors import InputError

FIXED = "fixed_by_laconic"
Undo = list[tuple[Any, str, Any]]
"""Attributes that were changed: owner, name, the value before."""


def rotation_changes_at(model: nn.Module, kinds: tuple[str, ...] = ("longrope", "dynamic")) -> int | None:
    """The longest text whose rotation stays what it is from the first token on; None if it never changes.

    Only layers that are not `fixed_rotation` count. kinds: rope types asked for.
    """
    lengths = []
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        for layer_type, kind in _types(module):
            if any(k in kind for k in kinds):
                length = _parameters(config, layer_type).get("original_max_position_embeddings")
                lengths.append(int(length or config.max_position_embeddings))
    return min(lengths, default=None)


def check_rotation(model: PreTrainedModel, prompt: int, limit: int | None, *, mixed: bool) -> None:
    """InputError if the rotation would change within a run: a prompt of `prompt` tokens, `limit` more (None: any number).

    mixed: rows of different lengths run together, so that no row may be beyond the change.
    """
    at = rotation_changes_at(model, ("longrope", "dynamic") if mixed else ("longrope",))
    if at is None or (limit is not None and prompt + limit <= at) or (not mixed and prompt > at):
        return
    until = "without a limit" if limit is None else f"up to {prompt + limit}"
    raise InputError(
        f"{type(model).__name__} changes its rotary frequencies at {at} tokens, which makes keys cached before it wrong, and "
        f"this run goes from {prompt} tokens {until}: generate fewer, or keep the frequencies for long texts throughout, "
        "as vLLM does, with `with laconic.engines.hf.fixed_rotation(model):`"
    )


@contextmanager
def fixed_rotation(model: PreTrainedModel) -> Iterator[None]:
    """While entered, the model rotates every text as one of its full context length, short texts too.

    longrope: the long factors; dynamic NTK: the base for `max_position_embeddings` x factor. vLLM does the same to a model
    served with a context beyond the change. Nothing changes for models whose rotation is fixed anyway. Raises InputError
    for a model that computes longrope in a way of its own (PhiMoE).
    """
    checks.instance("model", model, PreTrainedModel, "a transformers PreTrainedModel")
    undo: Undo = []
    try:
        fix(model, undo)
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def fix(model: PreTrainedModel, undo: Undo | None = None) -> None:
    """What `fixed_rotation` does on entering. undo: receives what to set back, as it is changed."""
    changed = [] if undo is None else undo
    for module in model.modules():
        for layer_type, kind in _types(module):
            if "longrope" in kind or "dynamic" in kind:
                _fix(module, layer_type, kind, changed)
    for config in {id(c): c for c in (model.config, model.config.get_text_config(decoder=True))}.values():
        if changed and hasattr(config, "original_max_position_embeddings"):
            # Phi-3's `generate` throws the cache away at this length.
            changed.append((config, "original_max_position_embeddings", config.original_max_position_embeddings))
            config.original_max_position_embeddings = sys.maxsize


def _types(module: nn.Module) -> list[tuple[str | None, str]]:
    """(layer type or None, rope type) of a rotary embedding; empty for any other module."""
    kind = getattr(module, "rope_type", None)
    if getattr(module, "config", None) is None:
        return []
    return list(kind.items()) if isinstance(kind, dict) else [(None, kind)] if isinstance(kind, str) else []


def _parameters(config: Any, layer_type: str | None) -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return parameters[layer_type] if layer_type is not None else parameters


def _fix(module: Any, layer_type: str | None, kind: str, undo: Undo) -> None:
    config = module.config
    if "long_mscale" in _parameters(config, layer_type):
        raise InputError(f"{type(module).__name__} computes its rotation in a way of its own, which laconic can't fix")
    name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
    buffer = getattr(module, name)
    length = context_of(config) or config.max_position_embeddings
    extra = {} if layer_type is None else {"layer_type": layer_type}
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, buffer.device, seq_len=length, **extra)
    undo += [(module, name, buffer), (module, "rope_type", module.rope_type)]
    setattr(module, name, frequencies.to(buffer))
    if "dynamic" in kind and layer_type is None:
        undo.append((module, "attention_scaling", module.attention_scaling))
        module.attention_scaling = scaling
    module.rope_type = FIXED if layer_type is None else {**module.rope_type, layer_type: FIXED}
