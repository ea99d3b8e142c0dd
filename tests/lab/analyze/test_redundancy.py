"""Redundancy against a slow double loop with vectors in dictionaries, and known cases."""

from __future__ import annotations

import math
import random
import sys
import types

import pytest
import torch

from laconic.errors import LaconicError
from laconic.lab.analyze.redundancy import embedder, redundancy, split_spans, tfidf, window_spans, words


def slow_vectors(spans: list[list[str]]) -> list[dict[tuple[str, ...], float]]:
    features = []
    for span in spans:
        found: dict[tuple[str, ...], int] = {}
        for word in span:
            found[(word,)] = found.get((word,), 0) + 1
        for i in range(len(span) - 1):
            found[(span[i], span[i + 1])] = found.get((span[i], span[i + 1]), 0) + 1
        features.append(found)
    vectors = []
    for found in features:
        vectors.append(
            {
                feature: (1 + math.log(count))
                * (1 + math.log((1 + len(spans)) / (1 + sum(feature in other for other in features))))
                for feature, count in found.items()
            }
        )
    return vectors


def slow_cosine(a: dict, b: dict) -> float:
    dot = sum(value * b.get(feature, 0.0) for feature, value in a.items())
    return dot / math.sqrt(sum(v * v for v in a.values())) / math.sqrt(sum(v * v for v in b.values()))


def slow_redundancy(spans: list[list[str]], threshold: float) -> float:
    vectors = slow_vectors(spans)
    again = sum(any(slow_cosine(vectors[i], vectors[j]) > threshold for j in range(i)) for i in range(1, len(vectors)))
    return again / len(spans)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_it_is_the_slow_double_loop(threshold: float) -> None:
    rng = random.Random(1)
    spans = [[rng.choice("abcdef") for _ in range(rng.randint(3, 6))] for _ in range(80)]
    rate = redundancy(spans, [], threshold=threshold)
    assert rate == pytest.approx(slow_redundancy(spans, threshold))
    assert rate is not None
    assert 0 < rate < 1  # or the threshold was never tested


def test_long_traces_are_taken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond one slice of 512 spans, later ones still see all earlier ones."""
    spans = [[f"w{i}", f"x{i}", f"y{i}"] for i in range(700)]
    spans[650] = spans[3]
    spans[10] = spans[9]
    assert redundancy(spans, []) == pytest.approx(2 / 700)


def test_known_cases() -> None:
    assert redundancy([["a", "b", "c"]] * 4, []) == 0.75  # the first says nothing again
    assert redundancy([["a", "b"], ["c", "d"], ["e", "f"]], []) == 0.0
    assert redundancy([["a", "b"]], []) == 0.0
    assert redundancy([], []) is None


def test_vectors_have_length_one() -> None:
    vectors = tfidf([["a", "b", "a"], ["c"], []])
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_spans_are_sentences_and_lines() -> None:
    text = "So x is 3.5 here. Wait.\nLet me check that again! first h=6 . then k>w . \n\n"
    assert split_spans(text) == ["So x is 3.5 here.", "Let me check that again!", "first h=6 .", "then k>w ."]
    assert words("Wait, h=6.") == ["wait", ",", "h", "=", "6", "."]


def test_token_spans_leave_a_short_rest_out() -> None:
    assert window_spans([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4]]
    assert window_spans([1], 2) == []
    with pytest.raises(LaconicError, match="span size is 0"):
        window_spans([1], 0)


def test_sentence_transformers_are_asked_with_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class SentenceTransformer:
        def __init__(self, name: str) -> None:
            if name != "mini":
                raise OSError(f"no model {name}\nmore")

        def encode(self, texts):
            asked.append(texts)
            return [[1.0, 0.0] if "one" in text else [0.6, 0.8] for text in texts]

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    embed = embedder("sentence-transformers:mini")
    texts = ["one thing", "other thing", "one more"]
    # Cosines: other to one .6; one more to one 1.
    assert redundancy([words(t) for t in texts], texts, embed, 0.75) == pytest.approx(1 / 3)
    assert redundancy([words(t) for t in texts], texts, embed, 0.5) == pytest.approx(2 / 3)
    assert asked[0] == texts
    with pytest.raises(LaconicError, match=r"can't be loaded: no model other$"):
        embedder("sentence-transformers:other")
    with pytest.raises(LaconicError, match="--tokenizer"):
        redundancy([[1, 2]], [], embed)


def test_bad_input_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(LaconicError, match="needs the package sentence-transformers"):
        embedder("sentence-transformers:mini")
    for name in ("word2vec", "sentence-transformers:"):
        with pytest.raises(LaconicError, match="expected tfidf or sentence-transformers:MODEL"):
            embedder(name)
    with pytest.raises(LaconicError, match=r"threshold is 1\.5"):
        redundancy([["a"]], [], threshold=1.5)
    assert embedder("tfidf") is tfidf
    assert torch.equal(embedder()([["a"]], []), tfidf([["a"]]))
