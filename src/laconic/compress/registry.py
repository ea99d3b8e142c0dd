"""Policies by name: ours, those that third parties announce by entry points, and how a text becomes one.

A package adds its own with `[project.entry-points."laconic.policies"]`, one line `name = "module:Class"`. One that
doesn't load never breaks the others: `broken()` names it and says why.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import MISSING, dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union

from laconic import checks
from laconic.compress import policies
from laconic.compress.policy import Policy
from laconic.errors import InputError

GROUP = "laconic.policies"

_registered: dict[str, type[Policy]] = {}
# What people also type. Case, hyphens and underscores don't matter (see _plain).
_ALIASES = {"fullkv": "full", "streaming": "streamingllm"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a policy, for people to read. default: as it is typed; "" if it must be given."""

    field: str
    type: str
    default: str
    meaning: str


def register(policy: type[Policy]) -> type[Policy]:
    """Make a policy class known by its `name`; also works as a class decorator.

    Raises InputError if it is no Policy, has no name, or its name is another class's.
    """
    if not (isinstance(policy, type) and issubclass(policy, Policy) and dataclasses.is_dataclass(policy)):
        raise InputError(f"{checks.shown(policy)} can't be registered; expected a dataclass derived from Policy")
    name = getattr(policy, "name", None)
    if not isinstance(name, str) or not name or _plain(name) != name:
        raise InputError(f"the name of {policy.__name__} is {name!r}; expected lower-case letters and digits")
    if _registered.setdefault(name, policy) is not policy:
        raise InputError(f"policy name {name} is taken by {_registered[name].__name__}; choose another name")
    return policy


def known() -> dict[str, type[Policy]]:
    """Every policy that can be had, by name: ours first, then third parties' that load."""
    third, _ = _third_parties()
    return {**_registered, **{name: cls for name, cls in third.items() if name not in _registered}}


def broken() -> dict[str, str]:
    """Third-party policies that don't load: name -> one sentence why."""
    return dict(_third_parties()[1])


def get(name: str) -> type[Policy]:
    """The policy class of that name. Raises InputError that lists the known names."""
    plain = _plain(checks.text("policy", name, "a policy's name, such as rpc"))
    plain = _ALIASES.get(plain, plain)
    found = known()
    if plain in found:
        return found[plain]
    for failed, why in broken().items():
        if _plain(failed) == plain:
            raise InputError(why)
    raise InputError(f"policy {name!r} is unknown; expected one of {', '.join(found)}")


def parse(spec: str, **overrides: Any) -> Policy:
    """A policy from text: "rpc", or "rpc:interval=1024,ratio=8,pooling=max". Overrides win; they are Python values.

    An override that is None counts as not given, so that a command line can pass its options as they come.
    Raises InputError for an unknown name (lists the names), an unknown setting (lists that policy's), a value of the
    wrong type or range (names setting, value and what was expected).
    """
    name, _, rest = checks.text("policy", spec, "NAME or NAME:setting=value,..., such as rpc:ratio=8").partition(":")
    cls = get(name)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, text = (x.strip() for x in part.partition("="))
        if not equals:
            raise InputError(f"{part!r} in policy {spec!r} has no value; expected setting=value")
        if key in values:
            raise InputError(f"{key} is given twice in policy {spec!r}; give it once")
        _check_setting(cls, key, fields)
        values[key] = _typed(cls, key, text, hints[key])
    for key, value in overrides.items():
        if value is not None:
            _check_setting(cls, key, fields)
            values[key] = value
    for key, f in fields.items():
        if key not in values and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(
                f"{key} of policy {cls.name} is missing: {f.metadata.get('meaning', 'it has no default')}; give it"
            )
    return cls(**values)


def settings_of(name: str) -> list[Setting]:
    """The settings of a policy, in order. Raises InputError for an unknown name."""
    cls = get(name)
    hints = typing.get_type_hints(cls)
    return [
        Setting(f.name, _said(hints[f.name]), _default(f), str(f.metadata.get("meaning", "")))
        for f in dataclasses.fields(cls)
    ]


@cache
def _third_parties() -> tuple[dict[str, type[Policy]], dict[str, str]]:
    """Loaded once a process: (name -> class, name -> why it doesn't load)."""
    good: dict[str, type[Policy]] = {}
    bad: dict[str, str] = {}
    for entry in entry_points(group=GROUP):
        reason = _load(entry, good)
        if reason:
            owner = entry.dist.name if entry.dist else "an unknown package"
            bad[entry.name] = f"policy {entry.name} of package {owner} can't be used: {reason}"
    return good, bad


def _load(entry: EntryPoint, good: dict[str, type[Policy]]) -> str:
    """Add the entry's class to `good`, or return why not."""
    try:
        cls = entry.load()
    except Exception as error:  # whatever a stranger's module raises must not take ours down
        return f"{entry.value} fails to import ({type(error).__name__}: {error})"
    if not (isinstance(cls, type) and issubclass(cls, Policy) and dataclasses.is_dataclass(cls)):
        return f"{entry.value} is no dataclass derived from laconic.compress.Policy"
    if entry.name != getattr(cls, "name", None):
        return f"its entry point and its class disagree on the name ({entry.name}, {getattr(cls, 'name', None)})"
    if _plain(entry.name) != entry.name:
        return "its name isn't made of lower-case letters and digits"
    if entry.name in good or (entry.name in _registered and _registered[entry.name] is not cls):
        return "its name is taken"
    good[entry.name] = cls
    return ""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "").replace(" ", "")


def _check_setting(cls: type[Policy], key: str, fields: dict[str, Any]) -> None:
    if key not in fields:
        have = ", ".join(fields) or "none"
        raise InputError(f"setting {key!r} of policy {cls.name} is unknown; its settings: {have}")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _said(hint: Any) -> str:
    """A type as a person reads it: "int", "avg or max", "int or none"."""
    words = []
    for member in _members(hint):
        if typing.get_origin(member) is Literal:
            words += [str(word) for word in typing.get_args(member)]
        elif member is type(None):
            words.append("none")
        elif member in (bool, int, float, str):
            words.append({bool: "true or false", int: "int", float: "number", str: "text"}[member])
        else:
            words.append("Python object")
    if words == ["int", "number"]:
        words = ["number"]
    return " or ".join(words)


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default is MISSING:
        return ""
    if f.default is None:
        return "none"
    return str(f.default).lower() if isinstance(f.default, bool) else str(f.default)


def _typed(cls: type[Policy], key: str, text: str, hint: Any) -> Any:
    """The text as the first of the field's types that it fits."""
    for member in _members(hint):
        if member is type(None) and text.lower() == "none":
            return None
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
    said = _said(hint)
    if said == "Python object":
        raise InputError(f"{key} of policy {cls.name} can't be written as text; make the policy in Python")
    raise InputError(f"{key} of policy {cls.name} is {text!r}; expected {said}")


for _policy in (
    policies.FullKV,
    policies.RPC,
    policies.H2O,
    policies.TOVA,
    policies.StreamingLLM,
    policies.RKV,
    policies.Random,
    policies.Oracle,
):
    register(_policy)
