"""Recorded traces, found by prompt and sampling, and what a request gets of each: its tokens, their texts, its end."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from laconic import checks
from laconic.engines.base import FinishReason, Prompt, Sampling
from laconic.engines.requests import check_ids
from laconic.engines.text import decode, tokenize
from laconic.errors import InputError, LaconicError
from laconic.traces import TraceRecord, tokenizer_fingerprint

Draws = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RecordedOutput:
    """What a request gets of a record."""

    record: TraceRecord
    tokens: tuple[int, ...]
    """Up to the record's end, or one that the request sets before."""
    finish_reason: FinishReason
    """Why they end there."""
    confidences: bool
    """Whether the request asks for log-probabilities."""

    @property
    def whole(self) -> bool:
        """Whether it ends as the record does."""
        return len(self.tokens) == len(self.record.token_ids) and self.finish_reason == self.record.finish_reason

    @property
    def shown(self) -> int:
        """Tokens that have a text: an end token has none."""
        return len(self.tokens) - (self.finish_reason == "stop")


@dataclass(frozen=True, slots=True)
class TextByToken:
    """A record's text as its tokens come."""

    text: str
    ends: array[int]
    """After i + 1 tokens the text is text[: ends[i]]."""


class RecordIndex:
    """Records of one policy, found by prompt, sampling and index.

    tokenizer: theirs, for texts token by token and for prompts given as text.

    Raises InputError for no records, records of several policies, without token ids or without the settings that say how
    they were drawn, two for one place, or a tokenizer that is not theirs.
    """

    def __init__(self, records: Sequence[TraceRecord], tokenizer: Any = None) -> None:
        records = checks.instances("records", records, TraceRecord, "recorded traces (TraceRecord)")
        if not records:
            raise InputError("there are no recorded traces to play back; expected at least one")
        self.tokenizer = tokenizer
        self.policy = str(records[0].settings.get("policy"))
        self.bytes_per_token = int(records[0].kv.get("bytes_per_token", 0))
        self._found: dict[tuple[int, ...], dict[Draws, dict[int, TraceRecord]]] = {}
        self._prompts: dict[str, set[tuple[int, ...]]] = {}
        self._texts: dict[int, TextByToken] = {}
        for record in records:
            self._add(record)
        self._check_tokenizer(records)

    def _add(self, record: TraceRecord) -> None:
        where = f"trace {record.index} of problem {record.problem}"
        if not record.prompt_ids or not record.token_ids:
            raise InputError(f"{where} was recorded without token ids, so it can't be played back")
        policy = str(record.settings.get("policy"))
        if policy != self.policy:
            raise InputError(
                f"the recorded traces are of two policies, {self.policy} and {policy}; play back one policy at a time"
            )
        if int(record.kv.get("bytes_per_token", 0)) != self.bytes_per_token:
            raise InputError(
                f"{where} holds {record.kv.get('bytes_per_token', 0)} bytes of KV a token, others {self.bytes_per_token}; "
                "play back the traces of one model at a time"
            )
        self._prompts.setdefault(record.question, set()).add(record.prompt_ids)
        places = self._found.setdefault(record.prompt_ids, {}).setdefault(_recorded_draws(record), {})
        if record.index in places:
            raise InputError(f"{where} is recorded twice under the same settings; give each trace once")
        places[record.index] = record

    def _check_tokenizer(self, records: Sequence[TraceRecord]) -> None:
        if self.tokenizer is None:
            return
        mine = tokenizer_fingerprint(self.tokenizer)
        for theirs in {str(record.settings.get("tokenizer", mine)) for record in records}:
            if theirs != mine:
                raise InputError(
                    f"the traces were recorded with the tokenizer {theirs}, this one is {mine}; give the model that wrote them"
                )

    # ---- what a request gets --------------------------------------------------------------------------------------

    def find(self, prompt: Prompt, sampling: Sampling, n: int) -> tuple[tuple[int, ...], list[RecordedOutput]]:
        """The prompt's token ids, and its first n traces under this sampling.

        Raises InputError for a prompt that was not recorded, drawn in another way, or with fewer than n traces; for
        log-probabilities that were not recorded; for more tokens than were.
        """
        ids = self._ids(prompt)
        groups = self._found.get(ids)
        if groups is None:
            raise InputError(
                "no traces of this prompt were recorded; give a recorded problem, or an engine with a model"
            )
        wanted = _draws(sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed)
        places = groups.get(wanted)
        if places is None:
            known = "; ".join(sorted(map(_told, groups)))
            raise InputError(f"this prompt's traces were recorded with {known}; asked for {_told(wanted)}")
        missing = next((i for i in range(n) if i not in places), None)
        if missing is not None:
            raise InputError(
                f"n is {n}, but trace {missing} of this prompt was not recorded ({len(places)} were); ask for at most "
                f"{missing}, or collect more"
            )
        return ids, [self._output(places[i], sampling) for i in range(n)]

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            ids = check_ids(prompt)
        elif prompt in self._prompts:
            known = self._prompts[prompt]
            if len(known) > 1:
                raise InputError("this question was recorded with several prompts; give the prompt's token ids")
            (ids,) = known
        elif self.tokenizer is not None:
            ids = tokenize(self.tokenizer, prompt)
        else:
            raise InputError(
                "no traces of this question were recorded; give one as it was asked, or its prompt's token ids"
            )
        if not ids:
            raise InputError("the prompt is empty: give at least one token")
        return ids

    def _output(self, record: TraceRecord, sampling: Sampling) -> RecordedOutput:
        where = f"trace {record.index} of problem {record.problem}"
        if sampling.logprobs is not None:
            raise InputError(
                f"logprobs is {sampling.logprobs}, but recorded traces hold none (they may hold confidences); ask an "
                "engine that runs the model"
            )
        if sampling.confidence_top_k:
            mine = record.settings.get("logprobs") if record.confidences is not None else 0
            if mine != sampling.confidence_top_k:
                raise InputError(
                    f"confidence_top_k is {sampling.confidence_top_k}, but {where} was recorded with {mine or 0}; collect with "
                    "that many"
                )
        tokens, limit = record.token_ids, sampling.max_new_tokens
        ends = frozenset(sampling.stop_token_ids)
        stop = next((i + 1 for i, token in enumerate(tokens[:limit]) if token in ends), None) if ends else None
        if stop is not None:
            output = RecordedOutput(record, tokens[:stop], "stop", sampling.confidence_top_k > 0)
        elif len(tokens) > limit:
            output = RecordedOutput(record, tokens[:limit], "length", sampling.confidence_top_k > 0)
        else:
            most = record.settings.get("max_new_tokens", len(tokens))
            # One that ended before its own limit ended at the model's context, where it would end again.
            if record.finish_reason == "length" and len(tokens) >= most and limit > len(tokens):
                raise InputError(
                    f"max_new_tokens is {limit}, but {where} was cut at {len(tokens)} when recorded; ask for at most that"
                )
            output = RecordedOutput(
                record, tokens, "stop" if record.finish_reason == "stop" else "length", sampling.confidence_top_k > 0
            )
        if not output.whole and self.tokenizer is None:
            raise InputError(
                f"{where} would end before its recorded end, and its text there needs a tokenizer: give one"
            )
        return output

    # ---- texts ----------------------------------------------------------------------------------------------------

    def text_by_token(self, output: RecordedOutput) -> TextByToken | None:
        """The record's text as its tokens come; None where no (fast) tokenizer tells."""
        record = output.record
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        known = self._texts.get(id(record))
        if known is None:
            stream, texts, ends, length = DecodeStream(skip_special_tokens=False), [], array("I"), 0
            shown = len(record.token_ids) - (record.finish_reason == "stop")
            for token in record.token_ids[:shown]:
                text = stream.step(backend, token) or ""
                texts.append(text)
                length += len(text)
                ends.append(length)
            joined = "".join(texts)
            known = TextByToken(record.text if record.text.startswith(joined) else joined, ends)
            self._texts[id(record)] = known
        return known

    def text(self, output: RecordedOutput) -> str:
        """The whole text of what a request gets."""
        if output.whole:
            return output.record.text
        return decode(self.tokenizer, output.tokens[: output.shown])


