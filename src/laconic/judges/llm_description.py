"""What an LLM judge's directory says beside its weights: how the model is asked, and for which excerpts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as hf_logging

from laconic.errors import InputError, LaconicError
from laconic.files import write_text
from laconic.jsonl import read_object
from laconic.judges.adapters import LoRA
from laconic.judges.prompts import LLMJudgeSettings

FILE = "judge.json"


@dataclass(frozen=True, slots=True)
class LLMJudgeDescription:
    """What `judge.json` holds: which model is asked, how, and for which excerpts."""

    settings: LLMJudgeSettings
    """How the model is asked."""
    excerpt: str | None
    """The kind of excerpts that the judge was trained for; None for any."""
    base: str
    """The model's name or directory; of a tuned one, the model's before."""
    lora: LoRA | None
    """The adapter's; None where the directory holds all weights."""

    def merge(self, settings: LLMJudgeSettings | None, excerpt: str | None) -> tuple[LLMJudgeSettings, str | None]:
        """The settings and the excerpt to use, where others are asked for. Raises InputError for other questions or
        excerpts than the judge was trained with."""
        if excerpt is not None and self.excerpt is not None and excerpt != self.excerpt:
            raise InputError(f"The judge was trained for excerpts {self.excerpt}, not {excerpt}: use {self.excerpt}")
        if settings is None:
            return self.settings, self.excerpt or excerpt
        for field in ("template", "same", "different"):
            asked, trained = getattr(settings, field), getattr(self.settings, field)
            if asked != trained:
                raise InputError(f"The judge's {field} is {trained!r}, not {asked!r}: leave it out")
        return settings, self.excerpt or excerpt


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which would run through ours."""
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            hf_logging.enable_progress_bar()


def write_description(directory: Path, saved: LLMJudgeDescription) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    record = {"kind": "llm", **dataclasses.asdict(saved)}
    write_text(directory / FILE, json.dumps(record, indent=2) + "\n")


def read_description(place: Path) -> LLMJudgeDescription | None:
    """What `write_description` wrote into a directory, or a file of that form, `NAME.json`, in which all but "base" may be left
    out; None where there is no such file. Raises InputError for one that isn't an LLM judge's."""
    path = place if place.suffix == ".json" else place / FILE
    if not path.is_file():
        if place.suffix == ".json":
            raise InputError(
                f"There is no file {place}; expected a judge's description, a model's directory or its name"
            )
        return None
    try:
        record = read_object(path)
        if record.pop("kind", "llm") != "llm":
            raise InputError("its kind is not llm")
        unknown = set(record) - {field.name for field in dataclasses.fields(LLMJudgeDescription)}
        if unknown:
            raise InputError(f"it has {', '.join(sorted(unknown))}")
        lora = LoRA(**record["lora"]) if record.get("lora") is not None else None
        return LLMJudgeDescription(
            LLMJudgeSettings(**record.get("settings", {})), record.get("excerpt"), record["base"], lora
        )
    except LaconicError as error:
        raise InputError(f"{path} is not an LLM judge's: {error}; expected what `LLMJudge.save` writes") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not an LLM judge's ({error!r}); expected what `LLMJudge.save` writes") from error
