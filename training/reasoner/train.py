"""The training loop: fixed step counts, a curve in JSONL, checkpoints that go on as if nothing had happened."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.checkpoints import ResumableTraining
from training.reasoner.data import Batch, Mixture, chunk, heldout_traces
from training.reasoner.model import EMBEDDING, Student
from training.reasoner.muon import Muon
from training.reasoner.recipe import Recipe


@dataclass(slots=True)
class Stream:
    """The batches of a recipe, in order; ``chunk`` and ``offset`` are its whole state."""

    recipe: Recipe
    chunk: int = 0
    offset: int = 0
    mixture: Mixture | None = None  # of the current chunk
    _batches: list[Batch] | None = None

    def next(self, mixture: Mixture) -> Batch:
        """The next batch; ``mixture`` counts when a chunk begins."""
        r = self.recipe
        if self._batches is not None and self.offset >= len(self._batches):
            self.chunk, self.offset, self._batches, self.mixture = self.chunk + 1, 0, None, None
        if self._batches is None:
            self.mixture = self.mixture or mixture
            self._batches = chunk(r.seed, self.chunk, self.mixture, r.habits, r.chunk, r.buckets, r.tokens)
            if self.offset >= len(self._batches):
                return self.next(mixture)
        batch = self._batches[self.offset]
        self.offset += 1
        return batch

    def skip_chunk(self) -> None:
        """Leaves the rest of this chunk: a new stage begins with traces of its own."""
        if self.offset:
            self.chunk, self.offset = self.chunk + 1, 0
        self._batches, self.mixture = None, None


class Trainer(ResumableTraining):
    """A student, its optimizers and its place in the recipe."""

    def __init__(self, recipe: Recipe, directory: Path, compile: bool = True) -> None:
        self.recipe: Recipe = recipe
        self.directory = directory
        self.step = 0
        self.seconds = 0.0
        self.student = Student(recipe.shape, recipe.seed)
        named = list(self.student.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and name not in EMBEDDING]
        others = [p for name, p in named if p.ndim != 2 or name in EMBEDDING]
        self.muon = Muon(matrices, lr=recipe.muon)
        self.adam = torch.optim.AdamW(others, lr=recipe.adam, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.stream = Stream(recipe)
        torch._dynamo.config.recompile_limit = 4 * len(recipe.buckets)
        self.loss = torch.compile(self.student.loss, dynamic=False) if compile else self.student.loss

    def own_state(self) -> dict[str, Any]:
        stream = self.stream.chunk, self.stream.offset, self.stream.mixture
        return {"stream": stream, "student": self.student.state_dict()}

    def take_state(self, state: dict[str, Any]) -> None:
        self.stream = Stream(self.recipe, *state["stream"])
        self.student.load_state_dict(state["student"])

    def train_step(self) -> float:
        """One optimizer step; returns its loss."""
        stage, at = self.recipe.at(self.step)
        if at == 0:
            self.stream.skip_chunk()
        factor = stage.rate_at(at) * min(1.0, (self.step + 1) / self.recipe.warmup)
        for optimizer, rate in ((self.muon, self.recipe.muon), (self.adam, self.recipe.adam)):
            optimizer.param_groups[0]["lr"] = rate * factor
        batch = self.stream.next(stage.mixture_at(at))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss(batch.ids, batch.weights)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def run(
        self, until: int | None = None, log_every: int = 20, save_every: int = 200, diagnose_every: int = 200
    ) -> None:
        """Trains to the end of the recipe (or to step ``until``), logging to ``curve.jsonl`` in the directory.

        ``diagnose_every=0``: never.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        until = self.recipe.steps if until is None else min(until, self.recipe.steps)
        losses: list[float] = []
        began = time.perf_counter()
        with open(self.directory / "curve.jsonl", "a") as curve:
            while self.step < until:
                losses.append(self.train_step())
                record: dict[str, Any] = {}
                if self.step % log_every == 0 or self.step == until:
                    record["loss"] = round(sum(losses) / len(losses), 5)
                    losses.clear()
                if diagnose_every and (self.step % diagnose_every == 0 or self.step == until):
                    record |= self.diagnose()
                if self.step % save_every == 0 or self.step == until:
                    now = time.perf_counter()
                    self.seconds, began = self.seconds + now - began, now
                    self.save()
                if record:
                    stage, at = self.recipe.at(self.step - 1)
                    seconds = self.seconds + time.perf_counter() - began
                    record = {"step": self.step, "stage": stage.name, "longest": stage.mixture_at(at).longest} | record
                    curve.write(json.dumps(record | {"seconds": round(seconds, 1)}) + "\n")
                    curve.flush()

    @torch.no_grad()
    def diagnose(self, count: int = 24) -> dict[str, float]:
        """Teacher-forced accuracy on held-out traces, by what the token is (the tags of ``traces.py``)."""
        stage, at = self.recipe.at(self.step - 1)
        right: dict[str, int] = defaultdict(int)
        total: dict[str, int] = defaultdict(int)
        for trace in heldout_traces(self.recipe.seed, stage.mixture_at(at), count, self.recipe.habits):
            guesses = self.student(torch.tensor([trace.ids]))[0].argmax(-1).tolist()
            for guess, token, tag in zip(guesses, trace.ids[1:], trace.tags[1:], strict=False):
                right[tag] += guess == token
                total[tag] += 1
        names = {"c": "copy", "p": "arrow", "r": "recall", "a": "arithmetic", "d": "digit", "s": "store", "l": "letter"}
        return {name: round(right[tag] / total[tag], 4) for tag, name in names.items() if total[tag]}
