"""Where the final answer of a text stands: a box or answer tag, else a choice letter or a number after an answer phrase."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from laconic import checks
from laconic.answers.thinking import split_off_thinking
from laconic.answers.units import MEASURES

# With a brace, or, as TeX has it, without one before a number, a letter, or a fraction or root.
_BOX = re.compile(
    r"\\(?:boxed|fbox|framebox)\s*(?:\{|"
    r"([-+−]?(?:\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\\?%)?|\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d)|\\sqrt\s*(?:\{[^{}]*\}|\d))"
    r"|[A-Za-z](?=\s*(?:[$.,;)]|\\[)\]]|$))))",
    re.MULTILINE,
)
# An escaped brace is a character of the answer, not a bracket; a double backslash doesn't escape what follows it.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

# "The final answer to the problem is", "**Answer:**", "answer =", a heading "## Final answer", and "####" as GSM8K has it.
_PHRASE = re.compile(
    r"\b(?:answer|option|choice)\b"
    r"(?:\s+(?:to|for|of|here|choice|option)\b[^.:;?!\n]{0,80}?)?"
    r"[\s*_]*(?:\b(?:is|are|was|equals|(?:would|should|must|will)\s+be)\b|[:=])"
    r"|^[#*_ \t]*(?:the[ \t]+)?(?:final[ \t]+)?answer[#*_ \t]*$"
    r"|^####",
    re.IGNORECASE | re.MULTILINE,
)
# What may stand between the phrase and the answer. Anything else ("not", "unclear", "between") makes it no answer.
_FILLER = re.compile(
    r"(?:[\s*_:\"'`]|(?:therefore|thus|hence|then|now|also|still|indeed|clearly|simply|just|exactly|approximately|about|"
    r"equal\s+to|given\s+by|the\s+number|option|choice|letter)\b,?)*",
    re.IGNORECASE,
)
_TAG = re.compile(
    r"<(?:final[_ ]?)?answer>((?:(?!<(?:final[_ ]?)?answer>).)*?)</(?:final[_ ]?)?answer>", re.I | re.DOTALL
)
_LONGEST_TAGGED = 100  # characters of a tag's content that is taken as it is; a longer one is prose
# What ends a turn, should it have been left in the text.
_SPECIAL = re.compile(
    r"<\|/?[A-Za-z_:]{2,30}\|>|<[｜|][^<>\n]{2,40}[｜|]>|</?s>|<eos>|<(?:end_of_turn|turn\|)>|\[EOS\]"
)
_REACH = 300  # characters after a phrase in which its answer must end

_LETTER = re.compile(
    r"(?:\\(?:text|mathrm|mathbf)(?:bf|rm)?\s*\{|\\\(|[$*_\s])*"
    r"(?:\(\s*([A-Ja-j])\s*\)|\[([A-J])\]|([A-J])(?=\s*(?:[.,;:)\]}*_$\n]|$|\s(?:because|since|as|which)\b)))"
)
_ANOTHER = re.compile(r"[\s)*]*(?:,|\band\b|\bor\b|&)[\s(*]*(?:and\b|or\b)?[\s(*]*[A-Ja-j](?![A-Za-z])")

# As in Pandoc, a dollar sign followed by a space, or closed after one, is money.
_FORMULA = re.compile(
    r"\$\$(.{1,200}?)\$\$|\$(?=\S)([^$\n]{1,200})(?<=\S)\$(?!\d)|\\\((.{1,200}?)\\\)|\\\[(.{1,200}?)\\\]", re.DOTALL
)
# Symbols, LaTeX commands and lone letters, up to the first word.
_RUN = re.compile(r"(?:\\[A-Za-z]+|\\.|[-+*/^_=<>(){}\[\]|!%$€£.,:\d\s−×·°π√]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))*")
# Neither 3 : 2, 5! = 120 nor a list's last "or" ends a sentence.
_SENTENCE_END = re.compile(r"[.;](?=\s|\*|$)|[:!](?=\*|\s*$|\s+(?![\d=:]))|,(?=\s+(?!\d|(?:or|and)\s+[-$(\\]*\d))|\n")
_NUMBER = re.compile(r"[-+−]?[$€£]?\d(?:[\d,]*\d)?(?:\.\d+)?%?")
# Words after a number that say it isn't the whole answer.
_GOES_ON = re.compile(
    r"(?:or|and|to|if|unless|when|plus|minus|times|over|divided|hundred|thousand|million|billion|trillion|dozen|halves|thirds"
    r"|squared|cubed|factorial|in\s+\d|out\s+of)\b"
    # 4 hours 30 minutes
    rf"|(?:{'|'.join(sorted(MEASURES, key=len, reverse=True))})s?\.?,?\s+(?:and\s+)?\d",
    re.I,
)


class FinishedTrace(Protocol):
    """What `answer_of` needs of a trace; `engines.base.Trace` has it. It may also have `thinking`, as `extract` takes it."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str | None: ...


def answer_of(trace: FinishedTrace) -> str | None:
    """The final answer of a trace, by its text, by whether its prompt left the thinking open, and by how it ended."""
    thinking = bool(getattr(trace, "thinking", False))  # an engine of others' may not tell
    return extract(trace.text, thinking=thinking, ended=trace.finish_reason == "stop")


