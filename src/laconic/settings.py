"""One grammar for all that is named and set by text: policies, strategies, judges, and what a vLLM launch is told.

``NAME``, or ``NAME:key=value,key=value``. Blanks around names, keys and values don't matter. Values are read by the type of
the setting: `none`, `true` and `false` in any case, numbers as Python writes them, words and texts as they stand. What is
wrong is told in one sentence that names the setting, what was given and what was expected.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, Union

from laconic import checks
from laconic.errors import InputError

_TYPES: Mapping[Any, str] = {bool: "true or false", int: "int", float: "number", str: "text", type(None): "none"}
_EXPECTED = {"int": "a whole number", "number": "a number", "text": "a text"}
OBJECT = "Python object"
"""The type of a setting that no text can hold, as listings say it."""


# ---- declaring ----------------------------------------------------------------------------------------------------------


def described(meaning: str, *, shown: bool = True) -> dict[str, Any]:
    """A dataclass field's metadata: its one-line meaning, and whether a policy's `spec()` always names it."""
    return {"meaning": meaning, "shown": shown}


def setting(default: Any, meaning: str, *, shown: bool = False) -> Any:
    """A dataclass field with a default and a one-line meaning. shown: part of a policy's `spec()` even at its default."""
    return dataclasses.field(default=default, metadata=described(meaning, shown=shown))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting for people to read: a line of `laconic policies`, `strategies` or `judges`, and of their JSON."""

    field: str
    """Its name, as it is typed before the equals sign."""
    type: str
    """What it takes: "int", "number", "avg or max", "text or none", ..."""
    default: str
    """As it is typed; "" if it must be given."""
    meaning: str
    """One clause."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting as code sees it."""

    name: str
    hint: Any
    """Its annotation, resolved."""
    default: Any
    """MISSING if it must be given."""
    meaning: str
    listed: bool = True
    """False: it is read, and told to no one: what is only there to be refused with a sentence of its own."""

    @property
    def type(self) -> str:
        """The type as a person reads it."""
        words: list[str] = []
        for member in _members(self.hint):
            literal = typing.get_origin(member) is Literal
            words += [str(word) for word in typing.get_args(member)] if literal else [_TYPES.get(member, OBJECT)]
        return " or ".join(words) if words != ["int", "number"] else "number"

    @property
    def typed_default(self) -> str:
        """The default as it is typed; "" if there is none."""
        return "" if self.default is MISSING else typed(self.default)


def parameters_of(cls: type, meanings: Mapping[str, str] | None = None) -> dict[str, Parameter]:
    """What can be set of a class, in order: a dataclass's fields with their `described` meanings, or the arguments of another
    class's `__init__` with the meanings given."""
    if meanings is None:
        hints = typing.get_type_hints(cls)
        init_only = [f for f in cls.__dataclass_fields__.values() if isinstance(hints[f.name], dataclasses.InitVar)]  # type: ignore[attr-defined]
        hints |= {f.name: hints[f.name].type for f in init_only}
        return {
            f.name: Parameter(
                f.name,
                hints[f.name],
                _default_of(f),
                str(f.metadata.get("meaning", "")),
                f.metadata.get("listed", True),
            )
            for f in (*dataclasses.fields(cls), *init_only)
        }
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    return {
        name: Parameter(name, hints[name], MISSING if p.default is p.empty else p.default, meanings[name])
        for name, p in inspect.signature(cls).parameters.items()
    }


def _default_of(declared: dataclasses.Field[Any]) -> Any:
    made = declared.default_factory
    return declared.default if declared.default is not MISSING or made is MISSING else made()


def typed(value: Any) -> str:
    """A value as it is typed in a spec."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# ---- reading ------------------------------------------------------------------------------------------------------------


def split_spec(kind: str, spec: Any, example: str) -> tuple[str, str]:
    """The name and the settings of a spec, as text. kind: "policy", "judge", ... example: of a spec, for the sentence."""
    name, _, text = checks.text(kind, spec, f"NAME or NAME:setting=value,..., such as {example}").partition(":")
    return name.strip(), text.strip()


def given_keys(spec: str) -> set[str]:
    """The keys that a spec sets, known or not: for who has another way of saying the same."""
    return {part.partition("=")[0].strip() for part in spec.partition(":")[2].split(",")} - {""}


def find_name(name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str | None:
    """The known name that is meant, None for none: case, hyphens, underscores and blanks don't matter.

    aliases: what people also type, so flattened, and the names that they mean.
    """
    flat = flatten(name)
    names = {flatten(one): one for one in known} | dict(aliases or {})
    return names.get(flat)


def flatten(name: str) -> str:
    """A name without what doesn't matter in it."""
    return name.strip().lower().replace("-", "").replace("_", "").replace(" ", "")


@dataclass(frozen=True)
class SettingsReader:
    """Reads the settings of one named thing. kind, name: what sentences call it, such as "policy" and "rpc"."""

    kind: str
    name: str
    parameters: Mapping[str, Parameter]
    words: Mapping[str, str] = field(default_factory=dict)
    """Values that may stand without their key: word -> setting, such as "low" -> "mode"."""
    bare: str | None = None
    """The setting that any first value without a key is of, such as a file."""

    def listed(self) -> list[Setting]:
        """Every setting for people to read, in order."""
        return [Setting(p.name, p.type, p.typed_default, p.meaning) for p in self.parameters.values() if p.listed]

    def read(self, spec: str, text: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arguments for the class: those of `text`, the settings' part of `spec`, and of overrides, which win.

        overrides: Python values; one that is None counts as not given. Raises InputError for an unknown setting (lists the
        known), one without a value or given twice, and a value of another type.
        """
        values: dict[str, Any] = {}
        for number, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals and part in self.words:
                key, value = self.words[part], part
            elif not equals and self.bare is not None and number == 0:
                key, value = self.bare, part
            elif not equals:
                raise InputError(f"{part!r} in {self.kind} {spec!r} has no value; expected setting=value")
            if key in values:
                raise InputError(f"{key} is given twice in {self.kind} {spec!r}; give it once")
            values[key] = self._value(self._parameter(key), value)
        for key, value in (overrides or {}).items():
            if value is not None:
                self._parameter(key)
                values[key] = value
        return values

    def missing(self, values: Mapping[str, Any]) -> Parameter | None:
        """The first setting that has no default and isn't among the values."""
        return next((p for p in self.parameters.values() if p.default is MISSING and p.name not in values), None)

    def _parameter(self, key: str) -> Parameter:
        if key not in self.parameters:
            known = ", ".join(self.parameters) or "none"
            raise InputError(f"setting {key!r} of {self.kind} {self.name} is unknown; its settings: {known}")
        return self.parameters[key]

    def _value(self, parameter: Parameter, text: str) -> Any:
        """The text as the first of the setting's types that it fits."""
        members = _members(parameter.hint)
        if type(None) in members and text.lower() == "none":
            return None
        for member in members:
            if member is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if typing.get_origin(member) is Literal and text in typing.get_args(member):
                return text
            if member is str:
                return text
            if member in (int, float):
                try:
                    return member(text)
                except ValueError:
                    continue
        if parameter.type == OBJECT:
            raise InputError(
                f"{parameter.name} of {self.kind} {self.name} can't be written as text; make the {self.kind} in Python"
            )
        expected = " or ".join(_EXPECTED.get(word, word) for word in parameter.type.split(" or "))
        raise InputError(f"{parameter.name} of {self.kind} {self.name} is {text!r}; expected {expected}")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
