"""Judges by name, and how a text becomes one: `bundled`, `encoder:PATH`, `probe`, `random:p=0.5,seed=1`, ...

Importing this module loads no model and no transformers; a judge's own module is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.prune.judge import Excerpt, Judge
from laconic.settings import Setting, SettingsReader, find_name, parameters_of, split_spec

Answers = Mapping[str, str | None] | Callable[[Excerpt], str | None]


@dataclass(frozen=True, slots=True)
class JudgeListing:
    """One judge for people to read: an entry of `laconic judges`."""

    form: str
    """How its spec is written."""
    meaning: str
    """What it does, one clause."""
    source: str = ""
    """Its paper."""


_DEEPPRUNE = "arXiv 2510.08483"
_KNOWN = {
    "bundled": JudgeListing("bundled", "the pair encoder that ships with the bundled reasoner"),
    "encoder": JudgeListing("encoder:DIRECTORY", "a pair encoder that `laconic judge train` wrote"),
    "llm": JudgeListing(
        "llm:NAME_OR_DIRECTORY",
        "a causal language model that is asked about two excerpts; or llm:FILE.json, or llm:openai:URL#MODEL",
        _DEEPPRUNE,
    ),
    "probe": JudgeListing("probe", "what the reasoner itself would answer at the excerpt's end"),
    "jaccard": JudgeListing("jaccard", "tokens in common"),
    "facts": JudgeListing("facts", "stated facts in common"),
    "embedding": JudgeListing("embedding:NAME_OR_DIRECTORY", "cosine of text embeddings"),
    "random": JudgeListing("random", "chance: the floor"),
    "perfect": JudgeListing("perfect", "knows the answers: the ceiling; needs recorded traces"),
    "simulated": JudgeListing(
        "simulated", "knows the answers, and errs as a judge of a given AUROC; needs recorded traces"
    ),
}
_MEANINGS = {
    "probe": {
        "suffix": "what is appended before the answer; none: the model's own end of thinking, and \\boxed{",
        "steps": "tokens that are read of an answer",
    },
    "jaccard": {"ngram": "tokens of an n-gram; 1 is the set of tokens"},
    "facts": {"decay": "above 0 to 1: how much less a fact weighs than the one after it; 1 is none"},
    "perfect": {"answers": ""},
    "simulated": {
        "answers": "",
        "auroc": "of the judge that it stands for, from 0.5",
        "shared": "0 to 1: how much of its errors comes from the traces, so that one is misjudged again and again",
        "seed": "another seed, other errors",
    },
    "random": {
        "p": "probability with which two traces are said to agree",
        "seed": "another seed, another word on each pair",
    },
}
SERVED = "openai:"
"""What the place of a judge begins with that is behind a server."""
_WITH_ANSWERS = ("perfect", "simulated")
_WITH_PLACE = ("encoder", "llm", "embedding")


def known() -> dict[str, JudgeListing]:
    """Every judge by the name that its spec begins with."""
    return dict(_KNOWN)


def settings(name: str) -> list[Setting]:
    """What can be set in a judge's spec, in order; empty for those that have a place, or nothing to set.

    Raises InputError for an unknown name.
    """
    return _reader(_name(name)).listed()


def split(spec: str) -> tuple[str, str]:
    """The name that a spec begins with, and the rest of it: what can be refused before a model is loaded.

    Raises InputError for an unknown name (lists the known ones), or a judge that needs a place and has none.
    """
    typed, rest = split_spec("judge", spec, "probe or random:p=0.5")
    name = _name(typed)
    if name in _WITH_PLACE and not rest:
        raise InputError(f"judge {name} needs to know which; write {_KNOWN[name].form}")
    return name, rest


def _name(typed: str) -> str:
    """The known name that is meant."""
    name = find_name(typed, _KNOWN)
    if name is None:
        raise InputError(f"judge {typed!r} is unknown; expected one of {', '.join(k.form for k in _KNOWN.values())}")
    return name


def has_place(spec: str) -> bool:
    """Whether a judge is loaded from a directory, a name on the Hub or a server that its spec names. Raises as `split`."""
    return split(spec)[0] in _WITH_PLACE


def place_of(spec: str) -> Path | None:
    """The directory of the trained judge that a spec names; None for judges that nobody trained here."""
    name, rest = split(spec)
    if name == "bundled":
        return _bundled(rest)
    if name == "llm" and rest.endswith(".json"):
        from laconic.judges.llm_description import read_description

        saved = read_description(Path(rest).expanduser())
        rest = rest if saved is None else saved.base
    return Path(rest).expanduser() if name in ("encoder", "llm") and not rest.startswith(SERVED) else None


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
        from laconic.judges.folds import open_encoder

        place = Path(rest).expanduser() if name == "encoder" else _bundled(rest)
        return open_encoder(place, model=model, tokenizer=tokenizer, device=device)
    if name == "llm":
        base = _served_base(rest)
        if base is not None:
            return base
        from laconic.judges.llm import LLMJudge

        return LLMJudge.from_pretrained(rest, device=device)
    if name == "embedding":
        from laconic.judges.embedding import EmbeddingCosine

        return EmbeddingCosine(rest, device=None if device == "auto" else device)
    if name in _WITH_ANSWERS:
        read = _read(name, rest)
        if answers is None:
            raise InputError(
                f"judge {name} needs the answers of finished traces, which only recorded ones have; use it with them"
            )
        knowing: Judge = _settable(name)(answers, **read)
        return knowing
    judge: Judge = _settable(name)(**_read(name, rest))
    return judge


def _served_base(place: str) -> Judge | None:
    """The judge behind a server that a place names, or a description whose base is one; None: it names a model."""
    settings = excerpt = None
    if not place.startswith(SERVED) and place.endswith(".json"):
        from laconic.judges.llm_description import read_description

        saved = read_description(Path(place))
        if saved is not None and saved.lora is None:
            place, settings, excerpt = saved.base, saved.settings, saved.excerpt
    if not place.startswith(SERVED):
        return None
    from laconic.engines.openai.endpoints import check_installed

    check_installed("a judge behind a server")
    from laconic.judges.remote import RemoteLLMJudge

    return RemoteLLMJudge.parse(place, settings, excerpt)


def _settable(name: str) -> Any:
    """The class of a judge whose spec holds settings, None for the others."""
    if name == "probe":
        from laconic.judges.probe import ProbeJudge

        return ProbeJudge
    from laconic.judges import baselines

    simple: dict[str, Any] = {
        "jaccard": baselines.TokenJaccard,
        "facts": baselines.FactOverlap,
        "random": baselines.RandomJudge,
        "perfect": baselines.PerfectJudge,
        "simulated": baselines.SimulatedJudge,
    }
    return simple.get(name)


def _bundled(rest: str) -> Path:
    from laconic.assets import reasoner_path

    _read("bundled", rest)
    place = reasoner_path().parent / "judge"
    if not (place / "config.json").is_file():
        raise InputError("this laconic has no bundled judge; use another, such as probe or jaccard")
    return place


def _reader(name: str) -> SettingsReader:
    cls = _settable(name)
    listed = parameters_of(cls, _MEANINGS[name]) if cls is not None else {}
    listed.pop("answers", None)  # what it is given, and no setting
    return SettingsReader("judge", name, listed)


def _read(name: str, text: str) -> dict[str, Any]:
    """`p=0.5,seed=1` as arguments of the judge's class."""
    return _reader(name).read(f"{name}:{text}", text)
