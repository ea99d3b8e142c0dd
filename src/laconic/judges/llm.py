"""The judge of the DeepPrune paper: a language model is asked whether two traces will agree; its probabilities of the two
answer tokens are compared."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from laconic.engines.hf import load
from laconic.engines.hf.models import cache_argument, context_length
from laconic.errors import InputError
from laconic.files import name_write_errors
from laconic.fingerprint import fingerprint
from laconic.judges.adapters import LoRA, add_adapter, load_adapter
from laconic.judges.counted import CountedJudge
from laconic.judges.llm_description import LLMJudgeDescription, quiet, read_description, write_description
from laconic.judges.prompts import (
    LLMJudgeSettings,
    Prompts,
    batches_by_length,
    check_excerpt,
    check_one_problem,
    common_prefix_length,
)
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine

LEAST_SHARED = 16  # tokens: below, a pass of its own for a common prefix costs more than it saves
SHAREABLE = {"full_attention", "sliding_attention"}  # layers whose cache is keys and values and can be copied


@dataclass(frozen=True, slots=True)
class CleanExcerpt:
    """What the model is asked about one trace: texts without the tokenizer's special tokens."""

    trace_id: str
    question: str
    """The problem's."""
    text: str
    """The excerpt's."""


class LLMJudge(CountedJudge):
    """P(same) from a causal language model: the softmax over the logits of its two answer tokens.

    model, tokenizer: any decoder of transformers. settings: what it is asked, see LLMJudgeSettings. excerpt: the kind that
    it was trained for (None: any). base: the model's name or directory, for who loads an adapter. A judge is zero-shot
    unless it was opened from what a training saved. Without `both_orders`, P(a, b) and P(b, a) differ.

    Prompts run in batches padded on the right, which a causal model doesn't attend to, and their logits are taken where they
    end: that needs no mask, and shifts no position. Tokens are counted without padding; a prefix that several prompts share
    counts once.

    Raises InputError for answer words that aren't two different tokens, or an excerpt of another kind than it was trained
    for, or without text; a prompt longer than the model reads is refused or cut, as the settings say.
    """

    name = "llm"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: LLMJudgeSettings | None = None,
        excerpt: str | None = None,
        base: str = "",
    ) -> None:
        super().__init__()
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.tokenizer, self.excerpt = tokenizer, excerpt
        self.base = base or str(getattr(model.config, "name_or_path", ""))
        self.settings = settings if settings is not None else LLMJudgeSettings()
        stated = [n for n in (context_length(model), self.settings.max_tokens) if n is not None]
        self.prompts = Prompts(tokenizer, self.settings, min(stated, default=None))
        known = inspect.signature(model.forward).parameters
        self._selects_logits = "logits_to_keep" in known
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
        self._shares_prefixes = (
            self.settings.share_prefix and cache_argument(model) in known and set(kinds) <= SHAREABLE
        )
        self._lora: LoRA | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        settings: LLMJudgeSettings | None = None,
        excerpt: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Self:
        """A judge from a model's directory or its name on the Hub (`THU-KEG/DeepPrune-Judge-4B`), from what `save` wrote, or
        from a file `NAME.json` that says which model is asked and how (`llm_description.LLMJudgeDescription`).

        What was saved has its settings and its excerpt; settings given win, but for another template or other answers,
        which are refused. device, dtype: as `laconic.engines.hf.load` takes them, which also says what it raises.
        """
        place = Path(name)
        saved = read_description(place)
        base = str(place.resolve()) if place.is_dir() else str(name)  # an adapter must find it from elsewhere, too
        weights = base
        if saved is not None:
            settings, excerpt = saved.merge(settings, excerpt)
            base = saved.base
            if saved.lora is not None or place.is_file():
                weights = base
        model, tokenizer = load(weights, dtype, device)
        judge = cls(model, tokenizer, settings, excerpt, base)
        if saved is not None and saved.lora is not None:
            judge.model = add_adapter(model, saved.lora)
            judge._lora = saved.lora
            judge.model.requires_grad_(False)
            load_adapter(judge.model, place.parent if place.is_file() else place)
        judge.model.eval()
        return judge

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    # ---- judging --------------------------------------------------------------------------------------------------

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[CleanExcerpt]:
        return [self._clean_excerpt(excerpt) for excerpt in excerpts]

    def _clean_excerpt(self, excerpt: Excerpt) -> CleanExcerpt:
        check_excerpt(excerpt, self.excerpt)
        return CleanExcerpt(excerpt.trace_id, self.prompts.clean(excerpt.question), self.prompts.clean(excerpt.text))

    @torch.inference_mode()
    def _compare(self, pairs: Sequence[tuple[CleanExcerpt, CleanExcerpt]]) -> list[float]:
        asked = [*pairs, *((b, a) for a, b in pairs)] if self.settings.both_orders else pairs
        probabilities = self._judging_log_odds(asked).double().sigmoid()
        if self.settings.both_orders:
            probabilities = probabilities.view(2, -1).mean(dim=0)
        return [float(p) for p in probabilities]

    def _judging_log_odds(self, pairs: Sequence[tuple[CleanExcerpt, CleanExcerpt]]) -> Tensor:
        """Log-odds of "same" of pairs in this order, float32 [n] on the CPU; without a gradient. Tokens are counted."""
        prompts = [self._prompt(a, b) for a, b in pairs]
        odds = torch.empty(len(pairs))
        groups: dict[str, list[int]] = {}
        for i, (a, _) in enumerate(pairs):
            groups.setdefault(a.trace_id if self._shares_prefixes else "", []).append(i)
        alone: list[int] = []
        for group in groups.values():
            shared = self._shares_prefixes and len(group) > 1
            common = common_prefix_length(prompts[i] for i in group) if shared else 0
            if common < LEAST_SHARED:
                alone += group
                continue
            cache = self._prefill(prompts[group[0]][:common])
            for batch in batches_by_length(prompts, group, self.settings.batch_tokens):
                odds[batch] = self._log_odds([prompts[i][common:] for i in batch], cache).cpu()
                self.cost.tokens += sum(len(prompts[i]) - common for i in batch)
        for batch in batches_by_length(prompts, alone, self.settings.batch_tokens):
            odds[batch] = self._log_odds([prompts[i] for i in batch]).cpu()
            self.cost.tokens += sum(len(prompts[i]) for i in batch)
        return odds

    def _prompt(self, a: CleanExcerpt, b: CleanExcerpt) -> list[int]:
        check_one_problem(a, b)
        return self.prompts.ids(a.question, a.text, b.text)

    def _prefill(self, prefix: Sequence[int]) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)  # type: ignore[arg-type]
        keep: dict[str, Any] = {"logits_to_keep": 1} if self._selects_logits else {}
        keep[cache_argument(self.model)] = cache
        self.model(input_ids=torch.tensor([prefix], device=self.device), use_cache=True, **keep)
        self.cost.tokens += len(prefix)
        return cache

    def _log_odds(self, prompts: Sequence[Sequence[int]], prefix: DynamicCache | None = None) -> Tensor:
        """Logit of "same" less that of "different" after each prompt: float32 [n]. prefix: a cache that comes before all."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=self.device)
        ends, place = torch.tensor([len(prompt) - 1 for prompt in prompts]).unique(return_inverse=True)
        more: dict[str, Any] = {"use_cache": False}
        if prefix is not None:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(len(prompts))
            more = {"use_cache": True, cache_argument(self.model): cache}
        if self._selects_logits:
            more["logits_to_keep"] = ends.to(self.device)
        logits = self.model(input_ids=ids, **more).logits
        if not self._selects_logits:
            logits = logits[:, ends]
        at = logits[torch.arange(len(prompts)), place].float()
        return at[:, self.prompts.same] - at[:, self.prompts.different]

    def identity(self) -> dict[str, Any]:
        """See CountedJudge."""
        return {"weights": fingerprint(self.model), "settings": asdict(self.settings)}

    # ---- files ----------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """All weights and the tokenizer, or the adapter; with them settings, excerpt and the base's name."""
        # What transformers and its helpers raise where there is no room left is of many kinds.
        with quiet(), name_write_errors(directory, Exception):
            self.model.save_pretrained(directory)  # type: ignore[operator]
            if self._lora is None:
                self.tokenizer.save_pretrained(directory)
        write_description(directory, LLMJudgeDescription(self.settings, self.excerpt, self.base, self._lora))

    def load(self, directory: Path) -> Self:
        """Take back what `save` wrote, in place. Raises InputError for what another kind of judge wrote."""
        saved = read_description(directory)
        if saved is None or saved.lora != self._lora:
            has = "no LLM judge" if saved is None else f"one with {saved.lora or 'all weights'}"
            raise InputError(f"{directory} holds {has}; expected an LLM judge with {self._lora or 'all weights'}")
        if self._lora is not None:
            load_adapter(self.model, directory)
        else:
            self.model.load_state_dict(load(directory, device="cpu")[0].state_dict())
        return self
