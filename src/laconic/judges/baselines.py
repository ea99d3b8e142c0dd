"""Judges that nobody trained: what a judge has to beat, and the floor and the ceiling of every judge.

Each returns numbers in [0, 1]. Those of `TokenJaccard`, `FactOverlap` and `EmbeddingCosine` are similarities, not
probabilities: they only rank pairs, so a strategy's tau must be chosen for them; `calibrate` does it from labelled pairs.
None of them needs an engine, and each takes any excerpt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from laconic import checks
from laconic.answers import equivalent, group_equivalent
from laconic.checks import number, whole
from laconic.errors import InputError
from laconic.judges.counted import MatrixJudge, same_class_matrix, stack_mappings
from laconic.judges.facts import facts
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine


class TokenJaccard(MatrixJudge):
    """Tokens in common: |A and B| / |A or B| of the sets of the excerpts' n-grams of token ids.

    ngram: 1 is the set of tokens. An excerpt shorter than `ngram` is one gram, itself. Two empty excerpts are the same.
    """

    name = "jaccard"

    def __init__(self, ngram: int = 1) -> None:
        super().__init__()
        self.ngram = whole("ngram", ngram, 1, meaning="tokens")

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[frozenset[tuple[int, ...]]]:
        return [self._grams(excerpt.token_ids) for excerpt in excerpts]

    def _grams(self, ids: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
        if 0 < len(ids) < self.ngram:
            return frozenset([ids])
        return frozenset(zip(*(ids[i:] for i in range(self.ngram)), strict=False))

    def _pair(self, a: frozenset[Any], b: frozenset[Any]) -> float:
        return len(a & b) / len(a | b) if a or b else 1.0

    def _matrix(self, readings: Sequence[frozenset[Any]]) -> Tensor:
        present = stack_mappings([dict.fromkeys(grams, 1.0) for grams in readings])
        common, size = present @ present.T, present.sum(dim=1)
        either = size[:, None] + size - common
        return torch.where(either > 0, common / either.clamp(min=1), 1.0)


class FactOverlap(MatrixJudge):
    """Facts in common: the weighted Dice coefficient of what the excerpts' texts state (`facts.facts`).

    A fact is a name with its last value (`x = 5`), or a number; a trace that says x = 4 later has taken x = 5 back. Facts
    on which both agree count against all facts of both. decay in (0, 1]: the latest fact of a text weighs 1, the one before
    it `decay`, and so on: below 1 later facts, which are nearer to the answer, count more. Without any fact in either text,
    0.5: nothing is known.
    """

    name = "facts"

    def __init__(self, decay: float = 1.0) -> None:
        super().__init__()
        self.decay = number("decay", decay, 0.01, 1)

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[dict[tuple[str, str], float]]:
        found = []
        for excerpt in excerpts:
            if not excerpt.text and len(excerpt.token_ids) > 1:
                raise InputError(
                    f"the excerpt of trace {excerpt.trace_id!r} has no text, and the judge facts reads text: give the engine a "
                    "tokenizer, or use jaccard"
                )
            stated = list(facts(excerpt.text).items())
            found.append({fact: self.decay**age for age, fact in enumerate(reversed(stated))})
        return found

    def _pair(self, a: dict[Any, float], b: dict[Any, float]) -> float:
        total = math.fsum(a.values()) + math.fsum(b.values())
        return math.fsum(a[fact] + b[fact] for fact in a.keys() & b.keys()) / total if total else 0.5

    def _matrix(self, readings: Sequence[dict[Any, float]]) -> Tensor:
        weights = stack_mappings(readings)
        shared = weights @ (weights > 0).double().T
        total = weights.sum(dim=1)
        total = total[:, None] + total
        return torch.where(total > 0, (shared + shared.T) / total.clamp(min=1e-300), 0.5)


class RandomJudge(MatrixJudge):
    """Says "same" of a pair with probability p: the floor.

    Its word is 1 or 0, the same for a pair of trace ids in either order, at any time and in any process, by `seed`.
    """

    name = "random"

    def __init__(self, p: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.p, self.seed = number("p", p, 0, 1), whole("seed", seed, 0)

    @property
    def rates(self) -> tuple[float, float]:
        """See Judge."""
        return self.p, self.p

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[str]:
        return [excerpt.trace_id for excerpt in excerpts]

    def _pair(self, a: str, b: str) -> float:
        if a == b:
            return 1.0
        return float(_hashed(self.seed, *sorted((a, b))) / 2**64 < self.p)

    def _matrix(self, readings: Sequence[str]) -> Tensor:
        # A hash a pair can't be vectorised; half of them suffice.
        found = torch.eye(len(readings))
        for i, a in enumerate(readings):
            for j, b in enumerate(readings[:i]):
                found[i, j] = found[j, i] = self._pair(a, b)
        return found


class PerfectJudge(MatrixJudge):
    """Knows the answers that the traces will end in: the ceiling.

    answers: by trace id, or a function of the excerpt; None for a trace that ends without one, which agrees with no other
    trace. `read` raises InputError for a trace id that is not among the answers.
    """

    name = "perfect"

    @property
    def rates(self) -> tuple[float, float]:
        """See Judge."""
        return 1.0, 0.0

    def __init__(self, answers: Mapping[str, str | None] | Callable[[Excerpt], str | None]) -> None:
        super().__init__()
        if not callable(answers):
            checks.instance(
                "answers", answers, Mapping, "a mapping from trace ids to answers, or a function of an excerpt"
            )
        self.answers = answers

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[tuple[str, str | None]]:
        return [(excerpt.trace_id, self._answer(excerpt)) for excerpt in excerpts]

    def _answer(self, excerpt: Excerpt) -> str | None:
        if callable(self.answers):
            return self.answers(excerpt)
        if excerpt.trace_id not in self.answers:
            raise InputError(
                f"The perfect judge has no answer of trace {excerpt.trace_id!r}; expected one of each trace that it reads: "
                "give the answers of finished traces"
            )
        return self.answers[excerpt.trace_id]

    def _pair(self, a: tuple[str, str | None], b: tuple[str, str | None]) -> float:
        return float(a[0] == b[0] or (a[1] is not None and b[1] is not None and equivalent(a[1], b[1])))

    def _matrix(self, readings: Sequence[tuple[str, str | None]]) -> Tensor:
        itself = same_class_matrix([trace_id for trace_id, _ in readings])
        return itself | same_class_matrix(group_equivalent([answer for _, answer in readings]))


class SimulatedJudge(PerfectJudge):
    """Knows the answers, and errs as often as a judge of a given skill: what would a judge like that be worth?

    Each pair has a score: a draw of the normal distribution, plus a distance where the two agree that makes the scores' AUROC
    `auroc` (the equal-variance binormal model: distance = sqrt(2) times the normal quantile of the AUROC). The number is the
    logistic of the score less half the distance: it ranks as the scores do, and .5 parts the pairs with equal shares of errors
    on either side. shared: the share of the draws' variance that a pair has from its two traces, half from each, so that a
    trace that is misjudged once is misjudged again; 0: errors are independent. A pair of traces has the same draw at any time,
    by `seed`. answers: as of PerfectJudge, which also says what `read` raises.
    """

    name = "simulated"

    def __init__(
        self,
        answers: Mapping[str, str | None] | Callable[[Excerpt], str | None],
        auroc: float = 0.8,
        shared: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(answers)
        self.auroc = number("auroc", auroc, 0.5, 0.9999, "of the judge")
        self.shared = number("shared", shared, 0, 1)
        self.seed = whole("seed", seed, 0)
        self._distance = math.sqrt(2) * NormalDist().inv_cdf(self.auroc)

    @property
    def rates(self) -> tuple[float, float]:
        """See Judge."""
        right = NormalDist().cdf(self._distance / 2)
        return right, 1 - right

    def _pair(self, a: tuple[str, str | None], b: tuple[str, str | None]) -> float:
        if a[0] == b[0]:
            return 1.0
        return self._number(a[0], b[0], bool(super()._pair(a, b)))

    def _matrix(self, readings: Sequence[tuple[str, str | None]]) -> Tensor:
        same = super()._matrix(readings)
        found = torch.eye(len(readings))
        for i, (a, _) in enumerate(readings):
            for j, (b, _) in enumerate(readings[:i]):
                found[i, j] = found[j, i] = 1.0 if a == b else self._number(a, b, bool(same[i, j]))
        return found

    def _number(self, a: str, b: str, same: bool) -> float:
        own = (self._draw(a) + self._draw(b)) / math.sqrt(2)
        noise = math.sqrt(1 - self.shared) * self._draw(*sorted((a, b))) + math.sqrt(self.shared) * own
        return 1 / (1 + math.exp(self._distance * (0.5 - same) - noise))

    def _draw(self, *of: str) -> float:
        """Of the standard normal distribution."""
        return NormalDist().inv_cdf((_hashed(self.seed, *of) + 0.5) / 2**64)


def _hashed(*of: Any) -> int:
    """64 bits that depend on nothing but these."""
    return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=8).digest(), "big")


def calibrate(similarities: Sequence[float] | Tensor, same: Sequence[bool] | Tensor, fnr: float = 0.2) -> float:
    """A tau for a judge whose numbers only rank: at most the share `fnr` of the pairs that agree is at or below it.

    The highest such tau, halfway between two similarities that occur (just under the lowest, where it must keep all): it
    parts most of the pairs that differ. Raises
    InputError for lists of different lengths, without a pair that agrees, or fnr outside 0 to 1.
    """
    number("fnr", fnr, 0, 1)
    scores, labels = _numbers("similarities", similarities), _numbers("same", same).bool()
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise InputError(f"There are {len(scores)} similarities and {len(labels)} labels; expected one label each")
    if not labels.any():
        raise InputError("No pair agrees; expected labelled pairs of which some do")
    positive = scores[labels].sort().values
    lost = int(fnr * len(positive) + 1e-9)  # pairs that may fall to or below tau
    if lost == len(positive):
        return 1.0
    least = float(positive[lost])  # the lowest that must stay above
    under = scores[scores < least]
    between = (least + float(under.max())) / 2 if len(under) else 0.0
    return min(between, math.nextafter(least, -math.inf))


def _numbers(name: str, values: Any) -> Tensor:
    """float64 of a sequence or a tensor of finite numbers."""
    try:
        found = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise checks.input_error(name, values, "numbers, one of each pair") from None
    if found.dim() != 1 or not bool(found.isfinite().all()):
        raise checks.input_error(name, values, "finite numbers, one of each pair")
    return found