class RecordedText:
    """A TextStream: the text of one output, as its tokens are played."""

    __slots__ = ("_added", "_by_token", "_index", "_output", "text")

    def __init__(self, index: RecordIndex, output: RecordedOutput) -> None:
        self.text = ""
        self._index, self._output = index, output
        self._by_token: TextByToken | None = None
        self._added = 0  # tokens

    def add(self, token: int) -> str:
        """See TextStream.add."""
        return self.add_next(1)

    def add_next(self, count: int) -> str:
        """The text of the next `count` tokens, which are at least one."""
        told = len(self.text)
        if self._added == 0:  # only now: a trace that never runs needs no text
            self._by_token = self._index.text_by_token(self._output)
        self._added += count
        shown = min(self._added, self._output.shown)
        if self._by_token is None or not shown:
            return ""
        self.text = self._by_token.text[: self._by_token.ends[shown - 1]]
        return self.text[told:]

    def whole(self, token_ids: Sequence[int]) -> str:
        return self.text

    def finish(self, token_ids: Sequence[int]) -> str:
        """See TextStream.finish."""
        told, self.text = self.text, self._index.text(self._output)
        return self.text[len(told) :] if self.text.startswith(told) else ""


def recorded_sampling(record: TraceRecord) -> Sampling:
    """How a record was drawn: what an engine has to be given to draw it again, or a replay to play it back."""
    settings = record.settings
    _recorded_draws(record)
    try:
        return Sampling(
            max_new_tokens=settings.get("max_new_tokens", len(record.token_ids)),
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings["top_k"],
            seed=record.seed,
            confidence_top_k=settings.get("logprobs", 0),
        )
    except LaconicError as error:
        raise _undrawable(record, error) from error


def _recorded_draws(record: TraceRecord) -> Draws:
    missing = [
        name for name in ("temperature", "top_p", "top_k") if not isinstance(record.settings.get(name), (int, float))
    ]
    if missing:
        raise InputError(
            f"the settings of trace {record.index} of problem {record.problem} lack {', '.join(missing)}, so how it was drawn "
            "is unknown"
        )
    settings = record.settings
    for name in ("max_new_tokens", "logprobs"):
        if type(settings.get(name, 0)) is not int:
            raise _undrawable(record, TypeError(f"{name} is {settings[name]!r}"))
    try:
        return _draws(settings["temperature"], settings["top_p"], settings["top_k"], record.seed)
    except (ValueError, OverflowError) as error:  # not finite, or too large for a float
        raise _undrawable(record, error) from error


def _undrawable(record: TraceRecord, error: Exception) -> LaconicError:
    return InputError(
        f"the settings of trace {record.index} of problem {record.problem} are not those of a draw ({error}); mend the file"
    )


def _draws(temperature: float, top_p: float, top_k: int, seed: int) -> Draws:
    """Equal for settings that draw the same tokens: a greedy one has no seed."""
    return (0.0,) if temperature == 0 else (float(temperature), float(top_p), int(top_k), int(seed))


def _told(draws: Draws) -> str:
    if len(draws) == 1:
        return "temperature 0"
    return "temperature {:g}, top_p {:g}, top_k {}, seed {}".format(*draws)
