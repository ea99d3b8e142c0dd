"""LightThinker (arXiv 2502.15589): a model that was fine-tuned to write each thought into a few cache tokens, and to go on from
those.

When such a model draws the splitter, a thought is over: the cache tokens are fed, and the KV of the thought and of the splitter
goes. Then the continue token is fed, and the model draws on. So which tokens a trace holds follows from its tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laconic.compress.evidence import Scorer
from laconic.compress.policy import ModelInfo, Policy
from laconic.compress.schedule import Schedule
from laconic.compress.scorers import OracleScore
from laconic.compress.thoughts import NAME, AtThoughts, ThoughtTokens, known_tokens


@dataclass(frozen=True)
class LightThinker(Policy):
    """LightThinker (arXiv 2502.15589), for a model that was fine-tuned for it: of each thought only its cache tokens stay.

    The prompt stays whole. The model decides how much is held: there is no budget to set. Only the engine on transformers feeds
    the tokens; until it has looked up which these are (`for_model`), the policy can neither plan nor score.
    """

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = "keeps a few cache tokens of each thought; for a model that was fine-tuned to write them"
    source: ClassVar[str] = "arXiv 2502.15589"

    def make_schedule(self) -> Schedule:
        return AtThoughts()

    def make_scorer(self) -> Scorer:
        return OracleScore(lambda ids: known_tokens(None).stay(ids))

    def for_model(self, model: ModelInfo) -> Policy:
        """See Policy.for_model. Raises InputError for a model that was not fine-tuned for it."""
        tokens = model.thought_tokens()
        fitted = dataclasses.replace(self)
        # Where the cached properties keep what make_schedule and make_scorer made.
        fitted.__dict__.update(schedule=AtThoughts(tokens), scorer=OracleScore(tokens.stay))
        return fitted

    def next_fed(self, generated: Sequence[int]) -> int | None:
        return known_tokens(self._tokens).next_fed(generated)

    @property
    def never_drawn(self) -> tuple[int, ...]:
        return known_tokens(self._tokens).fed

    @property
    def _tokens(self) -> ThoughtTokens | None:
        return self.schedule.tokens if isinstance(self.schedule, AtThoughts) else None
