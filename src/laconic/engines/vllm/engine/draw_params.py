"""What a request carries to `logits_processors`, so that its tokens are drawn there: needs no vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.engines.base import Sampling
from laconic.errors import InputError

KEY = "laconic_draw"
"""The key of a request's `extra_args` that is ours."""

_FIELDS = {"key": int, "at": int, "temperature": float, "top_p": float, "top_k": int}


@dataclass(frozen=True, slots=True)
class DrawParams:
    """How one request's tokens are drawn."""

    key: int
    """Of its trace's random stream (`sampling.trace_key`), 64 bits."""
    at: int
    """Tokens of the trace that were generated before the request, and stand at the end of what it sends."""
    sampling: Sampling
    """Temperature, top_p and top_k are read."""

    def to_extra_args(self) -> dict[str, Any]:
        """For the request: plain values, which reach vLLM's other processes."""
        s = self.sampling
        own = {"key": self.key, "at": self.at, "temperature": float(s.temperature), "top_p": float(s.top_p)}
        return {KEY: {**own, "top_k": s.top_k}}

    @classmethod
    def from_extra_args(cls, extra_args: Mapping[str, Any] | None) -> DrawParams | None:
        """What a request carries; None: nothing. Raises InputError for a value that `extra_args` would not write."""
        raw = (extra_args or {}).get(KEY)
        if raw is None:
            return None
        if not isinstance(raw, Mapping) or set(raw) != set(_FIELDS):
            raise InputError(f"{KEY} is {raw!r}; expected a mapping of {', '.join(_FIELDS)}")
        for name, kind in _FIELDS.items():
            if isinstance(raw[name], bool) or not isinstance(raw[name], (int, kind)):
                raise InputError(f"{name} of {KEY} is {raw[name]!r}; expected {kind.__name__}")
        for name, most in (("key", 1 << 64), ("at", 1 << 32)):
            if not 0 <= raw[name] < most:
                raise InputError(f"{name} of {KEY} is {raw[name]}; expected 0 to {most - 1}")
        sampling = Sampling(temperature=raw["temperature"], top_p=raw["top_p"], top_k=raw["top_k"])
        return cls(raw["key"], raw["at"], sampling)
