"""What one layer shows a scorer at a compression, and what every scorer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from laconic.errors import InputError

Aggregation = Literal["layer", "group"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One layer at a compression. B rows, H query heads, G KV heads, M candidates, W window, S queries, D head size.

    Rows with fewer candidates are right-aligned: their leading slots are junk and `valid` says so.

    queries: [B, H, S, D], the latest queries after RoPE, oldest first; None if `scorer.queries` is 0.
    keys: [B, G, M + W, D], the cached generated keys (after RoPE): M candidates, then the window; in order, but for a scorer
    that is `pointwise`, whose candidates may stand in any, with W = 1.
    scaling: the model's attention scaling, multiplied onto query-key products.
    valid: bool [B, M]; None: every candidate of every row is real.
    positions: long [B, g, M], g in {1, G}: each candidate's index among its row's generated tokens, from 0; ascending where
    keys are in order.
    token_ids: long [B, g, M], where the engine knows them.
    mass: fp32 [B, g, M], attention accumulated so far, where `scorer.accumulates`; or what `scorer.note` said of each token
    when it was written, where `scorer.reads_inputs`.
    values: [B, G, M + W, Dv], the cached values of the same tokens as `keys`; only if `scorer.reads_values`.
    starts: long [B], the position of each row's first generated token, that is the length of its prompt: a candidate's key is
    rotated by starts + positions; only if `scorer.reads_values`.
    future: fp32 [B, g, M], the largest attention that a later token of the same trace will pay each candidate under full KV;
    only if `scorer.reads_future`, and only where a whole trace is run again (`laconic bench fidelity`).
    context_keys: [B, G, Pr, D], the prompt's keys, right-aligned; only if `scorer.reads_prompt`.
    context_valid: bool [B, Pr]; None: all real.
    keep: long [B], how many of a row's candidates will stay; only if `scorer.reads_keep`.
    layer: the layer's index. rows: long [B], a stable number a trace; None: zeros.
    across: where a layer's heads are spread over devices, the mean of a tensor over them (equal shares of the heads each);
    None: all heads are here. Scorers with aggregation "layer" put their mean over heads through `over_heads`. first_head: which
    of the layer's KV heads the first one here is.
    """

    queries: Tensor | None
    keys: Tensor
    scaling: float
    valid: Tensor | None
    positions: Tensor
    token_ids: Tensor | None = None
    mass: Tensor | None = None
    values: Tensor | None = None
    starts: Tensor | None = None
    future: Tensor | None = None
    context_keys: Tensor | None = None
    context_valid: Tensor | None = None
    keep: Tensor | None = None
    layer: int = 0
    rows: Tensor | None = None
    across: Callable[[Tensor], Tensor] | None = None
    first_head: int = 0

    def over_heads(self, mean: Tensor) -> Tensor:
        """The mean over all of the layer's heads, from the mean over those that are here."""
        return mean if self.across is None else self.across(mean)

    @property
    def candidates(self) -> int:
        """M, how many tokens are scored (junk slots included)."""
        return self.positions.shape[-1]

    @property
    def window(self) -> int:
        """W, how many of the keys are the window's."""
        return self.keys.shape[-2] - self.candidates

    def candidate_values(self, scorer: str) -> Tensor:
        """[B, G, M, Dv], junk as it is. A LaconicError where the engine hasn't given values, or has none of each KV head."""
        values = self.need("values", scorer)
        if values.shape[:3] != self.keys.shape[:3]:
            raise InputError(
                "this policy looks at the values of each KV head, which a model with latent attention doesn't cache: use "
                "another, such as rpc"
            )
        return values[:, :, : self.candidates]

    def need(self, field: str, scorer: str) -> Tensor:
        """The field, or a LaconicError that the engine hasn't given what this scorer reads."""
        value: Tensor | None = getattr(self, field)
        if value is None:
            raise InputError(f"{field} is missing; {scorer} can't score without it: the engine must provide it")
        return value


class Scorer(ABC):
    """How important each candidate is. Subclasses are frozen dataclasses; they keep no state.

    The class attributes tell an engine what to collect, so that it collects nothing more.
    """

    queries: int = 0
    """How many of the latest queries are read."""
    aggregation: Aggregation = "layer"
    """layer: one set of tokens for all KV heads (g = 1); group: one for each KV head (g = G)."""
    reads_prompt: bool = False
    reads_values: bool = False
    reads_keep: bool = False
    reads_future: bool = False
    reads_inputs: bool = False
    """Whether `note` is asked of each generated token when it is written."""
    reads_rotation: bool = False
    """Whether it undoes the model's RoPE, which its policy has to be given (`Policy.for_model`)."""
    accumulates: bool = False
    needs_token_ids: bool = False
    pointwise: bool = False
    """Whether a token's score depends neither on the order in which the held tokens lie nor on which of them are candidates. An
    engine may then call all but the newest candidates, in any order, and put the newest into the slot of one that goes."""

    @abstractmethod
    def score(self, evidence: Evidence) -> Tensor:
        """fp32 [B, g, M]; the higher, the sooner kept.

        A slot that `valid` calls junk gets a finite score that means nothing, and changes no other score.
        """

    def observe(self, query: Tensor, keys: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Only where `accumulates`: the attention that q queries pay to each of T slots, fp32 [B, g, T]."""
        raise InputError(f"{type(self).__name__} accumulates nothing; only ask a scorer whose `accumulates` is true")

    def note(self, layer: int, states: Tensor) -> Tensor:
        """Only where `reads_inputs`: a number for each of q tokens, fp32 [B, g, q], from what the layer's attention reads of
        them, [B, q, E]."""
        raise InputError(f"{type(self).__name__} notes nothing; only ask a scorer whose `reads_inputs` is true")