def extract(text: str, *, thinking: bool = False, ended: bool = False) -> str | None:
    r"""The final answer that ``text`` ends in, stripped; ``None`` when it gives none.

    The content of the last balanced, non-empty ``\boxed{}`` or ``\fbox{}`` (also ``\boxed 5``) or ``<answer></answer>``, unless
    an answer phrase behind a box names a choice letter, as where one works out a value and then chooses; else the letter (A to
    J) after the last answer phrase that has one ("the answer is C", "**Answer: (B)**"); else the number or short LaTeX
    expression after the last answer phrase that has one, of an equation its right side. A phrase that ends in a question mark
    gives nothing.

    Where thinking has ended (``</think>``, ``[/THINK]``, the final channel of gpt-oss: all that `thinking.MARKERS` lists), what
    follows it is searched first, then the whole text. In thinking that has begun and not ended there is no answer, since
    what stands there is a draft. thinking: whether the prompt had begun it (`thinking.ends_in_thinking`); ended: whether
    the model came to its own end and wasn't cut off, so that a box counts although the thinking never ended.

    Raises InputError if ``text`` isn't a str.
    """
    if not isinstance(text, str):
        raise checks.input_error("the text to extract an answer from", text, "a str")
    checks.flag("thinking", thinking)
    checks.flag("ended", ended)
    last = split_off_thinking(text, thinking)
    if last.thinking:
        if not ended:
            return None
        # "Here is my thought process: ... The answer is 5." may be anyone's whole text.
        return _found(text) if last.marker and last.marker.paired else _marked(text)
    return (_found(last.said) if last.after else None) or _found(text)


def end_of_box(text: str) -> int | None:
    r"""Where a box closes whose brace was opened right before ``text``: the index of that brace; None: it doesn't.

    >>> end_of_box(r"\frac{1}{2}} is it")
    11
    """
    depth = 1
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def _found(text: str) -> str | None:
    return _marked(text) or _stated(text)


def _marked(text: str) -> str | None:
    """The last box or answer tag's content, or the letter that is chosen after the box. A box within a tag is what the tag
    holds."""
    (box, boxed), (tag, tagged) = _boxed(text), _tagged(text)
    return _chosen_after(text, box, boxed) or boxed if box > tag else tagged


def _chosen_after(text: str, box: int, boxed: str | None) -> str | None:
    """The letter that is the answer according to what follows a box, unless the box holds one itself."""
    if boxed is None or re.fullmatch(r"[A-J]", re.sub(r"\\[a-z]+|[^A-Za-z]", "", boxed)):
        return None
    rest = _SPECIAL.sub("\n", text[text.index(boxed, box) + len(boxed) :])
    return next(filter(None, map(_letter, reversed(list(_tails(rest))))), None)


def _boxed(text: str) -> tuple[int, str | None]:
    """(where the last box begins, its content); (-1, None) without one."""
    limit = len(text)
    for opener in reversed(list(_BOX.finditer(text))):
        if bare := opener[1]:
            return opener.start(), bare.strip()
        depth = 1
        for brace in _BRACE.finditer(text, opener.end(), limit):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                # An empty box is mostly an instruction repeated ("put it into \boxed{}").
                if content := text[opener.end() : brace.start()].strip():
                    return opener.start(), content
                break
        else:
            # Never closed, so no earlier box is closed behind it. Without this, 10,000 openers would take minutes.
            limit = opener.start()
    return -1, None


def _tagged(text: str) -> tuple[int, str | None]:
    """(where the last answer tag that holds an answer begins, the answer); (-1, None) without one."""
    for tag in reversed(list(_TAG.finditer(text))):
        content = tag[1].strip()
        found = _stated(content) or _bare(content)
        if found:
            return tag.start(), found
    return -1, None


def _bare(content: str) -> str | None:
    """A tag's content that is nothing but an answer, without the dollar signs or stars around it."""
    if "\n" in content or len(content) > _LONGEST_TAGGED or "\\boxed" in content or content in ("and", "or"):
        return None  # prose, a box that isn't one, or the tags themselves, named: "between <answer> and </answer>"
    content = content.strip("* ")
    match = _FORMULA.fullmatch(content)
    return next(group for group in match.groups() if group).strip() if match else content or None


def _stated(text: str) -> str | None:
    tails = list(_tails(_SPECIAL.sub("\n", text)))
    for read in (_letter, _expression):
        for tail in reversed(tails):
            if found := read(tail):
                return found
    return None


def _tails(text: str) -> Iterator[str]:
    """What follows each answer phrase, without filler."""
    for phrase in _PHRASE.finditer(text):
        tail = text[phrase.end() : phrase.end() + _REACH]
        filler = _FILLER.match(tail)
        yield tail[filler.end() :] if filler else tail


def _letter(tail: str) -> str | None:
    match = _LETTER.match(tail)
    if not match or _ANOTHER.match(tail, match.end()) or tail[match.end() :].lstrip(")*_} ").startswith("?"):
        return None
    return (match[1] or match[2] or match[3]).upper()


def _doubted(rest: str) -> bool:
    """Whether what follows a value says that it isn't the whole answer, or asks."""
    return rest.startswith("?") or _GOES_ON.match(rest) is not None


def _expression(tail: str) -> str | None:
    if match := _FORMULA.match(tail):
        content = next(group for group in match.groups() if group).strip()
        rest = tail[match.end() :].lstrip("*_, ")
        return content if content and "\\boxed" not in content and not _doubted(rest) else None

    match = _RUN.match(tail)
    run, rest = (match.group(), tail[match.end() :]) if match else ("", tail)
    if (end := _SENTENCE_END.search(tail)) and end.start() < len(run):
        run, rest = run[: end.start()], ""
    if "\\boxed" in run or _doubted(rest):
        return None
    run = run.split("=")[-1].strip(" \t*_,:").rstrip("+-*/^_<>([{ ")
    if not re.search(r"\d|\\[A-Za-z]", run):
        return None
    if any(run.count(a) != run.count(b) for a, b in ("()", "{}")):
        number = _NUMBER.match(run)
        return number.group() if number else None
    return run + "%" if re.match(r"percent\b", rest, re.I) else run
