"""What a strategy needs of its engine beside tokens: its parts say it, the engine arranges for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laconic import checks
from laconic.errors import InputError


@dataclass(frozen=True, slots=True)
class Needs:
    """What is read of traces beside their tokens. `a | b` is what either needs.

    Raises InputError for a field of another type, and `|` where both ask for what one run can't give: hidden states of
    different layers, or confidences of different numbers of candidates.
    """

    state_tokens: int = 0
    """The hidden states of so many first generated tokens of each trace are read; 0: none are."""
    state_layers: tuple[int, ...] | None = None
    """Of these layers, side by side (indices into transformers' `hidden_states`); None: of those that the engine has."""
    probe: bool = False
    """Traces are asked what they would answer now (`probe`)."""
    kept: bool = False
    """It is asked which tokens compression kept (`kept`)."""
    confidence_top_k: int = 0
    """Each token's confidence over so many candidates is read; 0: none is. Strategies ask for it in the sampling that they
    submit; it is told here for who records traces that a strategy will be replayed on."""
    token_ids: bool = False
    """Token ids are read as those of the model's own vocabulary, the prompt's too; else any numbering will do that is one."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("state_tokens", self.state_tokens, 0, meaning="tokens; 0 is none")
        if self.state_layers is not None:
            layers = checks.wholes(
                "state_layers", self.state_layers, -checks.MOST, meaning="indices of layers", some=True
            )
            object.__setattr__(self, "state_layers", tuple(layers))
        checks.flag("probe", self.probe)
        checks.flag("kept", self.kept)
        checks.flag("token_ids", self.token_ids)
        checks.whole("confidence_top_k", self.confidence_top_k, 0, meaning="candidates; 0 is none")

    def __or__(self, other: Needs) -> Needs:
        layers = {x for x in (self.state_layers, other.state_layers) if x is not None}
        if len(layers) > 1:
            told = " and ".join(str(list(x)) for x in sorted(layers))
            raise InputError(f"hidden states of layers {told} are asked for; expected those of one list of layers")
        counts = {k for k in (self.confidence_top_k, other.confidence_top_k) if k}
        if len(counts) > 1:
            told = " and ".join(map(str, sorted(counts)))
            raise InputError(f"confidences of {told} candidates are asked for; expected one number of candidates")
        return Needs(
            max(self.state_tokens, other.state_tokens),
            next(iter(layers), None),
            self.probe or other.probe,
            self.kept or other.kept,
            next(iter(counts), 0),
            self.token_ids or other.token_ids,
        )


def needs_of(judge: Any) -> Needs:
    """What a judge needs: what its `needs()` says. One without that method needs nothing.

    Raises InputError where it gives something else than Needs.
    """
    asked = getattr(judge, "needs", None)
    if asked is None:
        return Needs()
    found: Needs = checks.instance("what a judge's needs() gives", asked(), Needs, "a laconic.prune.Needs")
    return found


def prepare(engine: Any, needs: Needs) -> None:
    """Ask an engine to arrange for what will be read. One of others' that has no `prepare` is used as it is.

    Raises InputError where the engine says that it can't.
    """
    # By its name and not by a runtime protocol, which would not see what a wrapper passes on by __getattr__.
    arrange = getattr(engine, "prepare", None)
    if arrange is not None:
        arrange(needs)
