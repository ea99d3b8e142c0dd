"""What a language model is asked of two traces: one question, as tokens, whose answer is one of two tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from laconic import checks
from laconic.checks import whole, word
from laconic.engines.chat import apply_template
from laconic.errors import InputError
from laconic.prune.judge import Excerpt

TEMPLATE = """Two attempts at one problem were cut off before their end. Judge from what they have worked out so far whether \
both would arrive at the same final answer.

Problem:
{question}

Attempt A:
{first}

Attempt B:
{second}

Would both attempts arrive at the same final answer? Reply with one word, {same} or {different}."""
GAP = " [...] "  # where an excerpt was cut
_PLACES = re.compile(r"\{(question|first|second|same|different)\}")
_PLAIN = "\n\nReply:"  # what a model without a chat template continues
MOST_ROWS = 64  # of a batch: each brings logits of the whole vocabulary


@dataclass(frozen=True, slots=True)
class LLMJudgeSettings:
    """How a language model is asked. Raises InputError for a field that can't be what it says."""

    template: str = TEMPLATE
    """The user's message, with the places {first} and {second}, and if wanted {question}, {same} and {different}."""
    same: str = "Yes"
    """The answer for traces that will agree: one token where the model's turn begins."""
    different: str = "No"
    """The answer for traces that won't: one token as well."""
    both_orders: bool = False
    """Ask (a, b) and (b, a) and average the probabilities, at twice the cost."""
    max_tokens: int | None = None
    """Of a prompt; None is the model's context."""
    overlong: Literal["refuse", "cut"] = "refuse"
    """What becomes of a pair whose prompt is longer than that: "refuse", or "cut" the middle out of the longer excerpt (of
    both, where each takes more than half)."""
    batch_tokens: int = 16384
    """Of a forward pass, padding included; a longer prompt runs alone."""
    share_prefix: bool = True
    """Compute once what the prompts of pairs with the same first trace have in common."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        for name in ("both_orders", "share_prefix"):
            checks.flag(name, getattr(self, name))
        for place in ("{first}", "{second}"):
            if not isinstance(self.template, str) or place not in self.template:
                raise InputError(
                    f"template is {checks.shown(self.template)}; expected a text with the places {{first}} and {{second}}"
                )
        for field in ("same", "different"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise checks.input_error(field, value, "the answer's word")
        if self.max_tokens is not None:
            whole("max_tokens", self.max_tokens, 1, meaning="of a prompt")
        word("overlong", self.overlong, ("refuse", "cut"))
        whole("batch_tokens", self.batch_tokens, 1, meaning="of a forward pass")

    def message(self, question: str, first: str, second: str) -> str:
        """The template with all its places filled."""
        values = {
            "question": question,
            "first": first,
            "second": second,
            "same": self.same,
            "different": self.different,
        }
        # In one pass: a trace that has "{second}" in it stays as it is.
        return _PLACES.sub(lambda place: values[place[1]], self.template)


def check_excerpt(excerpt: Excerpt, kind: str | None) -> None:
    """InputError for an excerpt of another kind than a judge was trained for (None: any), or one of tokens alone."""
    if kind is not None and excerpt.kind != kind:
        raise InputError(
            f"The judge was trained for excerpts {kind}, not {excerpt.kind}: cut those, or use another judge"
        )
    if excerpt.token_ids and not excerpt.text:
        raise InputError(
            f"The excerpt of trace {excerpt.trace_id!r} has no text; the LLM judge reads text: give the engine a tokenizer"
        )


class OfProblem(Protocol):
    """What is read of a trace."""

    @property
    def trace_id(self) -> str: ...

    @property
    def question(self) -> str: ...


def check_one_problem(a: OfProblem, b: OfProblem) -> None:
    """InputError for two traces of different problems."""
    if a.question != b.question:
        raise InputError(
            f"Traces {a.trace_id!r} and {b.trace_id!r} are of different problems; a judge compares traces of one problem"
        )


class Prompts:
    """Pairs of texts as prompts of one model.

    limit: the longest prompt in tokens (None: any). Raises InputError where the two answers aren't one token each, or
    are the same one.
    """

    def __init__(self, tokenizer: Any, settings: LLMJudgeSettings, limit: int | None = None) -> None:
        self.tokenizer, self.settings, self.limit = tokenizer, settings, limit
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self._special = [token for token in tokenizer.all_special_tokens if token]
        self.same, self.different = self._answers()

    def clean(self, text: str) -> str:
        """A text without the tokenizer's special tokens, which could end the user's turn in the middle of it."""
        for token in self._special:
            text = text.replace(token, " ")
        return text

    def ids(self, question: str, first: str, second: str) -> list[int]:
        """The prompt's tokens. Raises InputError for one that is too long, as the settings say."""
        found = self._tokens(self._text(question, first, second))
        if self.limit is None or len(found) <= self.limit:
            return found
        if self.settings.overlong == "refuse":
            raise InputError(
                f"The judge's prompt takes {len(found)} tokens; its limit is {self.limit}: use shorter excerpts, or "
                'overlong="cut"'
            )
        return self._cut(question, first, second)

    def _cut(self, question: str, first: str, second: str) -> list[int]:
        a, b = self._plain(first), self._plain(second)
        assert self.limit is not None
        # Tokens merge otherwise at the edges of a cut, so what is left is measured, and cut again if need be.
        room = self.limit - len(self._tokens(self._text(question, "", "")))
        while room > 0:
            half = room // 2
            most_a = min(len(a), max(half, room - len(b)))
            texts = self._middle_out(first, a, most_a), self._middle_out(second, b, room - most_a)
            found = self._tokens(self._text(question, *texts))
            if len(found) <= self.limit:
                return found
            room -= len(found) - self.limit
        raise InputError(
            f"The judge's prompt without its excerpts leaves no room in {self.limit} tokens: use a shorter template or a model "
            "with a longer context"
        )

    def _middle_out(self, text: str, ids: list[int], most: int) -> str:
        """The text whole if it has at most `most` tokens, else its beginning and its end."""
        if len(ids) <= most:
            return text
        head = most // 2
        tail = most - head
        return self.tokenizer.decode(ids[:head]) + GAP + self.tokenizer.decode(ids[len(ids) - tail :])

    def _text(self, question: str, first: str, second: str) -> str:
        content = self.settings.message(question, first, second)
        if not self.chat:
            return content + _PLAIN
        # Templates that know `enable_thinking` leave no room for thoughts; the others don't look.
        return apply_template(self.tokenizer, [{"role": "user", "content": content}], enable_thinking=False)

    def _tokens(self, text: str) -> list[int]:
        # A chat template writes its own special tokens.
        return list(self.tokenizer(text, add_special_tokens=not self.chat, verbose=False)["input_ids"])

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _answers(self) -> tuple[int, int]:
        """The two tokens, found by what a prompt that ends in them adds to one that doesn't."""
        words = self.settings.same, self.settings.different
        text = self._text("1 + 1 ?", "2", "3")
        before = self._tokens(text)
        # A model's turn begins at once in most chat templates, and with a blank in plain text.
        for joint in ("", " ") if self.chat else (" ", ""):
            after = [self._tokens(text + joint + answer) for answer in words]
            added = [ids[len(before) :] for ids in after if ids[: len(before)] == before]
            if len(added) == 2 and all(len(ids) == 1 for ids in added) and added[0] != added[1]:
                unknown = getattr(self.tokenizer, "unk_token_id", None)
                if unknown is None or unknown not in (added[0][0], added[1][0]):
                    return added[0][0], added[1][0]
        raise InputError(
            f"The answers {words[0]!r} and {words[1]!r} don't begin with two different tokens of their own in the judge "
            "model's vocabulary; expected two words of one token each: choose others (settings same and different)"
        )


def batches_by_length(
    prompts: Sequence[Sequence[int]], indices: Iterable[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Indices of prompts in batches of about one length, each of at most batch_tokens with its padding, or of one prompt."""
    batch: list[int] = []
    for i in sorted(indices, key=lambda i: len(prompts[i])):  # so that the newest is the longest
        if batch and (len(batch) == MOST_ROWS or (len(batch) + 1) * len(prompts[i]) > batch_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def common_prefix_length(prompts: Iterable[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    listed = [list(prompt) for prompt in prompts]
    low, high = min(listed), max(listed)  # what the first and the last in order share, all in between share
    most = min(map(len, listed)) - 1
    return next((i for i in range(most) if low[i] != high[i]), most)
