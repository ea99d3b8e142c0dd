"""Excerpts against slow readings of the whole text, and however the text comes in."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import pytest

from laconic.errors import LaconicError
from laconic.prune import excerpts
from laconic.prune.excerpts import REASONING_WORDS, SPAN, parse
from tests.prune.scripted import ScriptedEngine


@dataclass
class View:
    """A trace whose token i is a letter, a blank or a dot of `script`."""

    script: str
    id: str = "t"
    index: int = 0
    prompt_ids: tuple[int, ...] = (1, 2, 3)
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    confidences: list[float] = field(default_factory=list)
    state: str = "running"
    finish_reason: str | None = None
    thinking: bool = False
    kv_tokens: int = 0

    def go(self, tokens: int) -> View:
        """So many more tokens, or to the end."""
        self.text = self.script[: len(self.text) + tokens]
        self.token_ids = [ord(c) for c in self.text]
        self.kv_tokens = len(self.prompt_ids) + max(len(self.text) - 1, 0)
        if self.text == self.script:
            self.state, self.finish_reason = "finished", "stop"
        return self


def decode(tokens):
    return "".join(map(chr, tokens))


class Holder(ScriptedEngine):
    """The engine's part: what was kept, and text from tokens."""

    def __init__(self, kept=()):
        super().__init__([])
        self.positions = list(kept)

    def kept(self, trace_id):
        return self.positions

    def decode(self, token_ids):
        return decode(token_ids)


def whole(script, **more):
    return View(script, **more).go(len(script))


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_first_tokens():
    cut = parse("tokens:5")
    view = View("abcdefghij").go(4)
    assert not cut.ready(view)
    with pytest.raises(LaconicError, match=r"trace t has not reached its excerpt tokens:5 at 4 tokens: let it go on"):
        cut.cut(view, "why?")
    assert cut.ready(view.go(1))
    excerpt = cut.cut(view, "why?")
    assert (excerpt.trace_id, excerpt.kind, excerpt.question) == ("t", "tokens:5", "why?")
    assert (excerpt.prompt_ids, excerpt.token_ids, excerpt.text) == ((1, 2, 3), tuple(b"abcde"), "abcde")
    assert (excerpt.complete, excerpt.answer) == (False, None)


def test_tokens_beyond_the_excerpt_are_left_out_or_refused():
    view = View("abcdefghij").go(7)
    for made, source in ((parse("tokens:5", decode), None), (parse("tokens:5"), Holder())):
        excerpt = made.cut(view, "", source)
        assert (excerpt.token_ids, excerpt.text) == (tuple(b"abcde"), "abcde")
    with pytest.raises(
        LaconicError, match=r"can't be told from the 7 tokens.*: give a decoder, or an engine that decod"
    ):
        parse("tokens:5").cut(view, "")
    ended = parse("tokens:5", decode).cut(view.go(3), "")
    assert (ended.text, ended.complete) == ("abcde", False)


@pytest.mark.parametrize("kind", ["tokens:40", "tokens:14", "words:3", "words:3:0", "kept", "kept:40"])
def test_a_trace_that_ends_within_its_excerpt_is_itself(kind):
    view = whole(r"so \boxed{ 7 }")
    assert len(view.token_ids) == 14
    assert parse(kind).ready(view)
    excerpt = parse(kind).cut(view, "q")
    assert (excerpt.complete, excerpt.answer, excerpt.text) == (True, "7", view.text)
    assert excerpt.token_ids == tuple(view.token_ids)
    assert parse(kind).cut(whole("so on"), "q").answer is None


# ---- words ----------------------------------------------------------------------------------------------------------


def slow_words(text, count, span, words):
    """(text of the spans, end of the last) of a text that is all there, by looking at every word."""
    found = [(m.start(), m.end(), m[0].strip(".,!?:;()\"'*").lower()) for m in re.finditer(r"\S+", text)]
    hits = [i for i, (_, _, word) in enumerate(found) if word in words][:count]
    if len(hits) < count or hits[-1] + span >= len(found):
        return None
    wanted = sorted({i for hit in hits for i in range(max(0, hit - span), hit + span + 1)})
    pieces, before = [], None
    for i in wanted:
        if before is None:
            pieces.append(text[found[i][0] : found[i][1]])
        elif i == before + 1:
            pieces[-1] += text[found[before][1] : found[i][1]]
        else:
            pieces.append(text[found[i][0] : found[i][1]])
        before = i
    return " … ".join(pieces), found[hits[-1] + span][1]


def prose(seed, words=60):
    draw = random.Random(seed)
    stock = ["x", "plus", "Wait,", "so", "(thus)", "7", "foo.", "then", "sofa", "waiting", "*since*", "y=3"]
    return "".join(draw.choice(stock) + draw.choice([" ", "\n", "  "]) for _ in range(words)) + "bar"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "span"), [(1, 0), (3, 2), (5, 4), (8, SPAN)])
def test_words_are_those_of_a_slow_reading_however_the_text_comes(seed, count, span):
    text = prose(seed)
    want = slow_words(text, count, span, {"wait", "so", "thus", "then", "since"})
    for step in (1, 2, 7, 1000):
        cut, view = parse(f"words:{count}:{span}", decode), View(text)
        while not cut.ready(view):
            view.go(step)
        excerpt = cut.cut(view, "")
        if want is None or not text[want[1] :].strip():
            assert (excerpt.complete, excerpt.text) == (True, text)
        else:
            assert (excerpt.text, excerpt.complete) == (want[0], False)
            assert excerpt.token_ids == tuple(map(ord, text[: want[1]]))
            if step == 1:  # a word has ended when the blank after it is there
                assert len(view.text) == want[1] + 1


