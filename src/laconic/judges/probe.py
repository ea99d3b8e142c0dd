"""The probe: what would each trace answer if it had to stop thinking here? No second model, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic import checks
from laconic.answers import equivalent, group_equivalent
from laconic.checks import whole
from laconic.errors import InputError
from laconic.judges.counted import MatrixJudge, same_class_matrix, stack_mappings
from laconic.prune.judge import Excerpt
from laconic.prune.needs import Needs
from laconic.prune.probing import model_suffix
from laconic.prune.trace_engine import TraceEngine

LEAST_PROBABILITY = 1e-5  # rarer tokens are dropped from a reading: a step's overlap of two is less by under twice that


@dataclass(frozen=True, slots=True)
class AnswerDistributions:
    """One trace's distributions over the tokens of its answer, step by step."""

    trace_id: str
    probabilities: tuple[dict[int, float], ...]
    """Of each step: token id -> probability, where that is at least LEAST_PROBABILITY."""
    greedy: tuple[int, ...]
    """The most probable token of each step."""
    ended: bool = False
    """Whether the trace ended within its excerpt."""
    answer: str | None = None
    """Of a trace that ended; None for no answer."""


class ProbeJudge(MatrixJudge):
    """P(same) = the overlap of two traces' distributions over their answers, probed where they stand.

    The engine copies a trace's cache, appends `suffix` and decodes `steps` tokens greedily (`Engine.probe`). At the first
    step, sum_v p(v) q(v) is the probability that a draw of each trace agree. While the two greedy tokens agree, the next
    step's overlap is multiplied in; after they part, the next distributions follow different tokens and say nothing more.
    Two traces that both ended within their excerpts are compared by their answers instead, and one that ended without an
    answer agrees with no other.

    suffix: None is the model's own: the end-of-thinking mark of its vocabulary and `\\boxed{` (`prune.probing.SUFFIXES`).
    steps: tokens read of an answer. `cost.tokens` counts what the engine ran (its `stats.side_tokens`): of a running trace
    its newest token, the suffix and steps - 1 more; for a stopped or finished one also the tokens that rebuild its cache.

    `read` raises InputError without an engine, for one that can't probe, or whose tokenizer isn't known where `suffix`
    is None.
    """

    name = "probe"

    def __init__(self, suffix: str | None = None, steps: int = 2) -> None:
        super().__init__()
        self.steps = whole("steps", steps, 1, meaning="tokens of the answer")
        if suffix is not None:
            checks.instance("suffix", suffix, str, "a text, or None for the model's own")
        self.suffix = suffix

    def needs(self) -> Needs:
        """An engine that can be probed."""
        return Needs(probe=True)

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[AnswerDistributions]:
        if engine is None:
            raise InputError(
                "The probe judge has no engine; it asks the model that writes the traces: use it while they are written, or "
                "replay them beside their model"
            )
        if not excerpts:
            return []
        suffix = self.suffix if self.suffix is not None else model_suffix(getattr(engine, "tokenizer", None))
        before = engine.stats.side_tokens
        probed = engine.probe([excerpt.trace_id for excerpt in excerpts], suffix, self.steps)
        self.cost.tokens += engine.stats.side_tokens - before
        self._check(probed, len(excerpts))
        return [_answer_distributions(excerpt, row) for excerpt, row in zip(excerpts, probed, strict=True)]

    def _check(self, probed: Tensor, count: int) -> None:
        if probed.dim() != 3 or probed.shape[:2] != (count, self.steps):
            raise InputError(
                f"The engine's probe is of shape {list(probed.shape)}; expected [{count}, {self.steps}, vocabulary]"
            )
        if float(probed.min()) < 0 or float((probed.sum(dim=-1) - 1).abs().max()) > 0.01:
            raise InputError("The engine's probe holds no distributions; expected probabilities that add up to 1")

    def _pair(self, a: AnswerDistributions, b: AnswerDistributions) -> float:
        if a.trace_id == b.trace_id:
            return 1.0
        if (a.ended and a.answer is None) or (b.ended and b.answer is None):
            return 0.0
        if a.ended and b.ended:
            return float(equivalent(a.answer, b.answer))
        agreement = 1.0
        for p, q, mine, other in zip(a.probabilities, b.probabilities, a.greedy, b.greedy, strict=True):
            agreement *= sum(share * q.get(token, 0.0) for token, share in p.items())
            if mine != other:
                break
        return min(1.0, agreement)

    def _matrix(self, readings: Sequence[AnswerDistributions]) -> Tensor:
        agreement = torch.ones(len(readings), len(readings), dtype=torch.float64)
        together = torch.ones(len(readings), len(readings), dtype=torch.bool)
        for step in range(self.steps):
            probabilities = stack_mappings([reading.probabilities[step] for reading in readings])
            agreement = torch.where(together, agreement * (probabilities @ probabilities.T), agreement)
            greedy = torch.tensor([reading.greedy[step] for reading in readings])
            together &= greedy[:, None] == greedy
        ended = torch.tensor([reading.ended for reading in readings])
        answers = [reading.answer if reading.ended else None for reading in readings]
        agreement = torch.where(
            ended[:, None] & ended, same_class_matrix(group_equivalent(answers)).double(), agreement.clamp(max=1)
        )
        mute = torch.tensor([reading.ended and reading.answer is None for reading in readings])
        agreement = agreement.masked_fill(mute[:, None] | mute, 0.0)
        return agreement.masked_fill(same_class_matrix([reading.trace_id for reading in readings]), 1.0)


def _answer_distributions(excerpt: Excerpt, distributions: Tensor) -> AnswerDistributions:
    probabilities = []
    for step in distributions:
        kept = torch.nonzero(step >= LEAST_PROBABILITY).flatten()
        probabilities.append(dict(zip(kept.tolist(), step[kept].tolist(), strict=True)))
    greedy = tuple(distributions.argmax(dim=-1).tolist())
    return AnswerDistributions(
        excerpt.trace_id, tuple(probabilities), greedy, excerpt.complete, excerpt.answer if excerpt.complete else None
    )
