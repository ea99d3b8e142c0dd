"""What a probe appends to a copy of a trace, and how an answer is read from what the model writes after it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from laconic import checks
from laconic.answers import MARKERS, known_markers
from laconic.answers.extraction import end_of_box
from laconic.answers.thinking import split_off_thinking
from laconic.errors import InputError
from laconic.prune.trace_engine import TraceView

# What ends the thinking of the models that have such a sign, and begins an answer; the first sign that a model has counts.
SUFFIXES = {marker.sign: marker.closing + "\\boxed{" for marker in MARKERS}
PLAIN_SUFFIX = "\n\nThe final answer is \\boxed{"  # a model without thinking marks
DYNASOR_SUFFIX = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
"""Dynasor's (arXiv 2412.20993): the thinking goes on around it."""
HEDGES = ("wait", "hold", "but", "okay", "no", "hmm")
"""Dynasor's words of doubt."""
SUFFIX_NAMES = ("published", "closing")
SUFFIX_SETTING = (
    "what a probe appends: published (Dynasor's text), closing (what ends the model's thinking), or a text; none: "
)
TOKENS_SETTING = "tokens of a probe's answer, at most"

_HEDGE = re.compile(rf"\b(?:{'|'.join(HEDGES)})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProbedAnswer:
    """What a probe gave."""

    answer: str | None
    """In the box that the suffix opened; None where it is empty or doesn't close."""
    hedged: bool = False
    """Whether a word of doubt stands in the text."""


def read_probe(text: str) -> ProbedAnswer:
    """text: what the model wrote after an open brace. Hedges are whole words; an answer that is such a word ("no") is none.

    >>> read_probe("7} \\\\] Wait, is it")
    ProbedAnswer(answer='7', hedged=True)
    """
    end = end_of_box(text)
    answer = (text[:end].strip() or None) if end is not None else None
    said = text[end:] if answer is not None and answer.lower() in HEDGES else text
    return ProbedAnswer(answer, _HEDGE.search(said) is not None)


def check_suffix(suffix: str | None) -> None:
    """InputError for a setting that is none of SUFFIX_NAMES, None, or a text that opens a brace."""
    if suffix is None:
        return
    checks.text("suffix", suffix, "a text that ends in an open brace", some=True)
    if suffix not in SUFFIX_NAMES and not suffix.rstrip().endswith("{"):
        raise checks.input_error(
            "suffix", suffix, "published, closing, or a text that ends in an open brace, such as \\boxed{"
        )


def choose_suffix(suffix: str | None, tokenizer: Any, preferred: str) -> str:
    """The text that a setting stands for. tokenizer: the model's, None where the engine tells none.

    preferred: what None stands for, "published" or "closing"; without a tokenizer it is the first, and where that lacks a word
    of Dynasor's text the second. Raises InputError for "closing" without a tokenizer.
    """
    if suffix is None:
        published = tokenizer is None or (preferred == "published" and _spells(tokenizer, DYNASOR_SUFFIX))
        suffix = "published" if published else "closing"
    if suffix == "published":
        return DYNASOR_SUFFIX
    return model_suffix(tokenizer) if suffix == "closing" else suffix


def _spells(tokenizer: Any, text: str) -> bool:
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown is None or unknown not in tokenizer(text, add_special_tokens=False)["input_ids"]


def model_suffix(tokenizer: Any) -> str:
    """The text that ends a model's thinking and begins its answer, by its tokenizer. Raises InputError for None."""
    if tokenizer is None:
        raise InputError(
            "The engine tells no tokenizer, so the probe can't know how its model ends its thinking; give the probe a suffix"
        )
    vocabulary, template = tokenizer.get_vocab(), str(getattr(tokenizer, "chat_template", None) or "")
    # A sign of several tokens isn't in the vocabulary, but where a model's own texts are formatted.
    suffixes = {marker.sign: marker.closing + "\\boxed{" for marker in known_markers()}
    return next((suffix for sign, suffix in suffixes.items() if sign in vocabulary or sign in template), PLAIN_SUFFIX)


def ending(trace: TraceView, answer: str, tokenizer: Any = None) -> str:
    """What makes a stopped trace's text one that ends in an answer: its thinking is closed, where it is open."""
    last = split_off_thinking(trace.text, bool(getattr(trace, "thinking", False)))
    if not last.thinking:
        begin = PLAIN_SUFFIX
    elif last.marker is not None:
        begin = last.marker.closing + "\\boxed{"
    else:
        begin = PLAIN_SUFFIX if tokenizer is None else model_suffix(tokenizer)
    return f"{begin}{answer}}}"
