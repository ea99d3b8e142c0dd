"""KVzap (arXiv 2601.07891): small networks tell from the hidden state that writes a token how much it will be needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from laconic import checks
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.kvzap_networks import KVzapNetworks
from laconic.compress.policies import INTERVAL, RATIO, WINDOW
from laconic.compress.policy import ModelInfo, Policy
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.shares import WithRatio
from laconic.errors import InputError
from laconic.settings import setting


@dataclass(frozen=True)
class KVzapScore(Scorer):
    """What KVzap's networks say of a token when it is written; kept beside its key and value until it is evicted."""

    networks: KVzapNetworks | None = None
    aggregation: Aggregation = field(default="group", init=False)
    reads_inputs: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.networks is not None:
            checks.instance("networks", self.networks, KVzapNetworks, "KVzapNetworks, as a published folder holds them")

    def note(self, layer: int, states: Tensor) -> Tensor:
        if self.networks is None:
            raise InputError("policy kvzap has not been given its networks: run it on a model, through an engine")
        return self.networks.score(layer, states)

    def score(self, evidence: Evidence) -> Tensor:
        mass = evidence.need("mass", "KVzapScore")
        return mass if evidence.valid is None else mass.masked_fill(~evidence.valid.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class KVzap(WithRatio):
    """KVzap (arXiv 2601.07891): the tokens that its networks score highest stay, each KV head for itself.

    Its authors evict what scores below a threshold, more in one head than in another; here it is on RPC's schedule, to compare
    at equal cache. Only an engine on transformers knows a layer's hidden states: until then the policy can plan, not score.
    """

    name: ClassVar[str] = "kvzap"
    summary: ClassVar[str] = (
        "keeps what small networks, published for some models, expect to be needed; reads hidden states"
    )
    source: ClassVar[str] = "arXiv 2601.07891"
    bare: ClassVar[str] = "weights"

    weights: str | None = setting(None, "a folder or Hub name; none: nvidia/KVzap-mlp- and the model's name")
    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)

    def __post_init__(self, compression_ratio: float | None) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", str(checks.path("weights", self.weights)))
        super().__post_init__(compression_ratio)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return KVzapScore()

    def for_model(self, model: ModelInfo) -> Policy:
        """See Policy.for_model. Raises InputError where there are no networks, or none for this model."""
        networks = model.find_kvzap(self.weights)
        networks.check_model(model.layer_shapes())
        fitted = dataclasses.replace(self)
        fitted.__dict__["scorer"] = KVzapScore(networks)  # where the cached property keeps what make_scorer made
        return fitted
