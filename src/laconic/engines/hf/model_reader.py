"""Tokens run through a model again, to read from them: hidden states, a peek at the answer that would come, what is held.

Shapes: n traces, K tokens, D hidden size times layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic import checks
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import text_config
from laconic.engines.hf.runner import ModelRunner, held_tokens
from laconic.engines.hf.scoring import TokenLookup
from laconic.engines.requests import check_vocabulary
from laconic.errors import InputError

ROWS = 64  # traces read again in one pass


class ModelReader:
    """Reads tokens again: caches compress where decoding compressed. layers: whose hidden states stand side by side."""

    def __init__(self, runner: ModelRunner, tokenizer: PreTrainedTokenizerBase | None, layers: Sequence[int]) -> None:
        self.runner, self.tokenizer, self.layers = runner, tokenizer, layers
        self.tokens_run = 0
        """Tokens that have gone through the model here."""

    @property
    def state_width(self) -> int:
        """D."""
        return len(self.layers) * int(text_config(self.runner.model).hidden_size)

    @torch.inference_mode()
    def states(self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], count: int) -> Tensor:
        """Hidden states of the first `count` tokens of traces of one prompt, float32 [n, count, D], zeros beyond an end.

        Raises InputError for tokens that the model doesn't know, or a prompt without any; so does `probe`.
        """
        self._check_tokens(prompt, tokens)
        parts, run = [], len(prompt)
        with self.runner.bound():
            for start in range(0, len(tokens), ROWS):
                rows = [list(t[:count]) for t in tokens[start : start + ROWS]]
                longest = max(1, *(len(t) for t in rows))
                run += sum(len(t) for t in rows)
                # A shorter trace is filled up with its own last token: nothing before it can see that.
                padded = [t + [t[-1] if t else prompt[-1]] * (longest - len(t)) for t in rows]
                states = self._rebuild(prompt, padded, self.layers)[1]
                assert states is not None
                for row, t in zip(states, rows, strict=True):
                    row[len(t) :] = 0
                parts.append(torch.nn.functional.pad(states, (0, 0, 0, count - longest)))
        self.tokens_run += run
        return torch.cat(parts)

    @torch.inference_mode()
    def probe(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], suffix: str, steps: int
    ) -> tuple[Tensor, int]:
        """`probe_copy` of traces of one prompt whose caches are rebuilt first, those of one length together.

        Returns probabilities, float32 [n, steps, V], and how many tokens went through the model.
        """
        self._check_tokens(prompt, tokens)
        tail = self.suffix_ids(suffix)
        found: list[Tensor | None] = [None] * len(tokens)
        run = 0
        with self.runner.bound():
            for length in sorted({len(t) for t in tokens}):
                alike = [i for i, t in enumerate(tokens) if len(t) == length]
                for start in range(0, len(alike), ROWS):
                    part = alike[start : start + ROWS]
                    if length:
                        cache, _ = self._rebuild(prompt, [tokens[i][:-1] for i in part])
                        newest = [tokens[i][-1] for i in part]
                    else:  # nothing generated yet: the prompt's last token is the newest
                        cache, _ = self._rebuild(prompt[:-1], [[] for _ in part])
                        newest = [prompt[-1]] * len(part)
                    before = len(prompt) + length - 1
                    cache.ledger.freeze()
                    answers = self._answer(cache, [before] * len(part), newest, tail, steps)
                    run += len(part) * (len(tail) + steps) + before + max(length - 1, 0) * (len(part) - 1)
                    for i, answer in zip(part, answers, strict=True):
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
    def held(self, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """bool [compressible layers, g, K]: which tokens each layer holds once all have been fed."""
        with self.runner.bound():
            return held_tokens(self._rebuild(prompt, [tokens])[0], 0, len(tokens))

    def suffix_ids(self, suffix: str) -> list[int]:
        """Token ids of what a probe appends. Raises InputError where there is no tokenizer."""
        if self.tokenizer is None:
            raise InputError("this engine has no tokenizer, so it can't append a text to probe a trace")
        return list(self.tokenizer(suffix, add_special_tokens=False)["input_ids"]) if suffix else []

    def _rebuild(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], layers: Sequence[int] = ()
    ) -> tuple[CompressedCache, Tensor | None]:
        rebuilt = self.runner.rebuild(prompt, tokens, _look_up_in(tokens), limit=max(len(tokens[0]), 1), layers=layers)
        return rebuilt.cache, rebuilt.states

    def _answer(
        self, cache: CompressedCache, positions: Sequence[int], newest: Sequence[int], tail: Sequence[int], steps: int
    ) -> Tensor:
        at = torch.tensor(positions, device=self.runner.device)[:, None]
        feed = torch.tensor(newest, device=self.runner.device)[:, None]
        queue = list(tail)
        found: list[Tensor] = []
        while True:
            logits = self.runner.forward(cache, feed, at)[0]
            at = at + 1
            if queue:
                feed = torch.full_like(feed, queue.pop(0))
                continue
            probabilities = logits.float().softmax(-1)
            found.append(probabilities.cpu())
            if len(found) == steps:
                return torch.stack(found, dim=1)
            feed = probabilities.argmax(-1, keepdim=True)

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
