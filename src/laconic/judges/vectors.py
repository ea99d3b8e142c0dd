"""What a pair encoder reads of an excerpt beside its token ids: vectors, from the reasoner itself or from another decoder.

A `VectorSource` gives, for every excerpt, float32 [t, D] with one row for each of its last `most` tokens (or fewer rows, where
the end of the excerpt has none), and says how many tokens went through a model for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from laconic.errors import InputError
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine

AT_ONCE = 256  # excerpts whose vectors are asked for together


class VectorSource(Protocol):
    """Where a pair encoder's vectors come from."""

    @property
    def width(self) -> int:
        """D."""
        ...

    def fetch(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None, most: int) -> tuple[list[Tensor], int]:
        """The rows of each excerpt, and how many tokens went through a model for them. Raises InputError where they can't be
        had."""
        ...


@dataclass(frozen=True, slots=True)
class ReasonerStates:
    """The reasoner's own hidden states, of the layers side by side (indices into transformers' `hidden_states`).

    They cost no tokens where the engine recorded them while it decoded, and the tokens that it ran (its `stats.side_tokens`)
    where it has to read the trace again. The state of an excerpt's last token is never there: a token's state is computed one
    step after it was drawn, and what lies beyond the excerpt must not be seen.
    """

    width: int
    layers: tuple[int, ...] = (-1,)

    def fetch(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None, most: int) -> tuple[list[Tensor], int]:
        if engine is None:
            raise InputError(
                "this judge reads the reasoner's hidden states, and no engine was given: use it while traces are written, or "
                "replay them beside their model"
            )
        theirs = getattr(getattr(engine, "model_engine", engine), "state_layers", self.layers)
        if tuple(theirs) != self.layers:
            raise InputError(
                f"this judge reads hidden states of layers {list(self.layers)}, the engine gives those of {list(theirs)}; make "
                f"the engine with state_layers={self.layers}"
            )
        before = getattr(engine.stats, "side_tokens", 0)
        found: list[Tensor] = []
        for start in range(0, len(excerpts), AT_ONCE):
            part = excerpts[start : start + AT_ONCE]
            longest = max(1, *(len(e.token_ids) - 1 for e in part))
            states = engine.states([e.trace_id for e in part], longest)
            if states.dim() != 3 or tuple(states.shape[:2]) != (len(part), longest) or states.shape[2] != self.width:
                raise InputError(
                    f"the engine's hidden states are {list(states.shape)}, this judge was trained on "
                    f"[{len(part)}, {longest}, {self.width}]; use it with the reasoner that it was trained for"
                )
            for excerpt, rows in zip(part, states.float().cpu(), strict=True):
                first = max(0, len(excerpt.token_ids) - most)
                found.append(rows[first : max(first, len(excerpt.token_ids) - 1)])
        return found, getattr(engine.stats, "side_tokens", 0) - before


class DecoderStates:
    """Another decoder's last hidden states: it reads the question and the excerpt's text, and its tokens are counted.

    A row is one of its own tokens, not of the reasoner's. A question that does not fit beside the excerpt loses its
    beginning.
    """

    def __init__(self, name: str, device: str = "auto", batch: int = 16) -> None:
        from laconic.engines.hf.loading import load
        from laconic.engines.hf.models import context_length, text_config

        self.name, self.batch = name, batch
        self.model, self.tokenizer = load(name, device=device)
        self.width = int(text_config(self.model).hidden_size)
        self.context = context_length(self.model)

    def fetch(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None, most: int) -> tuple[list[Tensor], int]:
        found, run = [], 0
        for start in range(0, len(excerpts), self.batch):
            rows = [self._ids(excerpt, most) for excerpt in excerpts[start : start + self.batch]]
            longest = max(len(question) + len(text) for question, text in rows)
            # Filled up on the right: a causal model's states do not depend on what follows.
            padded = [question + text + [0] * (longest - len(question) - len(text)) for question, text in rows]
            ids = torch.tensor(padded, device=self.model.device)
            with torch.inference_mode():
                states = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1]
            for (question, text), row in zip(rows, states.float().cpu(), strict=True):
                found.append(row[len(question) : len(question) + len(text)])
                run += len(question) + len(text)
        return found, run

    def _ids(self, excerpt: Excerpt, most: int) -> tuple[list[int], list[int]]:
        """Tokens of the question, and the last `most` of the excerpt; at least one in all."""
        question = list(self.tokenizer(excerpt.question + "\n\n")["input_ids"])
        text = list(self.tokenizer(excerpt.text, add_special_tokens=False)["input_ids"])[-most:]
        if self.context is not None and len(question) + len(text) > self.context:
            text = text[-self.context :]
            question = question[len(question) + len(text) - self.context :]
        return question if question or text else [0], text
