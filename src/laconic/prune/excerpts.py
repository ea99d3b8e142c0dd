"""Excerpts: the part of a trace that a judge sees, how far a trace must have come for it, and how it is cut.

Three kinds, by name: ``tokens:K``, ``words:K`` and ``kept``; `parse` makes one. A trace that ended before its truncation
point is its own excerpt, and its answer is known.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from laconic import answers, checks
from laconic.errors import InputError, LaconicError
from laconic.prune.judge import Excerpt
from laconic.prune.needs import Needs
from laconic.prune.trace_engine import TraceEngine, TraceView

Decode = Callable[[Sequence[int]], str]

KINDS = ("tokens:K", "words:K", "words:K:SPAN", "kept", "kept:K")
MOST = 1_000_000
SPAN = 10
"""Words on either side that a reasoning word brings with it, unless the kind says how many."""

_LISTED = """
wait hmm hold actually alternatively instead rather otherwise however but although though unless except
so thus hence therefore consequently accordingly because since as if then suppose assume assuming given
first firstly second secondly next now finally lastly
let recall remember note notice observe consider try check recheck verify confirm compare compute calculate
maybe perhaps probably possibly clearly obviously indeed yes no right wrong mistake error again okay ok
"""
REASONING_WORDS = frozenset(_LISTED.split())
"""Words that mark a step of reasoning: turns, consequences, order, checks and doubt. The paper gives three examples (wait,
thus, since) and no list; this one is ours, and `parse(kind, words=...)` takes another."""

TEXTLESS = 64  # tokens without any text: the engine has no tokenizer
_WORD = re.compile(r"\S+")
_EDGES = re.compile(r"^\W+|\W+$")
_GAP = " … "


def parse(kind: str, decode: Decode | None = None, words: Iterable[str] | None = None) -> Excerpts:
    """The excerpts that a kind names.

    decode: text of generated tokens, for traces of which more is known than the excerpt holds; where it is None, the
    engine that `cut` is given decodes. words: another list of reasoning words (case doesn't matter).

    Make one a run: it remembers how far it has read each trace. Raises InputError for an unknown kind (lists the known
    ones) or a count out of range.
    """
    name, _, rest = checks.text("excerpt", kind, "such as words:25").strip().partition(":")
    if decode is not None:
        checks.function("decode", decode, "from token ids to a text")
    counts = rest.split(":") if rest else []
    if name == "tokens" and len(counts) == 1:
        return FirstTokens(decode, _count(kind, counts[0]))
    if name == "words" and len(counts) in (1, 2):
        span = _count(kind, counts[1], least=0) if len(counts) == 2 else SPAN
        mine = REASONING_WORDS if words is None else checks.texts("words", words)
        listed = frozenset(word.casefold() for word in mine)
        if not listed:
            raise InputError("the list of reasoning words is empty; expected at least one word")
        return FirstWords(decode, _count(kind, counts[0]), span, listed)
    if name == "kept" and len(counts) <= 1:
        return KeptTokens(decode, _count(kind, counts[0]) if counts else None)
    raise InputError(f"excerpt {kind!r} is unknown; expected one of {', '.join(KINDS)}, such as tokens:500 or words:25")


@dataclass(frozen=True)
class Excerpts(ABC):
    """One kind of excerpt. decode: see `parse`."""

    decode: Decode | None

    # Whether `ready` needs a record that the engine has just brought up to date: its KV counts aren't live.
    fresh = False

    @property
    @abstractmethod
    def kind(self) -> str:
        """As `parse` takes it."""

    @property
    def most_tokens(self) -> int | None:
        """Tokens that an excerpt holds at most; None: the kind doesn't say."""
        return None

    def needs(self) -> Needs:
        """What cutting them takes of the engine, beside decoding."""
        return Needs()

    @abstractmethod
    def ready(self, trace: TraceView) -> bool:
        """Whether the trace has reached its truncation point, or ended. Cheap: no text is read twice."""

    @abstractmethod
    def cut(self, trace: TraceView, question: str, engine: TraceEngine | None = None) -> Excerpt:
        """The trace's excerpt; `complete`, with the answer, where the trace ended within it.

        engine: the engine that holds the trace. Raises InputError for a trace that isn't ready, and where the text of the
        excerpt can't be told (the trace has gone on, and nothing decodes).
        """

    def _excerpt(self, trace: TraceView, question: str, token_ids: Sequence[int], text: str) -> Excerpt:
        return Excerpt(trace.id, self.kind, question, tuple(trace.prompt_ids), tuple(token_ids), text)

    def _whole(self, trace: TraceView, question: str) -> Excerpt:
        prompt, tokens = tuple(trace.prompt_ids), tuple(trace.token_ids)
        answer = answers.answer_of(trace)
        return Excerpt(trace.id, self.kind, question, prompt, tokens, trace.text, complete=True, answer=answer)

    def _not_ready(self, trace: TraceView) -> LaconicError:
        have = len(trace.token_ids)
        return InputError(f"trace {trace.id} has not reached its excerpt {self.kind} at {have} tokens: let it go on")

    def _decoder(self, trace: TraceView, engine: TraceEngine | None) -> Decode:
        decode = self.decode or getattr(engine, "decode", None)
        if decode is None:
            raise InputError(
                f"the text of excerpt {self.kind} of trace {trace.id} can't be told from the {len(trace.token_ids)} "
                "tokens that the trace has: give a decoder, or an engine that decodes"
            )
        return decode


@dataclass(frozen=True)
class FirstTokens(Excerpts):
    """The first `count` generated tokens. The text is empty where the engine has no tokenizer."""

    count: int

    @property
    def kind(self) -> str:
        return f"tokens:{self.count}"

    @property
    def most_tokens(self) -> int:
        return self.count

    def ready(self, trace: TraceView) -> bool:
        return len(trace.token_ids) >= self.count or _ended(trace)

    def cut(self, trace: TraceView, question: str, engine: TraceEngine | None = None) -> Excerpt:
        have = len(trace.token_ids)
        if have <= self.count and _ended(trace):
            return self._whole(trace, question)
        if have < self.count:
            raise self._not_ready(trace)
        tokens = trace.token_ids[: self.count]
        text = trace.text if have == self.count else self._decoder(trace, engine)(tokens)
        return self._excerpt(trace, question, tokens, text)


@dataclass(slots=True)
class _Scan:
    """How far a text has been read.

    position: its next unread character; starts, ends: of the words read; hits: which of them are reasoning words; end: of
    the last word that the excerpt needs, once read; tokens: that the trace had when `ready` first said so.
    """

    position: int = 0
    hits: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    end: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class FirstWords(Excerpts):
    """Up to the `count`-th reasoning word, of which each brings the `span` words before and after it.

    A word is what stands between blanks, without the punctuation at its edges. The text is the spans in their order, joined
    where they touch, with an ellipsis between them where they don't; the token ids are all of them up to the end of the last
    span, since a tokenizer's tokens need not end where words do.
    """

    count: int
    span: int
    words: frozenset[str]
    _scans: dict[str, _Scan] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kind(self) -> str:
        return f"words:{self.count}" + (f":{self.span}" if self.span != SPAN else "")

    def ready(self, trace: TraceView) -> bool:
        if _ended(trace):
            return True
        scan = self._scans.setdefault(trace.id, _Scan())
        if scan.end is None:
            if len(trace.token_ids) >= TEXTLESS and not trace.text:
                raise InputError(
                    f"trace {trace.id} has {len(trace.token_ids)} tokens and no text, in which excerpt {self.kind} looks for "
                    "words: make the engine with a tokenizer, or use tokens:K"
                )
            self._read(scan, trace.text, final=False)
            if scan.end is not None:
                scan.tokens = len(trace.token_ids)
        return scan.end is not None

    def cut(self, trace: TraceView, question: str, engine: TraceEngine | None = None) -> Excerpt:
        # Read anew: a detokenizer may have mended the end of the text since.
        scan, text, ended = _Scan(), trace.text, _ended(trace)
        self._read(scan, text, final=ended)
        if ended and (scan.end is None or not text[scan.end :].strip()):
            return self._whole(trace, question)
        if scan.end is None:
            raise self._not_ready(trace)
        tokens, end, seen = trace.token_ids, scan.end, self._scans.get(trace.id)
        try:
            decode = self._decoder(trace, engine)
            # The fewest tokens whose text reaches the end of the last span.
            needed = bisect_left(range(len(tokens)), end, key=lambda n: len(decode(tokens[:n])))
        except LaconicError:
            if seen is None or seen.tokens is None:
                raise
            needed = seen.tokens
        return self._excerpt(trace, question, tokens[:needed], self._spans(scan, text))

    def _read(self, scan: _Scan, text: str, final: bool) -> None:
        """Go on from where the scan stands, over words that a blank (or the end of an ended trace) completes."""
        for match in _WORD.finditer(text, scan.position):
            if match.end() == len(text) and not final:
                return
            index = len(scan.ends)
            scan.starts.append(match.start())
            scan.ends.append(match.end())
            scan.position = match.end()
            if len(scan.hits) < self.count and _EDGES.sub("", match[0]).casefold() in self.words:
                scan.hits.append(index)
            if len(scan.hits) == self.count and index >= scan.hits[-1] + self.span:
                scan.end = match.end()
                return

    def _spans(self, scan: _Scan, text: str) -> str:
        last = len(scan.ends) - 1
        spans: list[tuple[int, int]] = []
        for hit in scan.hits:
            low, high = max(0, hit - self.span), min(last, hit + self.span)
            if spans and low <= spans[-1][1] + 1:
                low = spans.pop()[0]
            spans.append((low, high))
        return _GAP.join(text[scan.starts[low] : scan.ends[high]] for low, high in spans)


@dataclass(frozen=True)
class KeptTokens(Excerpts):
    """The tokens that the compression policy kept, of our own: what the model itself still attends to.

    at: look when so many tokens have been generated, at what the latest compression kept of them; None: right after the
    first compression. Needs an engine that runs a policy.
    """

    at: int | None
    fresh = True

    @property
    def kind(self) -> str:
        return "kept" if self.at is None else f"kept:{self.at}"

    def needs(self) -> Needs:
        return Needs(kept=True)

    def ready(self, trace: TraceView) -> bool:
        if _ended(trace):
            return True
        generated = len(trace.token_ids)
        if self.at is not None:
            return generated >= self.at
        # The newest token's KV has not been computed yet.
        return trace.state == "running" and trace.kv_tokens < len(trace.prompt_ids) + generated - 1

    def cut(self, trace: TraceView, question: str, engine: TraceEngine | None = None) -> Excerpt:
        generated = len(trace.token_ids)
        if _ended(trace) and (self.at is None or generated <= self.at):
            return self._whole(trace, question)
        if self.at is not None and generated < self.at:
            raise self._not_ready(trace)
        if engine is None:
            raise InputError(
                f"excerpt {self.kind} needs the engine that holds the trace, to ask which tokens its compression kept: "
                "give one, or use tokens:K or words:K"
            )
        most = generated if self.at is None else self.at
        held = [position for position in engine.kept(trace.id) if position < most]
        decode = self._decoder(trace, engine)
        text = _GAP.join(decode([trace.token_ids[i] for i in run]).strip() for run in _runs(held))
        return self._excerpt(trace, question, [trace.token_ids[i] for i in held], text)


def _ended(trace: TraceView) -> bool:
    return trace.finish_reason in ("stop", "length")


def _runs(positions: Sequence[int]) -> list[list[int]]:
    """Ascending positions in runs of neighbours."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _count(kind: str, text: str, least: int = 1) -> int:
    whole = text.isascii() and text.isdigit() and len(text) <= 20  # Python refuses to read thousands of digits
    if not (whole and least <= int(text) <= MOST):
        raise InputError(
            f"excerpt {checks.shown(kind)} has {checks.shown(text)} for a count; "
            f"expected a whole number from {least} to {MOST:,}"
        )
    return int(text)
