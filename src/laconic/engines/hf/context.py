"""How long a context a transformers config allows, with what RoPE scaling adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

STATED = ("max_position_embeddings", "max_seq_len")  # the second is MPT's; GPT-2's n_positions is read as the first


def context_of(config: Any) -> int | None:
    """Tokens a model of this (text) config can attend to, None where the config doesn't say (ALiBi, state spaces).

    Learned positions end at `max_position_embeddings`. RoPE scaling by `factor` stretches a context of
    `original_max_position_embeddings` (by default `max_position_embeddings`, as transformers fills it in), and configs differ
    in whether `max_position_embeddings` already is the stretched one:

    - yarn: factor x original, unless more is stated: what is stated may be the original (Qwen2.5), the stretched (gpt-oss,
      DeepSeek) or between (Qwen3);
    - linear, dynamic, llama3, longrope: as stated if that exceeds the original (Llama 3.2's is less than factor x original,
      Phi-3's has no factor), else factor x original;
    - any of them: as stated if that is less than the original, which somebody meant;
    - Gemma 3's linear scaling is in what it states.

    Layer types with parameters of their own count by the longest: what attends to a window needs no stretching. vLLM's
    `_get_and_verify_max_len` multiplies alike for linear and dynamic, and takes the rest as stated.
    """
    stated = next((n for name in STATED if (n := getattr(config, name, None)) is not None), None)
    if stated is None:
        return None
    if "gemma3" in getattr(config, "model_type", ""):
        return int(stated)
    return max([int(stated), *(_stretched(stated, rope) for rope in _ropes(config))])


def _stretched(stated: int, rope: Mapping[str, Any]) -> int:
    original, factor = rope.get("original_max_position_embeddings") or stated, rope.get("factor") or 1.0
    yarn = rope.get("rope_type", rope.get("type")) == "yarn"
    unscaled = stated == original or (yarn and stated > original)
    return int(original * factor) if unscaled else stated


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """RoPE parameters, of each layer type where they differ."""
    parameters = getattr(config, "rope_parameters", None) or {}
    own = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from own or [parameters]
