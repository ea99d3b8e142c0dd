"""Judges by name, and how a text becomes one: `bundled`, `encoder:PATH`, `probe`, `random:p=0.5,seed=1`, ...

Importing this module loads no model and no transformers; a judge's own module is imported when it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.errors import InputError, LaconicError
from laconic.prune.judge import Excerpt, Judge

Answers = Mapping[str, str | None] | Callable[[Excerpt], str | None]


@dataclass(frozen=True, slots=True)
class Known:
    """One judge for people to read. form: how its spec is written; meaning: what it does, one clause; source: its paper."""

    form: str
    meaning: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a judge, for people to read. default: as it is typed."""

    field: str
    type: str
    default: str
    meaning: str


_DEEPPRUNE = "arXiv 2510.08483"
_KNOWN = {
    "bundled": Known("bundled", "the pair encoder that ships with the bundled reasoner"),
    "encoder": Known("encoder:DIRECTORY", "a pair encoder that `laconic judge train` wrote"),
    "llm": Known(
        "llm:NAME_OR_DIRECTORY",
        "a causal language model that is asked about two excerpts; or llm:FILE.json",
        _DEEPPRUNE,
    ),
    "probe": Known("probe", "what the reasoner itself would answer at the excerpt's end"),
    "jaccard": Known("jaccard", "tokens in common"),
    "facts": Known("facts", "stated facts in common"),
    "embedding": Known("embedding:NAME_OR_DIRECTORY", "cosine of text embeddings"),
    "random": Known("random", "chance: the floor"),
    "perfect": Known("perfect", "knows the answers: the ceiling; needs recorded traces"),
}
_MEANINGS = {
    ("probe", "suffix"): "what is appended before the answer; none: the model's own end of thinking, and \\boxed{",
    ("probe", "steps"): "tokens that are read of an answer",
    ("jaccard", "ngram"): "tokens of an n-gram; 1 is the set of tokens",
    ("facts", "decay"): "above 0 to 1: how much less a fact weighs than the one after it; 1 is none",
    ("random", "p"): "probability with which two traces are said to agree",
    ("random", "seed"): "another seed, another word on each pair",
}
_WITH_PLACE = ("encoder", "llm", "embedding")


def known() -> dict[str, Known]:
    """Every judge by the name that its spec begins with."""
    return dict(_KNOWN)


def settings(name: str) -> list[Setting]:
    """What can be set in a judge's spec, in order; empty for those that have a place, or nothing to set.

    Raises InputError for an unknown name.
    """
    if name not in _KNOWN:
        raise _unknown(name)
    cls = _settable(name)
    parameters = inspect.signature(cls).parameters.values() if cls is not None else ()
    return [
        Setting(p.name, _type(p.default), "none" if p.default is None else str(p.default), _MEANINGS[name, p.name])
        for p in parameters
    ]


def split(spec: str) -> tuple[str, str]:
    """The name that a spec begins with, and the rest of it: what can be refused before a model is loaded.

    Raises InputError for an unknown name (lists the known ones), or a judge that needs a place and has none.
    """
    name, _, rest = checks.text("judge", spec, "NAME or NAME:..., such as probe").strip().partition(":")
    name, rest = name.strip().lower(), rest.strip()
    if name not in _KNOWN:
        raise _unknown(name)
    if name in _WITH_PLACE and not rest:
        raise InputError(f"judge {name} needs to know which; write {_KNOWN[name].form}")
    return name, rest


def _unknown(name: str) -> LaconicError:
    return InputError(f"judge {name!r} is unknown; expected one of {', '.join(k.form for k in _KNOWN.values())}")


def place_of(spec: str) -> Path | None:
    """The directory of the trained judge that a spec names; None for judges that nobody trained here."""
    name, rest = split(spec)
    if name == "bundled":
        return _bundled(rest)
    return Path(rest).expanduser() if name in ("encoder", "llm") else None


