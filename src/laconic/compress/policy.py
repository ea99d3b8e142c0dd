"""What a policy is: the named pair of a schedule (when, how many) and a scorer (which)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from laconic import checks
from laconic.compress.evidence import Scorer
from laconic.compress.schedule import Schedule
from laconic.errors import InputError
from laconic.settings import typed

if TYPE_CHECKING:
    from laconic.compress.kvzap_networks import KVzapNetworks
    from laconic.compress.selector import Rotation, Selector
    from laconic.compress.thoughts import ThoughtTokens


class SelectorFiles(Protocol):
    """Where the selectors of a model lie."""

    def selector_file(self, file: str | None) -> str:
        """The absolute path of a file; None: of the one that was made for this model. Raises InputError where there is none."""


class ModelInfo(SelectorFiles, Protocol):
    """What an engine tells a policy of the model that it is to run on."""

    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        """Of each compressible layer, by the model's index: KV heads, numbers of a key, numbers of a value."""

    def fingerprint(self) -> str | None:
        """Of its weights (`laconic.fingerprint.weights_fingerprint`); None where they are not at hand."""

    def find_kvzap(self, place: str | None) -> KVzapNetworks:
        """KVzap's networks in a folder or under a Hub name; None: those published for this model. Raises InputError where there
        are none, or none that read its hidden states."""

    def find_rotation(self) -> Rotation:
        """The RoPE of all of its compressible layers. Raises InputError where it can't be told."""

    def find_selector(self, file: str | None) -> Selector:
        """The selector in a file; None: the one that was made for this model. Raises InputError where there is none."""

    def thought_tokens(self) -> ThoughtTokens:
        """The tokens of its thoughts, beside its weights. Raises InputError for a model that was not fine-tuned to have any."""


@dataclass(frozen=True)
class Policy(ABC):
    """A compression policy: frozen, checked when it is made. Its dataclass fields are its settings.

    To write one, subclass it as a frozen dataclass with a `name`, `make_schedule` and `make_scorer`; docs/policies.md
    has an example. Raises InputError for settings that make no schedule or scorer, or a pair that can't work.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    """The paper that it comes from, such as "arXiv 2505.13866"."""
    bare: ClassVar[str | None] = None
    """The setting that a text may give without its name: `learned:FILE`."""

    @abstractmethod
    def make_schedule(self) -> Schedule:
        """The schedule that the settings mean. Called once."""

    @abstractmethod
    def make_scorer(self) -> Scorer | None:
        """The scorer that the settings mean; None only if the schedule never compresses. Called once."""

    def for_model(self, model: ModelInfo) -> Policy:
        """The policy for this model, which an engine asks for once, before anything runs; itself where it needs nothing of it.

        Raises InputError if it can't run on this model.
        """
        return self

    def resolved(self, files: SelectorFiles) -> Policy:
        """The same policy with all that it would look up for a model said in its settings, so that other processes, which know
        nothing else, come to the same; itself where it looks nothing up. Raises InputError where there is nothing to be found.
        """
        return self

    def next_fed(self, generated: Sequence[int]) -> int | None:
        """The token that is fed after these generated ones instead of one that is drawn; None: one is drawn. Asked only where
        the schedule reads tokens, of a policy that has been given its model."""
        return None

    @property
    def never_drawn(self) -> tuple[int, ...]:
        """Tokens that the model must not draw, since only `next_fed` puts them in."""
        return ()

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        if self.schedule.reads_tokens:
            return
        first = self.schedule.next_boundary(0)
        scorer = self.scorer
        if first is None:
            return
        if scorer is None:
            raise InputError(f"policy {self.name} compresses at {first} generated tokens but has no scorer; give one")
        if scorer.queries > first:
            raise InputError(
                f"the scorer reads the latest {scorer.queries} queries, but the first compression comes at {first} "
                f"generated tokens; expected at most {first} queries: lower them or compress later"
            )

    @cached_property
    def schedule(self) -> Schedule:
        """When to compress and how many tokens stay."""
        return self.make_schedule()

    @cached_property
    def scorer(self) -> Scorer | None:
        """Which tokens stay; None if nothing is ever evicted."""
        return self.make_scorer()

    def settings(self) -> dict[str, Any]:
        """Every setting by name, as values that JSON can hold (functions and objects by their repr)."""
        plain = (bool, int, float, str, type(None))
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: v if isinstance(v, plain) else _readable(v) for name, v in values.items()}

    def spec(self) -> str:
        """`name:setting=value,...`, which `parse` reads back: the main settings and those that aren't at their default.

        For Oracle and Custom, which hold Python objects, it only describes them.
        """
        said = [
            f"{f.name}={_readable(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if f.metadata.get("shown") or f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{self.name}:{','.join(said)}" if said else self.name

    def describe(self) -> str:
        """One line for people: the spec and what the policy does."""
        return f"{self.spec()} - {self.summary}" if self.summary else self.spec()


def _readable(value: Any) -> str:
    if isinstance(value, (bool, int, float, str, type(None))):
        return typed(value)
    return repr(value) if dataclasses.is_dataclass(value) else str(getattr(value, "__qualname__", repr(value)))
