"""Embedding cosine: excerpts as vectors of a model that reads each alone, and the angle between them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from laconic import checks
from laconic.checks import whole
from laconic.engines.hf.context import context_of
from laconic.errors import InputError, LaconicError, reason
from laconic.fingerprint import fingerprint
from laconic.judges.counted import MatrixJudge
from laconic.judges.llm_description import quiet
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine

MOST_TOKENS = 8192  # a piece's, for a model that states no limit


class EmbeddingCosine(MatrixJudge):
    """(1 + cosine) / 2 of the embeddings of two excerpts' texts.

    model: a sentence-transformers model where that package is installed; else any Hugging Face model, the mean of the last
    hidden states over a text's tokens. What is longer than the model reads is embedded in pieces, weighted by their tokens.
    batch: texts a forward pass. The cosine ranks pairs, it is no probability: see `baselines.calibrate`. Raises InputError
    where the model can't be loaded; an excerpt without text is refused by `read`.
    """

    name = "embedding"

    def __init__(self, model: str, device: str | torch.device | None = None, batch: int = 32) -> None:
        super().__init__()
        self.batch = whole("batch", batch, 1, meaning="texts")
        self.model = checks.text("model", model, "a model's directory, or its name on the Hub", some=True)
        try:
            with quiet():
                self._embed, self._tokenizer, self._tokens_per_piece, self._network = _load_embedder(model, device)
        except LaconicError:
            raise
        except Exception as error:  # whatever the Hub or the packages raise
            raise InputError(
                f"The embedding model {model} can't be loaded: {reason(error)}; expected a model's directory or its name on "
                "the Hub"
            ) from error

    def identity(self) -> dict[str, Any]:
        """See CountedJudge."""
        return {"weights": fingerprint(self._network)}

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[Tensor]:
        pieces: list[str] = []
        owner: list[int] = []
        weight: list[int] = []
        for index, excerpt in enumerate(excerpts):
            if not excerpt.text.strip():
                raise InputError(
                    f"The excerpt of trace {excerpt.trace_id!r} has no text; the embedding judge reads text: give the engine a "
                    "tokenizer, or use jaccard"
                )
            for piece, tokens in self._pieces(excerpt.text):
                pieces.append(piece)
                owner.append(index)
                weight.append(tokens)
        # Neighbours in length are embedded together, so that little padding is computed.
        order = sorted(range(len(pieces)), key=lambda i: weight[i])
        vectors: list[Tensor] = [torch.empty(0)] * len(pieces)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            embedded, tokens = self._embed([pieces[i] for i in chosen])
            self.cost.tokens += tokens
            for i, vector in zip(chosen, embedded, strict=True):
                vectors[i] = vector
        sums: list[Tensor] = [torch.zeros(()) for _ in excerpts]
        for i, vector in enumerate(vectors):
            sums[owner[i]] = sums[owner[i]] + weight[i] * torch.nn.functional.normalize(vector, dim=0)
        return [torch.nn.functional.normalize(vector, dim=0) for vector in sums]

    def _pieces(self, text: str) -> list[tuple[str, int]]:
        """The text in pieces that the model reads whole, each with its count of tokens."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) <= self._tokens_per_piece:
            return [(text, len(ids))]
        parts = [ids[i : i + self._tokens_per_piece] for i in range(0, len(ids), self._tokens_per_piece)]
        return [(self._tokenizer.decode(part), len(part)) for part in parts]

    def _pair(self, a: Tensor, b: Tensor) -> float:
        return min(1.0, max(0.0, (1 + float(a @ b)) / 2))

    def _matrix(self, readings: Sequence[Tensor]) -> Tensor:
        vectors = torch.stack(list(readings))
        return ((1 + vectors @ vectors.T) / 2).clamp(0, 1)


Embed = Callable[[list[str]], tuple[Tensor, int]]
"""Texts in; their vectors (float32 [n, D], on the CPU) and the tokens that went through the network out."""


def _load_embedder(name: str, device: str | torch.device | None) -> tuple[Embed, Any, int, nn.Module]:
    """How texts become vectors, the model's tokenizer, how many of a text's tokens it reads at once, and the model."""
    try:
        package = importlib.import_module("sentence_transformers")
    except ImportError:
        return _load_mean_pooled(name, device)
    model = package.SentenceTransformer(name, device=None if device is None else str(device))
    tokenizer = model.tokenizer
    room = _tokens_per_piece(tokenizer, model.max_seq_length)

    def embed(texts: list[str]) -> tuple[Tensor, int]:
        tokens = sum(min(len(ids), model.max_seq_length or len(ids)) for ids in tokenizer(texts)["input_ids"])
        return torch.as_tensor(model.encode(texts, show_progress_bar=False), dtype=torch.float32), tokens

    return embed, tokenizer, room, model


def _load_mean_pooled(name: str, device: str | torch.device | None) -> tuple[Embed, Any, int, nn.Module]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModel.from_pretrained(name).eval()
    if device is not None:
        model = model.to(device)
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"The model {name} is an encoder-decoder; the embedding judge expects an encoder or a decoder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or next(iter(tokenizer.get_vocab()))
    tokenizer.padding_side = "right"
    config = model.config.get_text_config()
    room = _tokens_per_piece(tokenizer, context_of(config))

    @torch.inference_mode()
    def embed(texts: list[str]) -> tuple[Tensor, int]:
        inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False).to(model.device)
        mask = inputs["attention_mask"]
        hidden = model(**inputs).last_hidden_state.float() * mask[..., None]
        return (hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)).cpu(), int(mask.sum())

    return embed, tokenizer, room, model


def _tokens_per_piece(tokenizer: Any, limit: int | None) -> int:
    stated = [n for n in (limit, tokenizer.model_max_length) if isinstance(n, int) and 0 < n < 10**9]
    # Positions of RoBERTa's kind start at the padding index + 1, so two of those that the config states are never used.
    return max(1, min([*stated, MOST_TOKENS]) - tokenizer.num_special_tokens_to_add() - 2)
