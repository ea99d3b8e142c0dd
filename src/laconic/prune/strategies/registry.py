"""Strategies by name, and how a text becomes one: ``self-consistency``, ``deepprune:tau=0.6,K2=5``, ``deepconf:low``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from laconic.errors import InputError
from laconic.prune.calibration import Calibration
from laconic.prune.judge import Judge
from laconic.prune.strategies.adaptive import AdaptiveConsistency
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.deepconf import KEPT, DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.dynasor import EFFORTS, DynasorCoT
from laconic.prune.strategies.judged import JudgedVote
from laconic.prune.strategies.parallel_probe import SHORT, ParallelProbe
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.strategies.self_consistency import SelfConsistency
from laconic.prune.strategies.step import StepLike
from laconic.settings import Setting, SettingsReader, find_name, parameters_of, split_spec

_CLASSES: Mapping[str, type[Strategy]] = {
    "self-consistency": SelfConsistency,
    "priced-vote": PricedVote,
    "adaptive-consistency": AdaptiveConsistency,
    "auto": Auto,
    "deepprune": DeepPrune,
    "judged-vote": JudgedVote,
    "deepconf": DeepConf,
    "dynasor": DynasorCoT,
    "parallel-probe": ParallelProbe,
    "step": StepLike,
}
_JUDGED = (DeepPrune, JudgedVote)
"""Those that take a judge."""
_MODES = {"deepconf": tuple(KEPT)}
"""Words that may stand for `mode=...`."""
_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"dynasor": EFFORTS, "parallel-probe": {"short": SHORT}}
"""Words that may come first in a spec, and the settings that each stands for."""
_ALIASES = {
    "cons": "self-consistency",
    "sc": "self-consistency",
    "priced": "priced-vote",
    "judged": "judged-vote",
    "adaptive": "adaptive-consistency",
    "dynasorcot": "dynasor",
}
"""What people also type."""


@dataclass(frozen=True, slots=True)
class StrategyListing:
    """One strategy for people to read: an entry of `laconic strategies`."""

    name: str
    forms: tuple[str, ...]
    """How its spec is written."""
    summary: str
    """What it does, one clause."""
    source: str
    """Its paper."""
    settings: tuple[Setting, ...]


def known() -> tuple[str, ...]:
    """Every name that `parse` takes."""
    return tuple(f"{name}:{mode}" if mode else name for name in _CLASSES for mode in _MODES.get(name, ("",)))


def listings() -> list[StrategyListing]:
    """Every strategy, in order."""
    return [
        StrategyListing(
            name,
            tuple(f"{name}:{word}" if word else name for word in _MODES.get(name, ("", *_PRESETS.get(name, ())))),
            cls.summary,
            cls.source,
            tuple(settings(name)),
        )
        for name, cls in _CLASSES.items()
    ]


def needs_judge(spec: str) -> bool:
    """Whether a strategy takes a judge. Raises InputError for an unknown name."""
    return _find(spec)[0] in _JUDGED


def has_warmup_traces(spec: str) -> bool:
    """Whether a strategy's `warmup` is a number of traces. Raises InputError for an unknown name."""
    return _find(spec)[0] is DeepConf


def settings_for_short(spec: str) -> Mapping[str, Any]:
    """What a strategy has beside its defaults for traces of some hundred tokens. Raises InputError for an unknown name."""
    return _PRESETS.get(_find(spec)[1].name, {}).get("short", {})


def needs_calibration(spec: str) -> bool:
    """Whether a strategy takes a calibration. Raises InputError for an unknown name."""
    return _find(spec)[0] is Auto


def settings(name: str) -> list[Setting]:
    """What can be set in a spec, in order. Raises InputError for an unknown name."""
    return _find(name)[1].listed()


def parse(
    spec: str, n: int, judge: Judge | None = None, calibration: Calibration | None = None, **overrides: Any
) -> Strategy:
    """A strategy from text, with n traces. Overrides win; they are Python values, and None counts as not given.

    Raises InputError for an unknown name (lists the known), an unknown setting (lists that strategy's), a value of the
    wrong type or range, or a judge or calibration that is missing. One that a strategy has no use for is ignored.
    """
    cls, reader, text = _find(spec)
    preset, text = _split_preset(reader.name, text)
    values = {**preset, **reader.read(spec, text, overrides)}
    if cls in _JUDGED:
        if judge is None:
            raise InputError(f"strategy {reader.name} needs a judge; give one")
        values["judge"] = judge
    if cls is Auto:
        if calibration is None:
            raise InputError("strategy auto needs a calibration; give one, as laconic.calibrations reads them")
        values["calibration"] = calibration
    return cls(n, **values)  # type: ignore[call-arg]


def _split_preset(name: str, text: str) -> tuple[Mapping[str, Any], str]:
    """The settings that the first word of a spec's settings stands for, if it is a preset, and the rest."""
    word, _, rest = text.partition(",")
    preset = _PRESETS.get(name, {}).get(word.strip())
    return ({}, text) if preset is None else (preset, rest)


def _find(spec: str) -> tuple[type[Strategy], SettingsReader, str]:
    """The class that a spec names, what reads its settings, and these as text."""
    typed, text = split_spec("strategy", spec, "deepprune:tau=0.6")
    name = find_name(typed, _CLASSES, _ALIASES)
    if name is None:
        raise InputError(f"strategy {typed!r} is unknown; expected one of {', '.join(known())}")
    # Not n, and not the judge, which no text holds: they have no defaults.
    settable = {key: p for key, p in parameters_of(_CLASSES[name]).items() if p.default is not MISSING}
    return (
        _CLASSES[name],
        SettingsReader("strategy", name, settable, dict.fromkeys(_MODES.get(name, ()), "mode")),
        text,
    )
