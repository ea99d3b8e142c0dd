"""Recorded traces: what `laconic collect` writes and what judges, replays and benchmarks read. JSON lines, one a trace.

A file may begin with a header line, which belongs to the run that wrote it; readers pass over it, and over any other
line whose `kind` isn't `trace`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.answers import answer_of, equivalent, extract
from laconic.errors import InputError, LaconicError
from laconic.files import replace_file
from laconic.jsonl import parse

KIND = "trace"
FINISH_REASONS = ("stop", "length")
MAX_TOKEN_ID = 2**31 - 1  # tokenizers hold ids in 32 bits


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One finished trace. Raises InputError for a field of another type or out of range."""

    problem: str
    """The problem's id."""
    question: str
    """The user's message."""
    gold: str
    """The reference answer."""
    level: int
    """The problem's difficulty; 0 where its set knows none."""
    index: int
    """Which of the problem's traces this is."""
    seed: int
    """What the engine was given: trace `index` under `seed` can be made again."""
    settings: Mapping[str, Any]
    """model, weights (a fingerprint), policy (a spec), temperature, top_p, top_k, max_new_tokens, logprobs (how many candidates
    each confidence is over, 0 for none), tokenizer (a fingerprint)."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Generated tokens, the end token included."""
    text: str
    """Of the generated tokens, the end token left out."""
    answer: str | None
    """Extracted from the text; None for none."""
    correct: bool
    finish_reason: str
    """One of FINISH_REASONS."""
    confidences: tuple[float, ...] | None = None
    """One a token, or None. Files hold their opposites, mean log-probabilities, as `logprobs`."""
    kv: Mapping[str, float] = field(default_factory=dict)
    """`peak` and `mean`: tokens held, the prompt's included, one layer; `bytes_per_token`: over all layers, where known."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        for name in ("problem", "question", "gold", "text"):
            _expect(self, name, str, "a text")
        for name in ("level", "index", "seed"):
            _expect(self, name, int, "a whole number")
        if self.index < 0:
            raise InputError(f"index is {self.index}; expected at least 0")
        for name in ("settings", "kv"):
            _expect(self, name, Mapping, "an object")
        for name in ("prompt_ids", "token_ids"):
            ids = checks.instance(name, getattr(self, name), (tuple, list), "whole numbers")
            if not set(map(type, ids)) <= {int}:
                raise InputError(f"{name} has an entry that is no whole number")
            if ids and not 0 <= min(ids) <= max(ids) <= MAX_TOKEN_ID:
                wrong = next(token for token in ids if not 0 <= token <= MAX_TOKEN_ID)
                raise InputError(
                    f"{name} has the entry {_short(wrong)}, which is no token id; expected 0 to {MAX_TOKEN_ID}"
                )
        for name, value in self.kv.items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise InputError(f"kv.{name} is {_short(value)}; expected a number, at least 0")
        if self.answer is not None:
            _expect(self, "answer", str, "a text or null")
        if type(self.correct) is not bool:
            raise InputError(f"correct is {self.correct!r}; expected true or false")
        if self.finish_reason not in FINISH_REASONS:
            raise InputError(f"finish_reason is {self.finish_reason!r}; expected {' or '.join(FINISH_REASONS)}")
        if self.confidences is not None:
            _check_one_a_token("confidences", self.confidences, self.token_ids)

    @property
    def thinking(self) -> bool:
        """Whether the text begins within thinking, as far as it matters: what stood there was recorded as no answer."""
        return self.answer is None and extract(self.text, ended=self.finish_reason == "stop") is not None

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, with `kind` first."""
        record: dict[str, Any] = {"kind": KIND}
        for name in _NAMES:
            if name == "confidences":  # the file's own word, and its sign
                record["logprobs"] = None if self.confidences is None else [-value for value in self.confidences]
            else:
                record[name] = getattr(self, name)
        for name in ("prompt_ids", "token_ids"):
            record[name] = list(record[name])
        for name in ("settings", "kv"):
            record[name] = dict(record[name])
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TraceRecord:
        """Raises InputError for a field that is missing or wrong; fields of others' are left out."""
        missing = [name for name in _NEEDED if name not in record]
        if missing:
            raise InputError(f"lacks {', '.join(missing)}")
        values = {name: record[name] for name in _NAMES if name in record and name != "confidences"}
        logprobs = record.get("logprobs")
        for name in ("prompt_ids", "token_ids"):
            if not isinstance(values[name], list):
                raise InputError(f"{name} is no list")
            values[name] = tuple(values[name])
        if logprobs is not None and not isinstance(logprobs, list):
            raise InputError("logprobs is no list")
        made = cls(**values)
        if logprobs is None:
            return made
        _check_one_a_token("logprobs", logprobs, made.token_ids)
        return replace(made, confidences=tuple(-value for value in logprobs))


_NAMES = tuple(f.name for f in fields(TraceRecord))
_NEEDED = tuple(name for name in _NAMES if name not in ("confidences", "kv"))


def _check_one_a_token(name: str, values: Any, tokens: Sequence[int]) -> None:
    checks.instance(name, values, (tuple, list), "numbers, or None")
    if len(values) != len(tokens):
        raise InputError(f"{name} has {len(values)} entries for {len(tokens)} token_ids")
    if not set(map(type, values)) <= {int, float} or any(value != value for value in values):
        raise InputError(f"{name} has an entry that is no number")


