"""The fine-tuning loop: from a plain checkpoint to one that writes its thoughts into cache tokens."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from laconic.compress.thoughts import FILE, ThoughtTokens
from laconic.fingerprint import weights_fingerprint
from training.checkpoints import ResumableTraining
from training.lightthinker.data import MaskedBatch, SplitTrace, batch, chunk
from training.lightthinker.recipe import TuneRecipe
from training.reasoner.muon import Muon

SPLITTER, CONTINUE = "<|thought|>", "<|continue|>"


class Tuner(ResumableTraining):
    """A model, its optimizers and its place in the recipe. base: the folder of the checkpoint to start from, of the bundled
    reasoner's vocabulary. directory: where `checkpoint.pt` and `curve.jsonl` go."""

    def __init__(self, recipe: TuneRecipe, base: Path, directory: Path) -> None:
        self.recipe: TuneRecipe = recipe
        self.base, self.directory = base, directory
        self.step, self.seconds = 0, 0.0
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa")
        self.model.train()
        self.tokens = add_tokens(self.model, self.tokenizer, recipe.cache_tokens, recipe.seed)
        named = list(self.model.named_parameters())
        embedding = self.model.get_input_embeddings().weight
        matrices = [p for _, p in named if p.ndim == 2 and p is not embedding]
        others = [p for _, p in named if p.ndim != 2 or p is embedding]
        self.muon = Muon(matrices, lr=recipe.muon)
        self.adam = torch.optim.AdamW(others, lr=recipe.adam, betas=(0.9, 0.98), weight_decay=0.0)
        self.origin = weights_fingerprint(self.model)
        self.chunk = self.offset = 0  # the stream's place
        self._batches: list[list[SplitTrace]] | None = None

    def own_state(self) -> dict[str, Any]:
        return {"stream": (self.chunk, self.offset), "model": self.model.state_dict(), "origin": self.origin}

    def take_state(self, state: dict[str, Any]) -> None:
        if state.get("origin", self.origin) != self.origin:
            raise ValueError(f"The checkpoint {self.checkpoint} began with another base; use another directory.")
        self.chunk, self.offset = state["stream"]
        self._batches = None
        self.model.load_state_dict(state["model"])

    def next_batch(self) -> MaskedBatch:
        r = self.recipe
        if self._batches is not None and self.offset >= len(self._batches):
            self.chunk, self.offset, self._batches = self.chunk + 1, 0, None
        if self._batches is None:
            self._batches = chunk(
                r.seed,
                self.chunk,
                r.mixture,
                r.habits,
                self.tokens,
                size=r.chunk,
                longest=r.longest,
                most=r.tokens,
                shortest=r.shortest,
            )
        traces = self._batches[self.offset]
        self.offset += 1
        return batch(traces, self.tokens)

    def rate(self) -> float:
        """The factor of the learning rates at this step."""
        rising = min(1.0, (self.step + 1) / self.recipe.warmup)
        return rising * 0.5 * (1 + math.cos(math.pi * self.step / self.recipe.steps))

    def train_step(self) -> float:
        """One optimizer step; returns its loss."""
        for optimizer, rate in ((self.muon, self.recipe.muon), (self.adam, self.recipe.adam)):
            optimizer.param_groups[0]["lr"] = rate * self.rate()
        rows = self.next_batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = masked_loss(self.model, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())

    def run(self, until: int | None = None, log_every: int = 20, save_every: int = 100) -> None:
        """Trains to the end of the recipe (or to step `until`), logging to `curve.jsonl` in the directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        until = self.recipe.steps if until is None else min(until, self.recipe.steps)
        losses: list[float] = []
        began = time.perf_counter()
        with open(self.directory / "curve.jsonl", "a") as curve:
            while self.step < until:
                losses.append(self.train_step())
                if self.step % save_every == 0 or self.step == until:
                    now = time.perf_counter()
                    self.seconds, began = self.seconds + now - began, now
                    self.save()
                if self.step % log_every == 0 or self.step == until:
                    seconds = self.seconds + time.perf_counter() - began
                    record = {
                        "step": self.step,
                        "loss": round(sum(losses) / len(losses), 5),
                        "seconds": round(seconds, 1),
                    }
                    losses.clear()
                    curve.write(json.dumps(record) + "\n")
                    curve.flush()

    def export(self, out: Path) -> None:
        """Write a folder that transformers loads, and `lightthinker.json`, by which the policy `lightthinker` knows it."""
        self.model.generation_config = GenerationConfig.from_pretrained(self.base)
        self.model.save_pretrained(out)
        (out / "model.safetensors").chmod(0o644)
        self.tokenizer.save_pretrained(out)
        (out / FILE).write_text(json.dumps(self.tokens.to_json()) + "\n")
        (out / "README.md").write_text(self._card())

    def _card(self) -> str:
        r = self.recipe
        return f"""# A reasoner fine-tuned as LightThinker does

Made by `python -m training.lightthinker` from `{self.base.name}`: {r.steps} steps of {r.tokens} tokens, seed {r.seed}.
Traces of the bundled generator's train split have a splitter, {r.cache_tokens} cache tokens and a continue token
after each thought of at least {r.shortest} tokens (arXiv 2502.15589). `{FILE}` names these tokens.

It is a baseline to compare with, and solves nothing but the bundled problems. Run it under the policy `lightthinker`,
as in `laconic bench accuracy --model FOLDER --policies lightthinker`: without that, thoughts stay that it was trained
to have taken away.
"""


def add_tokens(model: Any, tokenizer: Any, cache: int, seed: int) -> ThoughtTokens:
    """Add the tokens of thoughts to both; the new embeddings are the mean of the others plus noise of their spread, by the
    seed. Returns their ids."""
    names = [SPLITTER, *(f"<|cache{i}|>" for i in range(1, cache + 1)), CONTINUE]
    before = len(tokenizer)
    if tokenizer.add_tokens(names, special_tokens=True) != len(names):
        raise ValueError(f"The tokenizer has some of {', '.join(names)} already; start from a plain checkpoint.")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    table = model.get_input_embeddings().weight.data
    old = table[:before]
    noise = torch.randn(len(names), table.shape[1], generator=generator) * old.std(0)
    table[before:] = old.mean(0) + noise
    ids = list(range(before, before + len(names)))
    return ThoughtTokens(ids[0], tuple(ids[1:-1]), ids[-1])


def masked_loss(model: Any, rows: MaskedBatch) -> Tensor:
    """Cross-entropy of each next token under the mask of thoughts, averaged with the weight of the token that is predicted."""
    logits = model(input_ids=rows.ids, attention_mask=rows.visible[:, None], use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), rows.ids[:, 1:].flatten(), reduction="none")
    weights = rows.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()
