"""Several traces that can't differ: what is done goes on, but is told."""

from __future__ import annotations

import warnings

from laconic.errors import LaconicWarning
from laconic.prune.trace_engine import SamplingView


def warn_alike(n: int, sampling: SamplingView) -> None:
    """LaconicWarning where n traces of a problem are drawn in a way that leaves one token to choose from at each step."""
    if n < 2:
        return
    for name, value, wanted in (("temperature", 0, "above 0"), ("top_k", 1, "above 1, or 0 for off")):
        if getattr(sampling, name, None) == value:
            warnings.warn(
                f"{name} is {value}, at which all traces of a problem are the same; expected {name} {wanted}, or one trace",
                LaconicWarning,
                stacklevel=2,
            )
            return
