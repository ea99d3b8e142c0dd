"""The policy `learned`: a selector that was trained on the model's own traces says which tokens stay."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from laconic import checks
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.policies import INTERVAL, RATIO, WINDOW
from laconic.compress.policy import ModelInfo, Policy, SelectorFiles
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.selector import Selector, check_selector
from laconic.compress.shares import WithRatio
from laconic.errors import InputError
from laconic.settings import setting

FADING = 1.0
"""Chosen on traces of training problems (benchmarks/selector-ablation)."""


@dataclass(frozen=True)
class LearnedScore(Scorer):
    """What a selector expects of each token, fixed when the token is written, less `fading` times the logarithm of its age.

    The newest token's age is 1. Scores fade with age in TRIM-KV (arXiv 2512.03324) too, there by a rate of each token's own.
    """

    selector: Selector | None = None
    fading: float = FADING
    aggregation: Aggregation = field(default="layer", init=False)
    reads_values: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.number("fading", self.fading, 0)
        if self.selector is not None and check_selector(self.selector).per_head:
            object.__setattr__(self, "aggregation", "group")

    def score(self, evidence: Evidence) -> Tensor:
        if self.selector is None:
            raise InputError("policy learned has not been given its selector: run it on a model, through an engine")
        values, starts = evidence.need("values", "LearnedScore"), evidence.need("starts", "LearnedScore")
        M = evidence.candidates
        positions = starts.view(-1, 1, 1) + evidence.positions
        scores = self.selector.score(evidence.layer, evidence.keys[:, :, :M], values[:, :, :M], positions)
        if self.fading:
            # The last candidate came just before the window.
            age = positions[..., -1:] + 1 + evidence.window - positions
            scores = scores - self.fading * age.clamp(min=1).log()
        # Junk slots may hold anything, infinities too.
        return scores if evidence.valid is None else scores.masked_fill(~evidence.valid[:, None], 0.0)


@dataclass(frozen=True)
class Learned(WithRatio):
    """laconic's own: on RPC's schedule, the tokens of which a selector expects that later ones look at them.

    `laconic learn` trains a selector in minutes on a model's own traces. Without a file, the one that it made for this model is
    found by the weights' fingerprint. Only an engine knows the model: until then (`for_model`) the policy can plan, not score.
    """

    name: ClassVar[str] = "learned"
    summary: ClassVar[str] = "keeps what a selector, trained on the model's own traces, expects later tokens to look at"
    bare: ClassVar[str] = "file"

    file: str | None = setting(None, "the selector that laconic learn wrote; none: the one it made for this model")
    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)
    fading: float = setting(FADING, "how many times the logarithm of a token's age is taken off its score", shown=True)

    def __post_init__(self, compression_ratio: float | None) -> None:
        if self.file is not None:
            object.__setattr__(self, "file", str(checks.path("file", self.file)))
        checks.number("fading", self.fading, 0)
        super().__post_init__(compression_ratio)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return self._scorer(None)

    def resolved(self, files: SelectorFiles) -> Policy:
        return dataclasses.replace(self, file=files.selector_file(self.file))

    def for_model(self, model: ModelInfo) -> Policy:
        """See Policy.for_model. Raises InputError where there is no selector for this model, or the file is none for it."""
        selector = model.find_selector(self.file)
        selector.check_model(model.layer_shapes(), model.fingerprint())
        fitted = dataclasses.replace(self)
        fitted.__dict__["scorer"] = self._scorer(selector)  # where the cached property keeps what make_scorer made
        return fitted

    def _scorer(self, selector: Selector | None) -> LearnedScore:
        return LearnedScore(selector, self.fading)
