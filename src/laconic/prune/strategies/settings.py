"""A strategy's settings as values, and what it is given beside them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from laconic import checks
from laconic.errors import InputError
from laconic.prune import excerpts
from laconic.prune.judge import Judge
from laconic.prune.needs import Needs, needs_of
from laconic.prune.strategies.base import Strategy
from laconic.prune.trace_engine import SamplingView
from laconic.prune.voting import TIES

S = TypeVar("S", bound=SamplingView)

TIES_SETTING = (
    "of answers with as many votes wins that of the more confident traces (confidence), or of the first (index)"
)
DEFAULT_EXCERPT = "words:25"
TOP_K_SETTING = "candidates whose mean log-probability makes a token's confidence"


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """Every setting by name, as values that JSON can hold; a judge by its name. `n` is not among them."""
    assert dataclasses.is_dataclass(strategy)
    values = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy) if f.name != "n"}
    return {name: getattr(value, "name", value) for name, value in values.items()}


def check_sampling(sampling: S) -> S:
    """What can be an engine's own record of how tokens are drawn. Raises InputError for anything else."""
    if (
        not dataclasses.is_dataclass(sampling)
        or isinstance(sampling, type)
        or not hasattr(sampling, "confidence_top_k")
    ):
        raise checks.input_error("sampling", sampling, "the engine's own record, such as Sampling(temperature=0.6)")
    return sampling


def check_ties(ties: str, top_k: int) -> None:
    """InputError for settings of what breaks ties that can't be."""
    checks.word("ties", ties, TIES)
    checks.whole("top_k", top_k, 1, 1000, "candidates")


def needs_of_ties(ties: str, top_k: int) -> Needs:
    """What breaking ties reads of traces."""
    return Needs(confidence_top_k=top_k) if ties == "confidence" else Needs()


def with_confidences(sampling: S, top_k: int) -> S:
    """The same sampling, which also asks for each token's confidence over `top_k` candidates. Raises as `check_sampling`."""
    record: Any = check_sampling(sampling)  # a dataclass, which no protocol can say
    asking: S = dataclasses.replace(record, confidence_top_k=top_k)
    return asking


def excerpt_for(excerpt: str | None, judge: Judge) -> str:
    """The kind that a strategy's judge reads: as set, else what the judge was made for, else the paper's."""
    return excerpt or judge.excerpt or DEFAULT_EXCERPT


def check_excerpt(excerpt: str | None, judge: Judge) -> None:
    """InputError for an excerpt that is none, or that the judge was not made for."""
    if excerpt is not None:
        checks.text("excerpt", excerpt, "such as words:25", some=True)
    kind = excerpts.parse(excerpt_for(excerpt, judge)).kind
    if judge.excerpt is not None and kind != judge.excerpt:
        raise InputError(
            f"excerpt is {kind}, but judge {judge.name} was made for {judge.excerpt}: leave the excerpt out, or take another "
            "judge"
        )


def needs_of_judge(judge: Judge, excerpt: str) -> Needs:
    """What a judge and the cutting of its excerpts read of traces; hidden states as far as the excerpt goes, and no further."""
    own, cut = needs_of(judge), excerpts.parse(excerpt)
    if own.state_tokens and cut.most_tokens is not None:
        own = dataclasses.replace(own, state_tokens=cut.most_tokens)
    return own | cut.needs()