def open_judge(
    spec: str,
    *,
    model: Any = None,
    tokenizer: Any = None,
    excerpt: str | None = None,
    answers: Answers | None = None,
    device: str = "auto",
) -> Judge:
    """The judge that a spec names, ready to read.

    model, tokenizer: of the reasoner whose traces will be judged; a judge that was trained for another is refused, where
    they are given. excerpt: the kind that the judge will be given; a judge made for another is refused. answers: what
    traces end in, for `perfect`. device: for judges with a network of their own.

    Raises InputError for an unknown name (lists the known ones), a missing path, an unknown setting (lists the judge's),
    or a judge that does not fit.
    """
    name, rest = split(spec)
    if excerpt is not None:
        checks.text("excerpt", excerpt, "such as words:25", some=True)
    check_device(device)
    judge = _made(name, rest, model, tokenizer, answers, device)
    if excerpt is not None and judge.excerpt is not None and judge.excerpt != excerpt:
        raise InputError(
            f"judge {spec} was trained for excerpts {judge.excerpt}, this run has {excerpt}; use {judge.excerpt}, or train a "
            f"judge for {excerpt}"
        )
    return judge


def check_device(device: Any, needed: bool = True) -> None:
    """InputError for what can't be the name of a device; None is none unless one is needed."""
    if needed or device is not None:
        checks.text(
            "device", str(device) if type(device).__module__ == "torch" else device, "auto, cpu, cuda:1, ...", some=True
        )


def _made(name: str, rest: str, model: Any, tokenizer: Any, answers: Answers | None, device: str) -> Judge:
    if name in ("bundled", "encoder"):
        from laconic.judges.encoder import PairEncoder

        place = Path(rest) if name == "encoder" else _bundled(rest)
        return PairEncoder.open(place, model=model, tokenizer=tokenizer, device=device)
    if name == "llm":
        from laconic.judges.llm import LLMJudge

        return LLMJudge.from_pretrained(rest, device=device)
    if name == "embedding":
        from laconic.judges.embedding import EmbeddingCosine

        return EmbeddingCosine(rest, device=None if device == "auto" else device)
    if name == "perfect":
        from laconic.judges.baselines import PerfectJudge

        _settings(name, rest, None)
        if answers is None:
            raise InputError(
                "judge perfect needs the answers of finished traces, which only recorded ones have; use it with them"
            )
        return PerfectJudge(answers)
    cls = _settable(name)
    judge: Judge = cls(**_settings(name, rest, cls))
    return judge


def _settable(name: str) -> Any:
    """The class of a judge whose spec holds settings, None for the others."""
    if name == "probe":
        from laconic.judges.probe import ProbeJudge

        return ProbeJudge
    from laconic.judges.baselines import FactOverlap, RandomJudge, TokenJaccard

    simple: dict[str, Any] = {"jaccard": TokenJaccard, "facts": FactOverlap, "random": RandomJudge}
    return simple.get(name)


def _type(default: Any) -> str:
    return "text or none" if default is None else {int: "int", float: "number", str: "text"}[type(default)]


def _bundled(rest: str) -> Path:
    from laconic.assets import reasoner_path

    _settings("bundled", rest, None)
    place = reasoner_path().parent / "judge"
    if not (place / "config.json").is_file():
        raise InputError("this laconic has no bundled judge; use another, such as probe or jaccard")
    return place


def _settings(name: str, text: str, cls: Any) -> dict[str, Any]:
    """`p=0.5,seed=1` as arguments of a class, each of the type of its default (None: a text)."""
    parameters = dict(inspect.signature(cls).parameters) if cls is not None else {}
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise InputError(f"{part!r} in judge {name}:{text} has no value; expected setting=value")
        if key not in parameters:
            raise InputError(
                f"setting {key!r} of judge {name} is unknown; its settings: {', '.join(parameters) or 'none'}"
            )
        if key in values:
            raise InputError(f"{key} is given twice in judge {name}:{text}; give it once")
        default = parameters[key].default
        kind = str if default is None else type(default)
        try:
            values[key] = kind(value)
        except ValueError:
            said = "a whole number" if kind is int else "a number"
            raise InputError(f"{key} of judge {name} is {value!r}; expected {said}") from None
    return values
