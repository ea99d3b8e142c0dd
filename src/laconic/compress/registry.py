"""Policies by name: ours, those that third parties announce by entry points, and how a text becomes one.

A package adds its own with `[project.entry-points."laconic.policies"]`, one line `name = "module:Class"`. One that
doesn't load never breaks the others: `broken()` names it and says why.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from laconic import checks
from laconic.compress import policies
from laconic.compress.expected_attention import ExpectedAttention
from laconic.compress.hindsight import Hindsight
from laconic.compress.kvzap import KVzap
from laconic.compress.learned import Learned
from laconic.compress.lightthinker import LightThinker
from laconic.compress.policy import Policy
from laconic.compress.random_attention import RandomAttention
from laconic.compress.shares import SHARE
from laconic.compress.vase import VaSE
from laconic.errors import InputError
from laconic.settings import Setting, SettingsReader, find_name, flatten, parameters_of, split_spec

GROUP = "laconic.policies"

_registered: dict[str, type[Policy]] = {}
_ALIASES = {"fullkv": "full", "streaming": "streamingllm"}
"""What people also type."""
_LAYERWISE = "gives each layer a budget of its own, and here all layers hold equally many tokens"
_HEADWISE = "gives each head a budget of its own, and here all heads hold equally many tokens"
_ABSENT = {  # flattened names that users of other packages type: why it is not here, what to use
    "pyramidkv": f"{_LAYERWISE}: use snapkv, the same scores on a uniform budget",
    "simlayerkv": f"{_LAYERWISE}: use streamingllm, which keeps the first and the latest tokens in all of them",
    "adakv": f"{_HEADWISE}: use snapkv, the same scores on a uniform budget",
    "adasnapkv": f"{_HEADWISE}: use snapkv, the same scores on a uniform budget",
    "headkv": f"{_HEADWISE}: use snapkv, the same scores on a uniform budget",
    "duoattention": f"{_HEADWISE}: use streamingllm, which keeps the first and the latest tokens in all of them",
}


def register(policy: type[Policy]) -> type[Policy]:
    """Make a policy class known by its `name`; also works as a class decorator.

    Raises InputError if it is no Policy, has no name, or its name is another class's.
    """
    if not (isinstance(policy, type) and issubclass(policy, Policy) and dataclasses.is_dataclass(policy)):
        raise InputError(f"{checks.shown(policy)} can't be registered; expected a dataclass derived from Policy")
    name = getattr(policy, "name", None)
    if not isinstance(name, str) or not name or flatten(name) != name:
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
    checks.text("policy", name, "a policy's name, such as rpc")
    found = known()
    meant = find_name(name, found, _ALIASES)
    if meant is not None:
        return found[meant]
    failed = find_name(name, broken())
    if failed is not None:
        raise InputError(broken()[failed])
    if is_absent(name):
        raise InputError(f"policy {name!r} is not offered, as it {_ABSENT[flatten(name)]}")
    raise InputError(f"policy {name!r} is unknown; expected one of {', '.join(found)}")


def is_absent(name: str) -> bool:
    """Whether `get` has a sentence of its own for that name: other packages' policies that laconic doesn't offer."""
    return flatten(name) in _ABSENT


def parse(spec: str, **overrides: Any) -> Policy:
    """A policy from text: "rpc", or "rpc:interval=1024,ratio=8,pooling=max". Overrides win; they are Python values.

    An override that is None counts as not given, so that a command line can pass its options as they come.
    Raises InputError for an unknown name (lists the names), an unknown setting (lists that policy's), a value of the
    wrong type or range (names setting, value and what was expected).
    """
    name, text = split_spec("policy", spec, "rpc:ratio=8")
    cls = get(name)
    reader = _reader(cls)
    values = reader.read(spec, text, overrides)
    missing = reader.missing(values)
    if missing is not None:
        raise InputError(
            f"{missing.name} of policy {cls.name} is missing: {missing.meaning or 'it has no default'}; give it"
        )
    return cls(**values)


def written_settings(spec: str) -> dict[str, Any]:
    """The settings that a spec itself names, by the policy's fields: without those that it leaves at their defaults.

    Raises InputError as `parse`.
    """
    policy = parse(spec)
    _, text = split_spec("policy", spec, "rpc:ratio=8")
    named = set(_reader(type(policy)).read(spec, text))
    if SHARE in named:  # it says the ratio
        named.add("ratio")
    return {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy) if field.name in named}


def named_file(spec: str) -> str | None:
    """The file, folder or name that a policy's spec says it is loaded from; None: none. Nothing is looked up.

    Raises InputError for an unknown name or setting.
    """
    name, text = split_spec("policy", spec, "rpc:ratio=8")
    cls = get(name)
    found = _reader(cls).read(spec, text).get(cls.bare or "")
    return None if found is None else str(found)


def settings_of(name: str) -> list[Setting]:
    """The settings of a policy, in order. Raises InputError for an unknown name."""
    return _reader(get(name)).listed()


def _reader(cls: type[Policy]) -> SettingsReader:
    return SettingsReader("policy", cls.name, parameters_of(cls), bare=cls.bare)


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
    if flatten(entry.name) != entry.name:
        return "its name isn't made of lower-case letters and digits"
    if entry.name in good or (entry.name in _registered and _registered[entry.name] is not cls):
        return "its name is taken"
    good[entry.name] = cls
    return ""


for _policy in (
    policies.FullKV,
    policies.RPC,
    policies.H2O,
    policies.TOVA,
    policies.StreamingLLM,
    policies.RKV,
    policies.SnapKV,
    policies.KNorm,
    Learned,
    ExpectedAttention,
    KVzap,
    LightThinker,
    VaSE,
    RandomAttention,
    policies.Random,
    policies.Oracle,
    Hindsight,
):
    register(_policy)
