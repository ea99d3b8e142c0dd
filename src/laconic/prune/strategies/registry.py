"""Strategies by name, and how a text becomes one: ``self-consistency``, ``deepprune:tau=0.6,K2=5``, ``deepconf:low``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.prune.judge import Judge
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.deepconf import DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.self_consistency import SelfConsistency

_CLASSES: Mapping[str, type[Strategy]] = {
    "self-consistency": SelfConsistency,
    "deepprune": DeepPrune,
    "deepconf": DeepConf,
}
_MODES = {"deepconf": ("low", "high")}
# What people also type.
_ALIASES = {"cons": "self-consistency", "sc": "self-consistency", "selfconsistency": "self-consistency"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a strategy, for people to read. default: as it is typed."""

    field: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Described:
    """One strategy for people to read. forms: how its spec is written; source: its paper."""

    name: str
    forms: tuple[str, ...]
    summary: str
    source: str
    settings: tuple[Setting, ...]


def known() -> tuple[str, ...]:
    """Every name that `parse` takes."""
    return tuple(f"{name}:{mode}" if mode else name for name in _CLASSES for mode in _MODES.get(name, ("",)))


def described() -> list[Described]:
    """Every strategy, in order."""
    return [
        Described(
            name,
            tuple(f"{name}:{mode}" if mode else name for mode in _MODES.get(name, ("",))),
            cls.summary,
            cls.source,
            tuple(settings(name)),
        )
        for name, cls in _CLASSES.items()
    ]


def needs_judge(spec: str) -> bool:
    """Whether a strategy takes a judge. Raises InputError for an unknown name."""
    return _find(spec)[0] is DeepPrune


def settings(name: str) -> list[Setting]:
    """What can be set in a spec, in order. Raises InputError for an unknown name."""
    cls, _ = _find(name)
    hints = typing.get_type_hints(cls)
    return [Setting(f.name, _said(hints[f.name]), _shown(f.default), f.metadata["meaning"]) for f in _fields(cls)]


def parse(spec: str, n: int, judge: Judge | None = None, **overrides: Any) -> Strategy:
    """A strategy from text, with n traces. Overrides win; they are Python values, and None counts as not given.

    Raises InputError for an unknown name (lists the known), an unknown setting (lists that strategy's), a value of the
    wrong type or range, or a judge that is missing. A judge that a strategy has no use for is ignored.
    """
    cls, rest = _find(spec)
    fields = {f.name: f for f in _fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals and part in _MODES.get(_name(cls), ()):
            key, text = "mode", part
        elif not equals:
            raise InputError(f"{part!r} in strategy {spec!r} has no value; expected setting=value")
        if key in values:
            raise InputError(f"{key} is given twice in strategy {spec!r}; give it once")
        _check(cls, key, fields)
        values[key] = _typed(cls, key, text, hints[key])
    for key, value in overrides.items():
        if value is not None:
            _check(cls, key, fields)
            values[key] = value
    if cls is DeepPrune:
        if judge is None:
            raise InputError("strategy deepprune needs a judge; give one")
        values["judge"] = judge
    return cls(n, **values)  # type: ignore[call-arg]


def _find(spec: str) -> tuple[type[Strategy], str]:
    """The class that a spec names, and its settings as text."""
    name, _, rest = (
        checks.text("strategy", spec, "NAME or NAME:setting=value,..., such as deepprune").strip().partition(":")
    )
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    plain = _ALIASES.get(plain, plain)
    if plain not in _CLASSES:
        raise InputError(f"strategy {name!r} is unknown; expected one of {', '.join(known())}")
    return _CLASSES[plain], rest


def _name(cls: type[Strategy]) -> str:
    return next(name for name, known_cls in _CLASSES.items() if known_cls is cls)


def _fields(cls: type[Strategy]) -> list[dataclasses.Field[Any]]:
    """What a spec can set: not n, and not the judge, which no text holds."""
    return [f for f in dataclasses.fields(cls) if f.default is not MISSING]  # type: ignore[arg-type]


def _check(cls: type[Strategy], key: str, fields: Mapping[str, Any]) -> None:
    if key not in fields:
        raise InputError(f"setting {key!r} of strategy {_name(cls)} is unknown; its settings: {', '.join(fields)}")


def _said(hint: Any) -> str:
    """A type as a person reads it: "int", "number", "text or none"."""
    words = {bool: "true or false", int: "int", float: "number", str: "text", type(None): "none"}
    members = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    return " or ".join(words[member] for member in members)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _typed(cls: type[Strategy], key: str, text: str, hint: Any) -> Any:
    """The text as the setting's type."""
    members = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    if type(None) in members and text.lower() == "none":
        return None
    kind = members[0]
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InputError(f"{key} of strategy {_name(cls)} is {text!r}; expected true or false")
    try:
        return kind(text)
    except ValueError:
        said = "a whole number" if kind is int else "a number"
        raise InputError(f"{key} of strategy {_name(cls)} is {text!r}; expected {said}") from None
