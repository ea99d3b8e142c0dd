"""Which judge results are of, as records say it."""

from __future__ import annotations

from typing import Any

from torch import nn

from laconic.fingerprint import fingerprint
from laconic.prune.judge import Judge


def describe_judge(judge: Judge | None) -> dict[str, Any] | None:
    """Its name, its excerpt's kind and its weights, so that results of one are told from those of another."""
    if judge is None:
        return None
    # A judge that was trained anew under the same name is another one.
    network: Any = judge if isinstance(judge, nn.Module) else getattr(judge, "model", None)
    weights = fingerprint(network) if isinstance(network, nn.Module) else None
    return {"name": judge.name, "excerpt": judge.excerpt, "weights": weights}