def _rescored(record: TraceRecord) -> TraceRecord:
    answer = answer_of(record)
    return replace(record, answer=answer, correct=equivalent(answer, record.gold))


def _expect(record: TraceRecord, name: str, kind: type, meaning: str) -> None:
    value = getattr(record, name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name} is {str(value)[:40]!r}; expected {meaning}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True, slots=True)
class TraceFile:
    """What a file of traces held."""

    records: tuple[TraceRecord, ...]
    broken: tuple[str, ...] = ()
    """A clause for each line that was skipped, beginning with the line's number."""

    def by_problem(self) -> dict[str, list[TraceRecord]]:
        """The records of each problem in the order of their indices; problems as the file first names them.

        Raises InputError where one id stands for two questions, as in two files put together whose problems have no ids.
        """
        found: dict[str, list[TraceRecord]] = {}
        for record in self.records:
            same = found.setdefault(record.problem, [])
            if same and same[0].question != record.question:
                raise InputError(
                    f"the problem {record.problem!r} stands for two questions, {_short(same[0].question)} and "
                    f"{_short(record.question)}; expected one: give the problems ids of their own, and collect again"
                )
            same.append(record)
        for records in found.values():
            records.sort(key=lambda record: record.index)
        return found

    def rescored(self) -> TraceFile:
        """With answers and marks as this version finds them in the texts, which strategies that are played back go by as well:
        rules may have changed since the file was written."""
        return replace(self, records=tuple(_rescored(record) for record in self.records))

    def describe_broken(self, path: str | Path, most: int = 5) -> str:
        """One sentence on the broken lines, for people; "" if there are none."""
        if not self.broken:
            return ""
        more = f" and {len(self.broken) - most} more" if len(self.broken) > most else ""
        lines = "1 line" if len(self.broken) == 1 else f"{len(self.broken)} lines"
        return f"{lines} of {path} skipped: {'; '.join(self.broken[:most])}{more}."


def read_traces(path: str | Path) -> TraceFile:
    """The traces of a file. Lines that are no trace, and repetitions of an earlier one, are skipped and named in `broken`.

    Traces are one and the same if problem, index, seed and settings are. Equal settings, questions and prompts are held once.
    Raises InputError for a file that does not exist or holds no trace.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise InputError(f"There is no trace file {path}; expected JSON lines as `laconic collect` writes them")
    records: list[TraceRecord] = []
    broken: list[str] = []
    seen: set[tuple[str, int, int, str]] = set()
    reader = _InterningReader()
    for number, line in _lines(path):
        try:
            raw = parse(line)
        except LaconicError as error:
            broken.append(f"line {number} {error}")
            continue
        if not isinstance(raw, dict):
            broken.append(f"line {number} is not a JSON object")
            continue
        if raw.get("kind", KIND) != KIND:
            continue
        try:
            record = reader.record(raw)
        except LaconicError as error:
            broken.append(f"line {number}: {error}")
            continue
        key = (record.problem, record.index, record.seed, reader.key)
        if key in seen:
            broken.append(f"line {number} repeats trace {record.index} of problem {record.problem}")
            continue
        seen.add(key)
        records.append(record)
    if not records:
        why = f"; line by line: {'; '.join(broken[:3])}" if broken else ""
        raise InputError(f"{path} holds no traces{why}; expected JSON lines as `laconic collect` writes them")
    return TraceFile(tuple(records), tuple(broken))


def write_traces(path: str | Path, records: Iterable[TraceRecord]) -> None:
    """A file of these traces, without a header (`laconic collect` writes its own, and goes on only with those).

    Raises InputError for a full disk, or a path that is no regular file; the file is then as it was.
    """

    def write(new: Path) -> None:
        with open(new, "w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")

    replace_file(Path(path), write)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hex digits (SHA-256) of the vocabulary, sorted by token, and of the chat template: what token ids and prompts mean.

    tokenizer: None is that of a server, of which nothing is known: all zeros.
    """
    if tokenizer is None:
        return "0" * 16
    vocabulary = sorted((str(token), int(number)) for token, number in tokenizer.get_vocab().items())
    template = getattr(tokenizer, "chat_template", None)
    content = json.dumps([vocabulary, template], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _InterningReader:
    """Makes records whose equal parts are one object: a problem's traces all carry its question, prompt and settings."""

    def __init__(self) -> None:
        self.key = ""  # the latest record's settings as a text
        self._settings: dict[str, Any] = {}
        self._prompts: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._texts: dict[str, str] = {}
        self._numbers: dict[int, int] = {}  # a token id each time anew would be most of what a file takes

    def record(self, raw: dict[str, Any]) -> TraceRecord:
        settings = raw.get("settings")
        self.key = json.dumps(settings, sort_keys=True)
        raw["settings"] = self._settings.setdefault(self.key, settings)
        for name in ("problem", "question", "gold", "answer"):
            if isinstance(raw.get(name), str):
                raw[name] = self._texts.setdefault(raw[name], raw[name])
        record = TraceRecord.from_json(raw)
        object.__setattr__(record, "prompt_ids", self._prompts.setdefault(record.prompt_ids, record.prompt_ids))
        same = self._numbers.setdefault
        object.__setattr__(record, "token_ids", tuple(map(same, record.token_ids, record.token_ids)))
        return record


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line
