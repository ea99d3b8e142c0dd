"""The traces that policies are compared on: recorded by `laconic collect`, or plain texts that begin with their prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.jsonl import read_text
from laconic.traces import TraceRecord, read_traces, tokenizer_fingerprint


@dataclass(frozen=True)
class ForcedTrace:
    """One trace as it will be fed. Raises nothing: `check_for_model` does."""

    id: str
    problem: str
    """Traces of one problem are no independent draws: intervals resample problems."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]

    @cached_property
    def digest(self) -> str:
        """8 bytes in hex of all its tokens."""
        content = json.dumps([self.prompt_ids, self.token_ids])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    @property
    def number(self) -> int:
        """What policies that draw go by: the same whatever else runs."""
        return int(self.digest[:8], 16)


def recorded_traces(
    path: Path,
    problems: int | None = None,
    n: int | None = None,
    tokens: int | None = None,
    only: Collection[str] | None = None,
) -> tuple[list[ForcedTrace], str | None, str]:
    """The first n traces of each of the first problems of a file, cut to `tokens` generated ones (None: all of each). only: the
    ids of the problems that count; None: all.

    Returns them, the fingerprint of their tokenizer (None: not recorded), and a sentence on broken lines ("": none). Raises
    InputError for a file without traces, traces of two tokenizers, or one without a prompt.
    """
    found = read_traces(path)
    asked = [records for name, records in found.by_problem().items() if only is None or name in only]
    chosen = [record for records in asked[:problems] for record in records[:n]]
    known = sorted({str(record.settings["tokenizer"]) for record in chosen if record.settings.get("tokenizer")})
    if len(known) > 1:
        raise InputError(
            f"{path} holds traces of {len(known)} tokenizers ({', '.join(known)}); expected one: take them apart"
        )
    traces = [_forced(record, tokens) for record in chosen]
    whole = [trace for trace in traces if trace.token_ids]
    if not whole:
        raise InputError(f"{path} holds no generated tokens; expected traces as `laconic collect` writes them")
    ids = [trace.id for trace in whole]
    if len(set(ids)) < len(ids):
        twice = next(name for at, name in enumerate(ids) if name in ids[:at])
        raise InputError(
            f"{path} holds two traces {twice}, of other seeds or settings; expected each once: take them apart"
        )
    return whole, next(iter(known), None), found.describe_broken(path)


def _forced(record: TraceRecord, tokens: int | None) -> ForcedTrace:
    name = f"{record.problem}/{record.index}"
    if not record.prompt_ids:
        raise InputError(f"trace {name} has no prompt_ids, so nothing of it can be run again; collect it anew")
    return ForcedTrace(name, record.problem, record.prompt_ids, record.token_ids[:tokens])


def text_traces(paths: Sequence[Path], tokenizer: Any, prompt: int, tokens: int | None = None) -> list[ForcedTrace]:
    """Texts, cut into tokens: the first `prompt` are the prompt, the rest (at most `tokens`) are as if generated.

    Texts that are no longer than the prompt have no generated tokens. Raises InputError for a file that is empty, no text, or
    named twice.
    """
    traces = []
    for path in paths:
        text = read_text(path)
        if not text.strip():
            raise InputError(f"{path} is empty; expected a text of more than {prompt} tokens")
        ids = [int(token) for token in tokenizer(text)["input_ids"]]
        end = None if tokens is None else prompt + tokens
        traces.append(ForcedTrace(path.name, path.name, tuple(ids[:prompt]), tuple(ids[prompt:end])))
    names = [trace.id for trace in traces]
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise InputError(f"two texts have the name {twice}; expected each once")
    return traces


def long_enough(traces: Sequence[ForcedTrace], first: int | None) -> list[ForcedTrace]:
    """Those on which something is compressed while tokens are still to come. Raises InputError if none is left.

    first: generated tokens before the first compression of any policy; None: nothing compresses, and all will do.
    """
    if first is None:
        return [trace for trace in traces if trace.token_ids]
    kept = [trace for trace in traces if len(trace.token_ids) > first + 1]
    if not kept:
        longest = max(len(trace.token_ids) for trace in traces)
        raise InputError(
            f"the first compression comes after {first:,} generated tokens, but the longest of {len(traces):,} traces has "
            f"{longest:,} beside its prompt, so there is nothing to measure: give a smaller --interval, or longer traces"
        )
    return kept


def check_tokenizer(path: Path, recorded: str | None, tokenizer: Any) -> None:
    """InputError for traces that were recorded with another tokenizer than the model's: their token ids mean other texts."""
    mine = tokenizer_fingerprint(tokenizer)
    if recorded is not None and recorded != mine:
        raise InputError(
            f"the traces in {path} were written with another tokenizer (its fingerprint is {recorded}, this model's {mine}); "
            "give the model that wrote them, or one with the same tokenizer"
        )


def check_for_model(traces: Sequence[ForcedTrace], vocabulary: int, context: int | None) -> None:
    """InputError for a trace with tokens that the model doesn't have, or longer than its context."""
    for trace in traces:
        most = max((*trace.prompt_ids, *trace.token_ids))
        if most >= vocabulary:
            raise InputError(
                f"trace {trace.id} has the token id {most}, but the model's vocabulary ends at {vocabulary - 1}; give the "
                "model that wrote the traces"
            )
        length = len(trace.prompt_ids) + len(trace.token_ids)
        if context is not None and length > context:
            raise InputError(
                f"trace {trace.id} has {length:,} tokens with its prompt, but the model's context is {context:,}: give "
                f"--tokens {context - len(trace.prompt_ids)} or fewer"
            )
