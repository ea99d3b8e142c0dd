"""What a judge is: it reads excerpts of traces, one at a time, and says of pairs how probably they end in the same answer.

Reading and comparing are apart because their costs are: a pair encoder runs its network once a trace and compares all
pairs with a product of matrices; a language model has nothing to do before it sees a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from laconic import checks
from laconic.prune.trace_engine import TraceEngine


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The part of one trace that a judge sees. Raises InputError for a field of another type."""

    trace_id: str
    kind: str
    """How it was cut: `excerpts.parse(kind)` cuts others alike."""
    question: str
    """The user's message."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Of the excerpt."""
    text: str
    """Of the excerpt."""
    complete: bool = False
    """Whether the trace ended within it."""
    answer: str | None = None
    """The final answer, where complete; None for none."""

    def __post_init__(self) -> None:
        for name in ("trace_id", "kind", "question", "text"):
            checks.text(name, getattr(self, name))
        for name in ("prompt_ids", "token_ids"):
            object.__setattr__(self, name, tuple(checks.wholes(name, getattr(self, name), 0, meaning="token ids")))
        checks.flag("complete", self.complete)
        if self.answer is not None:
            checks.text("answer", self.answer)


@dataclass(slots=True)
class Cost:
    """What a judge has done since it was made."""

    tokens: int = 0
    """That went through a network for the judge: prompts, excerpts and probes. A shared prefix that is computed once counts
    once; states that the engine recorded while it decoded cost none."""
    excerpts: int = 0
    """Read."""
    pairs: int = 0
    """Compared."""
    seconds: float = 0.0
    """Of wall time, reading and comparing."""

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            self.tokens + other.tokens,
            self.excerpts + other.excerpts,
            self.pairs + other.pairs,
            self.seconds + other.seconds,
        )

    def minus(self, other: Cost) -> Cost:
        """What was added since `other`, a copy taken earlier."""
        return Cost(
            self.tokens - other.tokens,
            self.excerpts - other.excerpts,
            self.pairs - other.pairs,
            self.seconds - other.seconds,
        )


class Judge(Protocol):
    """Excerpts in, probabilities of agreement out.

    name: as in the registry. excerpt: the kind of excerpt that it was made or trained for (None: any).

    A judge that reads more of the engine than tokens also has a method ``needs() -> Needs`` that says what, so that the engine
    notes it on the way, or is refused before anything runs. One without needs nothing.

    One whose errors are known has an attribute ``rates``, the shares of pairs that agree and of pairs that differ to which it
    gives more than 0.5; the judged vote goes by it.
    """

    @property
    def name(self) -> str: ...

    @property
    def excerpt(self) -> str | None: ...

    @property
    def cost(self) -> Cost: ...

    def read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None = None) -> list[Any]:
        """Something of the judge's own for each excerpt, in order; `compare` takes it.

        engine: the engine that holds the traces, running or stopped, for judges that use its hidden states or probe it.
        Raises InputError where the judge needs an engine and has none, or was trained for another tokenizer or excerpt.
        """
        ...

    def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """P(same answer) in [0, 1] of each pair of readings."""
        ...


def judge_pairs(
    judge: Judge, pairs: Sequence[tuple[Excerpt, Excerpt]], engine: TraceEngine | None = None
) -> list[float]:
    """P(same answer) of pairs of excerpts; each different excerpt is read once."""
    different = list(dict.fromkeys(excerpt for pair in pairs for excerpt in pair))
    readings = dict(zip(different, judge.read(different, engine), strict=True))
    return judge.compare([(readings[a], readings[b]) for a, b in pairs])
