"""How much of a trace says again what it has said: the share of spans that resemble an earlier span.

RPC's paper (arXiv 2505.13866) counts a span as redundant if the cosine of its sentence embedding with an earlier one's
exceeds 0.75. That needs an embedding model; `embedder` loads one through sentence-transformers. The default here needs
none: TF-IDF vectors of word uni- and bigrams. Its rates are comparable with each other, not with the published ones.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from laconic import checks
from laconic.errors import InputError, reason

THRESHOLD = 0.75
TFIDF = "tfidf"
SENTENCE_TRANSFORMERS = "sentence-transformers:"
LEAST_WORDS = 3  # shorter spans ("Wait.") resemble each other without saying anything again
_WORDS = re.compile(r"\w+|[^\w\s]")
# A span ends at a line's end, or at a sentence mark with white space behind it ("3.5" goes on).
_SPANS = re.compile(r"\n+|(?<=[.!?])\s+")

Embed = Callable[[Sequence[Sequence[Hashable]], Sequence[str]], Tensor]
"""(words of each span, text of each span) -> [spans, features] float; rows need not be normalised."""


def split_spans(text: str, least: int = LEAST_WORDS) -> list[str]:
    """A text's lines and sentences with at least `least` words (marks count as words), in order."""
    checks.text("text", text)
    found = (span.strip() for span in _SPANS.split(text))
    return [span for span in found if len(words(span)) >= least]


def words(text: str) -> list[str]:
    """Words and punctuation marks, in lower case."""
    return _WORDS.findall(text.lower())


def window_spans(token_ids: Sequence[int], size: int) -> list[list[int]]:
    """Token ids cut into spans of `size`, for traces without text; a shorter rest is left out.

    Raises InputError for a size below 1.
    """
    size = checks.whole("The span size", size, 1, meaning="tokens")
    checks.instance("token_ids", token_ids, Sequence, "a sequence of token ids")
    return [list(token_ids[i : i + size]) for i in range(0, len(token_ids) - size + 1, size)]


def tfidf(spans: Sequence[Sequence[Hashable]], texts: Sequence[str] = ()) -> Tensor:
    """[spans, features] TF-IDF vectors of uni- and bigrams, of length 1 (0 for an empty span).

    A feature's weight is (1 + ln count) x (1 + ln((1 + spans) / (1 + spans that have it))), the smoothed form, so that
    what every span has still counts a little.
    """
    counts = [Counter([*((w,) for w in span), *itertools.pairwise(span)]) for span in spans]
    document = Counter(feature for count in counts for feature in count)
    index = {feature: column for column, feature in enumerate(document)}
    vectors = torch.zeros(len(spans), max(1, len(index)))
    for row, count in enumerate(counts):
        for feature, times in count.items():
            rarity = 1 + math.log((1 + len(spans)) / (1 + document[feature]))
            vectors[row, index[feature]] = (1 + math.log(times)) * rarity
    return torch.nn.functional.normalize(vectors, dim=-1)


def embedder(name: str = TFIDF) -> Embed:
    """How spans become vectors: `tfidf`, or `sentence-transformers:MODEL` (the package must be installed).

    Raises InputError for another name, or where the package or the model can't be loaded.
    """
    if checks.text("embedder", name, f"{TFIDF} or {SENTENCE_TRANSFORMERS}MODEL") == TFIDF:
        return tfidf
    if not name.startswith(SENTENCE_TRANSFORMERS) or name == SENTENCE_TRANSFORMERS:
        raise InputError(f"The embedder is {name!r}; expected {TFIDF} or {SENTENCE_TRANSFORMERS}MODEL")
    try:
        module = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise InputError(
            f"The embedder {name} needs the package sentence-transformers: install it, or use {TFIDF}"
        ) from error
    wanted = name[len(SENTENCE_TRANSFORMERS) :]
    try:
        model = module.SentenceTransformer(wanted)
    except Exception as error:  # whatever the Hub or the package raise
        raise InputError(f"The sentence-embedding model {wanted} can't be loaded: {reason(error)}") from error

    def embed(spans: Sequence[Sequence[Hashable]], texts: Sequence[str]) -> Tensor:
        if len(texts) != len(spans):
            raise InputError("Sentence embeddings need the traces' text: give --tokenizer for traces of token ids")
        return torch.as_tensor(model.encode(list(texts)), dtype=torch.float32)

    return embed


def redundancy(
    spans: Sequence[Sequence[Hashable]], texts: Sequence[str], embed: Embed = tfidf, threshold: float = THRESHOLD
) -> float | None:
    """The share of spans whose cosine with some earlier span exceeds the threshold; None without spans.

    spans: words (or token ids) of each, in order; texts: their texts, or empty where there are none.

    Raises InputError for a threshold outside -1 to 1.
    """
    threshold = checks.number("threshold", threshold, -1, 1, "a cosine")
    checks.function("embed", embed, "from spans to vectors, as `embedder` gives it")
    if not spans:
        return None
    vectors = torch.nn.functional.normalize(embed(spans, texts).float(), dim=-1)
    again = 0
    for start in range(0, len(spans), 512):  # in slices, so that long traces stay small
        rows = vectors[start : start + 512]
        cosines = rows @ vectors[: start + len(rows)].T
        # A span's own column and those after it are no earlier spans.
        own = torch.arange(start, start + len(rows))[:, None]
        cosines = cosines.masked_fill(torch.arange(cosines.shape[1]) >= own, -2.0)
        again += int((cosines.amax(dim=-1) > threshold).sum())
    return again / len(spans)
