"""Which judge results are of, as records say it."""

from __future__ import annotations

from typing import Any

from laconic.prune.judge import Judge


def describe_judge(judge: Judge | None) -> dict[str, Any] | None:
    """Its name, its excerpt's kind, and what tells it from others of that name (`CountedJudge.identity`): one that was trained
    anew, or is asked otherwise, under the same spec is another judge."""
    if judge is None:
        return None
    identity: dict[str, Any] = getattr(judge, "identity", dict)()  # one of others' may have none
    return {"name": judge.name, "excerpt": judge.excerpt, "weights": None, **identity}