def test_words_of_a_trace_that_is_read_as_it_comes_need_no_decoder():
    text = "a so b c d thus e f g h"
    cut, view = parse("words:2:1"), View(text)
    while not cut.ready(view):
        view.go(1)
    excerpt = cut.cut(view, "")
    assert excerpt.text == "a so b … d thus e"
    assert excerpt.token_ids == tuple(map(ord, "a so b c d thus e "))
    with pytest.raises(LaconicError, match="give a decoder"):
        parse("words:2:1").cut(whole(text), "")


def test_an_engine_that_gives_no_text_has_no_words():
    view = View("so it is " * 20).go(64)
    view.text = ""
    with pytest.raises(
        LaconicError, match="trace t has 64 tokens and no text, in which excerpt words:2 looks for words"
    ):
        parse("words:2").ready(view)


def test_an_engine_that_can_not_decode_is_no_obstacle_where_the_tokens_were_counted():
    class Deaf(Holder):
        def decode(self, token_ids):
            raise LaconicError("no tokenizer")

    text = "a so b c d thus e f g h"
    cut, view = parse("words:2:1"), View(text)
    while not cut.ready(view):
        view.go(1)
    assert cut.cut(view, "", Deaf()).text == "a so b … d thus e"
    with pytest.raises(LaconicError, match="no tokenizer"):
        parse("words:2:1").cut(view, "", Deaf())


def test_ready_reads_no_character_twice(monkeypatch):
    read = []

    class Words:
        def finditer(self, text, start):
            read.append(len(text) - start)
            return re.compile(r"\S+").finditer(text, start)

    monkeypatch.setattr(excerpts, "_WORD", Words())
    cut, view = parse("words:400"), View("so it is " * 200)
    while view.state == "running":
        cut.ready(view.go(1))
    assert max(read) <= 4  # what came since the last complete word


def test_the_list_of_words_can_be_another():
    text = "a so b foo c d e f"
    assert parse("words:1:0").cut(whole(text), "", Holder()).text == "so"
    assert parse("words:1:0", words=["Foo"]).cut(whole(text), "", Holder()).text == "foo"
    with pytest.raises(LaconicError, match="list of reasoning words is empty"):
        parse("words:1", words=[])
    assert {"wait", "thus", "since"} <= REASONING_WORDS
    assert all(word == word.casefold().strip() for word in REASONING_WORDS)


def test_words_not_reached_yet():
    with pytest.raises(LaconicError, match="not reached its excerpt words:25 at 4 tokens"):
        parse("words:25").cut(View("so, on and on").go(4), "")


# ---- kept -----------------------------------------------------------------------------------------------------------


def test_kept_at_the_first_compression():
    cut, view = parse("kept"), View("abcdefghijkl").go(8)
    assert not cut.ready(view)
    view.kv_tokens = 7
    assert cut.ready(view)
    excerpt = cut.cut(view, "", Holder([0, 1, 4, 6, 7]))
    assert (excerpt.token_ids, excerpt.text) == (tuple(b"abegh"), "ab … e … gh")
    view.state, view.kv_tokens = "stopped", 0
    assert not cut.ready(view)  # a stopped trace holds nothing, compressed or not


def test_kept_at_a_count_leaves_out_what_came_later():
    cut, view = parse("kept:6"), View("abcdefghijkl").go(5)
    assert not cut.ready(view)
    with pytest.raises(LaconicError, match="not reached its excerpt kept:6"):
        cut.cut(view, "", Holder([0]))
    assert cut.ready(view.go(3))
    excerpt = cut.cut(view, "", Holder([0, 2, 3, 6, 7]))
    assert (excerpt.kind, excerpt.token_ids, excerpt.text) == ("kept:6", tuple(b"acd"), "a … cd")
    with pytest.raises(LaconicError, match=r"needs the engine that holds the trace.*use tokens:K or words:K"):
        cut.cut(view, "")


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tokens:500", "words:25", "words:25:3", "words:25:0", "kept", "kept:160"])
def test_a_kind_is_read_back(kind):
    assert parse(kind).kind == kind


def test_the_default_span_is_not_said():
    assert parse(f"words:25:{SPAN}").kind == "words:25"


@pytest.mark.parametrize("kind", ["", "sentences:3", "tokens", "words", "tokens:5:6", "words:1:2:3", "kept:1:2"])
def test_unknown_kinds_list_the_known(kind):
    with pytest.raises(
        LaconicError, match=r"is unknown; expected one of tokens:K, words:K, words:K:SPAN, kept, kept:K"
    ):
        parse(kind)


@pytest.mark.parametrize(
    "kind",
    ["tokens:0", "tokens:-1", "tokens:five", "words:2.5", "words:3:-1", "kept:0", "tokens:²", f"tokens:{'9' * 5000}"],
)
def test_counts_out_of_range(kind):
    with pytest.raises(LaconicError, match=r"for a count; expected a whole number from [01] to 1,000,000"):
        parse(kind)
