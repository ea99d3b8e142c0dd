"""What a selector is trained on, and how: written as NAME:setting=value,..., as policies are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from laconic import checks
from laconic.compress.selector import FEATURES
from laconic.errors import InputError
from laconic.settings import SettingsReader, parameters_of, setting, split_spec, typed

NAMES = ("group", "layer")


@dataclass(frozen=True)
class SelectorRecipe:
    """Raises InputError for a setting of another type or out of range."""

    name: Literal["group", "layer"] = "group"
    """group: a network for each KV head, which chooses for itself; layer: one for all heads of a layer."""
    features: str = setting(
        "key+value", "what is read of a token, joined by +: key (before RoPE), value, size (of both)"
    )
    target: Literal["largest", "mean"] = setting(
        "largest", "the largest attention of a later token, or the mean of all"
    )
    weighted: bool = setting(True, "attention counts by the size of the value that it is paid to")
    delay: int = setting(48, "tokens from which on a token is a later one")
    loss: Literal["quarter", "squared", "rank"] = setting(
        "quarter",
        "quarter: whether a token is in the top quarter; squared: its target's logarithm; rank: pairs in order",
    )
    hidden: int = setting(64, "hidden units of a network")
    epochs: int = setting(8, "times that every token is learned from; the best on held-out traces counts")
    rate: float = setting(4e-3, "the highest learning rate")
    names: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())
    """The features, apart."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.word("name", self.name, NAMES)
        names = tuple(name.strip() for name in checks.text("features", self.features).split("+"))
        for name in names:
            checks.word("features", name, FEATURES)
        if len(set(names)) < len(names):
            raise InputError(f"features is {self.features!r}, which names one twice; name it once")
        object.__setattr__(self, "names", names)
        checks.word("target", self.target, ("largest", "mean"))
        checks.flag("weighted", self.weighted)
        checks.word("loss", self.loss, ("quarter", "squared", "rank"))
        for name, least, most in (("delay", 1, 1 << 20), ("hidden", 1, 4096), ("epochs", 1, 10_000)):
            checks.whole(name, getattr(self, name), least, most)
        checks.number("rate", self.rate, 0, 1, above=True)

    @property
    def per_head(self) -> bool:
        return self.name == "group"

    def spec(self) -> str:
        """The text that `parse_recipe` reads back, every setting named."""
        said = [f"{f.name}={typed(getattr(self, f.name))}" for f in _settings()]
        return f"{self.name}:{','.join(said)}"


def parse_recipe(spec: str) -> SelectorRecipe:
    """A recipe from text, such as "group" or "layer:hidden=128,loss=rank". Raises InputError for an unknown name or setting, or
    a value of another type or out of range."""
    name, text = split_spec("recipe", spec, "group:hidden=128")
    if name not in NAMES:
        raise InputError(f"recipe {name!r} is unknown; expected one of {', '.join(NAMES)}")
    wanted = {f.name for f in _settings()}
    parameters = {key: found for key, found in parameters_of(SelectorRecipe).items() if key in wanted}
    return SelectorRecipe(name=name, **SettingsReader("recipe", name, parameters).read(spec, text))  # type: ignore[arg-type]


def _settings() -> list[dataclasses.Field[object]]:
    return [f for f in dataclasses.fields(SelectorRecipe) if f.init and f.name != "name"]
