"""Tokens run through a model again, to read from them: hidden states, a peek at the answer that would come, what is held.

Shapes: n traces, K tokens, D hidden size times layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic import checks
from laconic.answers.extraction import end_of_box
from laconic.engines.base import up_to_brace
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import text_config
from laconic.engines.hf.runner import ModelRunner, held_tokens, sliding_mask
from laconic.engines.hf.scoring import TokenLookup
from laconic.engines.requests import check_vocabulary
from laconic.engines.text import decode
from laconic.errors import InputError

ROWS = 64  # traces read again in one pass


class StandingRows(NamedTuple):
    """Traces as they stand: all but their newest tokens have been fed."""

    rows: list[int]
    """Which of those asked for."""
    cache: CompressedCache
    positions: list[int]
    """Of the newest tokens."""
    newest: list[int]
    run: int
    """Tokens that went through the model for it."""


class ModelReader:
    """Reads tokens again: caches compress where decoding compressed. layers: whose hidden states stand side by side.

    end_ids: tokens that end a text.
    """

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: PreTrainedTokenizerBase | None,
        layers: Sequence[int],
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.runner, self.tokenizer, self.layers, self.end_ids = runner, tokenizer, layers, end_ids
        self.tokens_run = 0
        """Tokens that have gone through the model here."""

    @property
    def state_width(self) -> int:
        """D."""
        return len(self.layers) * int(text_config(self.runner.model).hidden_size)

    @torch.inference_mode()
    def states(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], count: int, keys: Sequence[int] | None = None
    ) -> Tensor:
        """Hidden states of the first `count` tokens of traces of one prompt, float32 [n, count, D], zeros beyond an end.

        keys: of the traces, for policies that draw (`ModelRunner.rebuild`). Raises InputError for tokens that the model doesn't
        know, or a prompt without any; so does `probe`.
        """
        self._check_tokens(prompt, tokens)
        parts, run = [], 0
        with self.runner.bound():
            for start in range(0, len(tokens), ROWS):
                rows = [list(t[:count]) for t in tokens[start : start + ROWS]]
                longest = max(1, *(len(t) for t in rows))
                run += len(prompt) + sum(len(t) for t in rows)
                # A shorter trace is filled up with its own last token: nothing before it can see that.
                padded = [t + [t[-1] if t else prompt[-1]] * (longest - len(t)) for t in rows]
                own = None if keys is None else keys[start : start + ROWS]
                states = self._rebuild(prompt, padded, own, self.layers)[1]
                assert states is not None
                for row, t in zip(states, rows, strict=True):
                    row[len(t) :] = 0
                parts.append(torch.nn.functional.pad(states, (0, 0, 0, count - longest)))
        self.tokens_run += run
        return torch.cat(parts)

    @torch.inference_mode()
    def probe(
        self,
        prompt: Sequence[int],
        tokens: Sequence[Sequence[int]],
        suffix: str,
        steps: int,
        keys: Sequence[int] | None = None,
    ) -> tuple[Tensor, int]:
        """`probe_copy` of traces of one prompt whose caches are rebuilt first, those of one length together.

        keys: see `states`. Returns probabilities, float32 [n, steps, V], and how many tokens went through the model.
        """
        self._check_tokens(prompt, tokens)
        tail = self.suffix_ids(suffix)
        found: list[Tensor | None] = [None] * len(tokens)
        run = 0
        with self.runner.bound():
            for rebuilt in self._rebuilt(prompt, tokens, keys):
                run += rebuilt.run + len(rebuilt.rows) * (len(tail) + steps)
                answers = self._answer(rebuilt.cache, rebuilt.positions, rebuilt.newest, tail, steps)
                for i, answer in zip(rebuilt.rows, answers, strict=True):
                    found[i] = answer
        self.tokens_run += run
        return torch.stack([f for f in found if f is not None]), run

    @torch.inference_mode()
    def probe_copy(
        self, cache: CompressedCache, positions: Sequence[int], newest: Sequence[int], suffix: str, steps: int
    ) -> Tensor:
        """Probabilities, float32 [n, steps, V], of the next `steps` tokens, taken greedily, after `suffix`.

        cache: a fork, used up here. positions: of each row's newest token, which has not been fed yet.
        """
        tail = self.suffix_ids(suffix)
        with self.runner.bound():
            answers = self._answer(cache, positions, newest, tail, steps)
        self.tokens_run += len(newest) * (len(tail) + steps)
        return answers

    @torch.inference_mode()
    def continued(
        self,
        prompt: Sequence[int],
        tokens: Sequence[Sequence[int]],
        suffix: str,
        max_tokens: int,
        until_closed: bool,
        keys: Sequence[int] | None = None,
    ) -> tuple[list[list[int]], int]:
        """`continue_copy` of traces of one prompt whose caches are rebuilt first, and how many tokens went through. keys: see
        `states`."""
        self._check_tokens(prompt, tokens)
        tail = self.suffix_ids(suffix)
        found: list[list[int]] = [[] for _ in tokens]
        run = 0
        with self.runner.bound():
            for rebuilt in self._rebuilt(prompt, tokens, keys):
                at, newest = rebuilt.positions, rebuilt.newest
                texts = self._continue(rebuilt.cache, at, newest, tail, max_tokens, until_closed)
                run += rebuilt.run + sum(len(tail) + len(text) for text in texts)
                for i, text in zip(rebuilt.rows, texts, strict=True):
                    found[i] = text
        self.tokens_run += run
        return found, run

    @torch.inference_mode()
    def continue_copy(
        self,
        cache: CompressedCache,
        positions: Sequence[int],
        newest: Sequence[int],
        suffix: str,
        max_tokens: int,
        until_closed: bool,
    ) -> list[list[int]]:
        """The greedy tokens of each row after `suffix`, max_tokens at most, with the one that ended them.

        cache, positions: as in `probe_copy`. until_closed: a brace that closes one before the text ends it, too.
        """
        tail = self.suffix_ids(suffix)
        with self.runner.bound():
            texts = self._continue(cache, positions, newest, tail, max_tokens, until_closed)
        self.tokens_run += sum(len(tail) + len(text) for text in texts)
        return texts

    def text_of(self, tokens: Sequence[int], until_closed: bool) -> str:
        """The text of what `continue_copy` gives: without an end token and what follows the brace."""
        text = decode(self.tokenizer, [token for token in tokens if token not in self.end_ids])
        return up_to_brace(text) if until_closed else text

    @torch.inference_mode()
    def held(self, prompt: Sequence[int], tokens: Sequence[int], key: int | None = None) -> Tensor:
        """bool [compressible layers, g, K]: which tokens each layer holds once all have been fed. key: see `states`."""
        with self.runner.bound():
            cache, _ = self._rebuild(prompt, [tokens], None if key is None else [key])
            return held_tokens(cache, 0, len(tokens))

    def suffix_ids(self, suffix: str) -> list[int]:
        """Token ids of what a probe appends. Raises InputError where there is no tokenizer."""
        if not suffix:
            return []
        if self.tokenizer is None:
            raise InputError("this engine has no tokenizer, so it can't append a text to probe a trace")
        return list(self.tokenizer(suffix, add_special_tokens=False)["input_ids"])

    def _rebuild(
        self,
        prompt: Sequence[int],
        tokens: Sequence[Sequence[int]],
        keys: Sequence[int] | None,
        layers: Sequence[int] = (),
    ) -> tuple[CompressedCache, Tensor | None]:
        most = max(len(tokens[0]), 1)
        rebuilt = self.runner.rebuild(prompt, tokens, _look_up_in(tokens), keys=keys, limit=most, layers=layers)
        return rebuilt.cache, rebuilt.states

    def _rebuilt(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], keys: Sequence[int] | None
    ) -> Iterator[StandingRows]:
        """The traces' caches as decoding left them, frozen; those of one length together."""
        for length in sorted({len(t) for t in tokens}):
            alike = [i for i, t in enumerate(tokens) if len(t) == length]
            for start in range(0, len(alike), ROWS):
                part = alike[start : start + ROWS]
                own = None if keys is None else [keys[i] for i in part]
                if length:
                    cache, _ = self._rebuild(prompt, [tokens[i][:-1] for i in part], own)
                    newest = [tokens[i][-1] for i in part]
                elif len(prompt) < 2:
                    raise InputError(
                        "a trace that has generated nothing is probed from its prompt's last token on, and there is nothing "
                        "before it: the prompt has one token; probe it once it has begun, or give a longer prompt"
                    )
                else:  # nothing generated yet: the prompt's last token is the newest
                    cache, _ = self._rebuild(prompt[:-1], [[] for _ in part], own)
                    newest = [prompt[-1]] * len(part)
                before = len(prompt) + length - 1
                cache.ledger.freeze()
                run = before + max(length - 1, 0) * (len(part) - 1)
                yield StandingRows(part, cache, [before] * len(part), newest, run)

    def _answer(
        self, cache: CompressedCache, positions: Sequence[int], newest: Sequence[int], tail: Sequence[int], steps: int
    ) -> Tensor:
        logits = self._append(cache, positions, newest, tail)
        found: list[Tensor] = []
        while True:
            probabilities = logits.float().softmax(-1)
            found.append(probabilities.cpu())
            if len(found) == steps:
                return torch.stack(found, dim=1)
            at = [position + len(tail) + len(found) for position in positions]
            logits = self._feed(cache, at, probabilities.argmax(-1)[:, None])

    def _continue(
        self,
        cache: CompressedCache,
        positions: Sequence[int],
        newest: Sequence[int],
        tail: Sequence[int],
        most: int,
        until_closed: bool,
    ) -> list[list[int]]:
        """Rows whose text is over leave the cache, so that nothing is run for them."""
        texts: list[list[int]] = [[] for _ in newest]
        rows = list(range(len(newest)))  # those that go on, in the cache's order
        logits = self._append(cache, positions, newest, tail)
        while True:
            for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                texts[row].append(token)
            over = [i for i, row in enumerate(rows) if self._is_over(texts[row], most, until_closed)]
            if len(over) == len(rows):
                return texts
            if over:
                rows = [rows[i] for i in cache.remove_rows(over)]
            at = [positions[row] + len(tail) + len(texts[row]) for row in rows]
            feed = torch.tensor([[texts[row][-1]] for row in rows], device=self.runner.device)
            logits = self._feed(cache, at, feed)

    def _is_over(self, tokens: Sequence[int], most: int, until_closed: bool) -> bool:
        if len(tokens) >= most or tokens[-1] in self.end_ids:
            return True
        return until_closed and end_of_box(decode(self.tokenizer, tokens)) is not None

    def _append(
        self, cache: CompressedCache, positions: Sequence[int], newest: Sequence[int], tail: Sequence[int]
    ) -> Tensor:
        """The logits [n, V] after each row's newest token and the tail.

        In one pass where all layers are ours; sliding and linear ones of transformers get a token at a time, as in decoding.
        """
        tokens = torch.tensor([[token, *tail] for token in newest], device=self.runner.device)
        if not cache.left_alone:
            return self._feed(cache, positions, tokens)
        for step in range(tokens.shape[1]):
            logits = self._feed(cache, [position + step for position in positions], tokens[:, step : step + 1])
        return logits

    def _feed(self, cache: CompressedCache, positions: Sequence[int], tokens: Tensor) -> Tensor:
        """tokens: [n, q]; positions: of each row's first. The logits [n, V] after the last."""
        at = torch.tensor(positions, device=self.runner.device)[:, None]
        at = at + torch.arange(tokens.shape[1], device=self.runner.device)
        width = cache.ledger.logical_length + tokens.shape[1]
        return self.runner.forward(cache, tokens, at, sliding_mask(cache, positions, width, self.runner.device))[0]

    def _check_tokens(self, prompt: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        if not prompt:
            raise InputError("a recorded trace has no prompt_ids, so nothing of it can be run again; collect it anew")
        vocabulary = text_config(self.runner.model).vocab_size
        check_vocabulary(prompt, vocabulary)
        for tokens in token_lists:
            if tokens:
                check_vocabulary(tokens, vocabulary, "a trace")


def check_layers(model: PreTrainedModel, record_states: int, layers: Sequence[int]) -> None:
    """InputError for layers whose hidden states the model doesn't have, or a count that is none."""
    checks.whole("record_states", record_states, 0, meaning="tokens; 0 is off")
    layers = checks.wholes("state_layers", layers, -checks.MOST, meaning="indices of hidden states")
    most = text_config(model).num_hidden_layers
    wrong = [layer for layer in layers if not -most - 1 <= layer <= most]
    if wrong or not layers:
        raise InputError(f"state_layers is {tuple(layers)}; expected indices from {-most - 1} to {most}, at least one")


def _look_up_in(tokens: Sequence[Sequence[int]]) -> TokenLookup:
    """Row i's tokens are tokens[i]."""
    table = torch.tensor([list(t) for t in tokens], dtype=torch.long)
    return lambda numbers: table[torch.tensor(numbers)]
