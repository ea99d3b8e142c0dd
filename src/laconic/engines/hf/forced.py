"""Recorded traces fed to a model as they stand, whatever it would have drawn: teacher forcing under a policy.

Shapes: n traces, q tokens a trace and pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic import checks
from laconic.compress import FullKV, Policy
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.left_alone import check_rows
from laconic.engines.hf.models import context_length, text_config
from laconic.engines.hf.rotation import check_rotation
from laconic.engines.hf.runner import ModelRunner, sliding_mask
from laconic.engines.requests import check_goes_by_counts, check_length, check_vocabulary
from laconic.errors import InputError

PASS_TOKENS = 1024
"""Tokens of all rows that go through the model at once: enough for its matrices, and little memory."""


class ForcedTraces:
    """Recorded traces as the rows of one cache. Prompts of one text go through the model once; rows are joined as the engine's.

    All rows are fed in step. A trace that ends before the longest is filled up with its own last token: nothing before it can
    see that, and whoever reads must leave it out. The caller binds the model (`AttentionBinding`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Feeds the prompts. tokens: generated ones, at least one a trace. numbers: of the traces, for policies that look at
        tokens or draw (default: 0, 1, ...). Raises InputError for tokens that the model doesn't know or has no room for.
        """
        check_traces(model, prompts, tokens)
        self.runner = ModelRunner(model, FullKV())
        self.prompts = [len(prompt) for prompt in prompts]
        self.lengths = [len(trace) for trace in tokens]
        """Generated tokens of each trace."""
        self.longest = max(self.lengths)
        self.numbers = list(range(len(tokens)) if numbers is None else numbers)
        self.fed = 0
        """Generated tokens of each row that have gone through the model."""
        filled = [list(trace) + [trace[-1]] * (self.longest - len(trace)) for trace in tokens]
        self.tokens = torch.tensor(filled, dtype=torch.long)
        """long [n, longest], on the CPU."""
        self.cache, self.logits = self._prefill(prompts)

    @torch.inference_mode()
    def under(self, policy: Policy) -> ForcedTraces:
        """The same traces, of which nothing but the prompts has been fed, from here on under another policy."""
        check_goes_by_counts(policy, "a recorded trace that is fed as it stands")
        twin = object.__new__(ForcedTraces)
        twin.__dict__.update(self.__dict__)
        twin.cache = self.cache.under(policy)
        twin.cache.set_token_lookup(self._look_up)
        return twin

    def piece(self, end: int, most: int | None = None) -> int:
        """How many tokens a row the next pass may feed on the way to `end`: no compression point is crossed, and no more than
        `most` are fed (None: so many that all rows' come to PASS_TOKENS)."""
        most = max(1, PASS_TOKENS // len(self.lengths)) if most is None else most
        ahead = self.cache.ledger.tokens_to_compression()
        return min(end - self.fed, most, *(() if ahead is None else (ahead,)))

    @torch.inference_mode()
    def feed(self, count: int) -> None:
        """Feed every row's next `count` tokens, at most `piece`."""
        self.runner.forward(self.cache, *self._next(count))
        self.fed += count

    @torch.inference_mode()
    def feed_for_logits(self, count: int) -> Tensor:
        """As `feed`; returns the logits after each token, [n, count, V]: mind their size."""
        logits = self.runner.all_logits(self.cache, *self._next(count))
        self.fed += count
        return logits

    def _next(self, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens and positions, long [n, count], and the mask of sliding layers."""
        device = self.runner.device
        lengths = [prompt + self.fed for prompt in self.prompts]
        positions = torch.tensor(lengths, device=device)[:, None] + torch.arange(count, device=device)
        mask = sliding_mask(self.cache, lengths, self.cache.ledger.logical_length + count, device)
        return self.tokens[:, self.fed : self.fed + count].to(device), positions, mask

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[CompressedCache, Tensor]:
        """The prompts' cache, and the logits after each, [n, V]."""
        whole: CompressedCache | None = None
        found, row = [], 0
        while row < len(prompts):
            alike = row + 1
            while alike < len(prompts) and prompts[alike] == prompts[row]:
                alike += 1
            cache, logits = self._prefill_one(prompts[row], spare_rows=len(prompts) if whole is None else 0)
            if alike - row > 1:
                cache.batch_repeat_interleave(alike - row)
            found.append(logits.expand(alike - row, -1))
            if whole is None:
                whole = cache
            else:
                whole.append_rows(cache)
            row = alike
        assert whole is not None
        for slots, number in zip(whole.ledger.rows, self.numbers, strict=True):
            slots.number, slots.limit = number, self.longest
        whole.set_token_lookup(self._look_up)
        return whole, torch.cat(found)

    def _prefill_one(self, prompt: Sequence[int], spare_rows: int) -> tuple[CompressedCache, Tensor]:
        # No room for what will be generated: each policy's copy makes its own.
        config = text_config(self.runner.model)
        cache = CompressedCache(config, FullKV(), prompt=len(prompt), limit=1, spare_rows=spare_rows)
        logits = None
        for start in range(0, len(prompt), PASS_TOKENS):
            logits, _ = self.runner.forward(cache, [list(prompt[start : start + PASS_TOKENS])])
        assert logits is not None
        return cache, logits

    def _look_up(self, numbers: list[int]) -> Tensor:
        at = {number: row for row, number in enumerate(self.numbers)}
        return self.tokens[[at[number] for number in numbers]]


def check_traces(model: PreTrainedModel, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> None:
    """InputError for no traces, prompts and traces that are not equally many, or one that the model can't be fed."""
    if not tokens or len(prompts) != len(tokens):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(tokens)} traces; expected one prompt a trace, at least one"
        )
    check_rows(CompressedCache(text_config(model), FullKV()).layers)
    vocabulary, context = text_config(model).vocab_size, context_length(model)
    for number, (prompt, trace) in enumerate(zip(prompts, tokens, strict=True)):
        for name, ids in (("prompts", prompt), ("tokens", trace)):
            checks.wholes(f"{name}[{number}]", ids, 0, meaning="token ids")
        check_length(len(prompt), context)
        if not len(trace):
            raise InputError(f"trace {number} has no generated tokens; leave it out")
        check_vocabulary(prompt, vocabulary)
        check_vocabulary(trace, vocabulary, "a trace")
        check_rotation(model, len(prompt), len(trace), mixed=True)
        if context is not None and len(prompt) + len(trace) > context:
            raise InputError(
                f"trace {number} has {len(prompt) + len(trace)} tokens with its prompt, but the model's context is {context}: "
                "cut it"
            )
