"""Untrained judges against what they say they compute, one pair at a time."""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from laconic.assets import reasoner_path
from laconic.errors import LaconicError
from laconic.judges.baselines import (
    FactOverlap,
    PerfectJudge,
    RandomJudge,
    SimulatedJudge,
    TokenJaccard,
    calibrate,
)
from laconic.judges.embedding import EmbeddingCosine
from laconic.prune.judge import Excerpt, judge_pairs


def excerpt(trace_id: str, text: str = "", ids: Sequence[int] = ()) -> Excerpt:
    return Excerpt(trace_id, "tokens:8", "what is x ?", (1, 2), tuple(ids), text)


def random_excerpts(count: int, seed: int = 0) -> list[Excerpt]:
    rng = random.Random(seed)
    found = []
    for i in range(count):
        text = " ".join(f"{rng.choice('xyzw')}={rng.randrange(4)}" for _ in range(rng.randrange(6)))
        found.append(excerpt(f"t{i}", text, [rng.randrange(7) for _ in range(rng.randrange(9))]))
    return found


def check_matrix(judge: Any, excerpts: list[Excerpt]) -> None:
    """matrix = compare of every pair; symmetric; in [0, 1]; counted."""
    readings = judge.read(excerpts)
    n = len(readings)
    before = judge.cost.pairs
    found = judge.matrix(readings)
    assert judge.cost.pairs - before == n * (n - 1) // 2
    expected = torch.tensor(judge.compare([(a, b) for a in readings for b in readings])).view(n, n)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert torch.equal(found, found.T)
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(found.unique()) > 1
    assert judge.cost.excerpts == n
    assert judge.matrix([]).shape == (0, 0)


class TestTokenJaccard:
    @pytest.mark.parametrize(("ngram", "expected"), [(1, 3 / 5), (2, 2 / 5), (3, 1 / 4)])
    def test_shares_of_grams(self, ngram: int, expected: float) -> None:
        pair = excerpt("a", ids=[1, 2, 3, 4, 4]), excerpt("b", ids=[1, 2, 3, 5])
        assert judge_pairs(TokenJaccard(ngram), [pair]) == pytest.approx([expected])

    def test_short_and_empty_excerpts(self) -> None:
        judge = TokenJaccard(3)
        short, same, other, none, empty = judge.read(
            [excerpt(str(i), ids=ids) for i, ids in enumerate([[1, 2], [1, 2], [2, 1], [], []])]
        )
        assert judge.compare([(short, same), (short, other), (short, none), (none, empty)]) == [1, 0, 0, 1]

    @pytest.mark.parametrize("ngram", [1, 2])
    def test_matrix(self, ngram: int) -> None:
        check_matrix(TokenJaccard(ngram), random_excerpts(20))

    @pytest.mark.parametrize("ngram", [0, 1.5, True])
    def test_refuses(self, ngram: Any) -> None:
        with pytest.raises(LaconicError, match="ngram is"):
            TokenJaccard(ngram)


class TestFactOverlap:
    def test_agreement_on_last_values(self) -> None:
        a, b = excerpt("a", "x = y, u=v w = 1"), excerpt("b", "w = 2. No, w = 1")
        # a: w=1 and the number 1; b: w=1 and the numbers 2, 1.
        assert judge_pairs(FactOverlap(), [(a, b)]) == pytest.approx([4 / 5])

    def test_decay_weighs_late_facts_more(self) -> None:
        late, early = ("x = 1, y = 2", "x = 3, y = 2"), ("x = 1, y = 2", "x = 1, y = 3")
        pairs = [(excerpt("a", a), excerpt("b", b)) for a, b in (late, early)]
        alike = judge_pairs(FactOverlap(), pairs)
        weighed = judge_pairs(FactOverlap(decay=0.5), pairs)
        assert alike[0] == alike[1]
        assert weighed[0] > alike[0] > weighed[1]
        # Order of statement: number 1, x, number 2, y, aged 3, 2, 1, 0; "2" and y=2 are in common.
        assert weighed[0] == pytest.approx(2 * (1 + 0.5) / (2 * (1 + 0.5 + 0.25 + 0.125)))

    def test_nothing_stated_is_nothing_known(self) -> None:
        a, b, c = excerpt("a", "well"), excerpt("b", "hm"), excerpt("c", "x=1")
        assert judge_pairs(FactOverlap(), [(a, b), (a, c), (c, c)]) == [0.5, 0, 1]

    @pytest.mark.parametrize("decay", [1.0, 0.6])
    def test_matrix(self, decay: float) -> None:
        some = random_excerpts(20)
        check_matrix(FactOverlap(decay), [each if each.text else replace(each, text="hm") for each in some])

    @pytest.mark.parametrize("decay", [0, 1.1, "1"])
    def test_refuses(self, decay: Any) -> None:
        with pytest.raises(LaconicError, match="decay is"):
            FactOverlap(decay)


class TestRandomJudge:
    def test_word_is_kept_and_symmetric(self) -> None:
        a, b = excerpt("a"), excerpt("b")
        pairs = [(excerpt(f"x{i}"), excerpt(f"y{i}")) for i in range(64)]
        first = judge_pairs(RandomJudge(seed=3), pairs)
        assert first == judge_pairs(RandomJudge(seed=3), [(q, p) for p, q in pairs])
        assert first != judge_pairs(RandomJudge(seed=4), pairs)
        assert set(first) == {0.0, 1.0}
        assert judge_pairs(RandomJudge(p=0), [(a, b), (a, a)]) == [0, 1]
        assert judge_pairs(RandomJudge(p=1), [(a, b)]) == [1]

    def test_share(self) -> None:
        said = judge_pairs(RandomJudge(p=0.3), [(excerpt(f"x{i}"), excerpt("y")) for i in range(4000)])
        assert sum(said) / len(said) == pytest.approx(0.3, abs=0.03)  # four standard errors

    def test_matrix(self) -> None:
        check_matrix(RandomJudge(), random_excerpts(20))

    @pytest.mark.parametrize("settings", [{"p": -0.1}, {"p": 2}, {"seed": -1}, {"seed": 0.5}])
    def test_refuses(self, settings: dict[str, Any]) -> None:
        with pytest.raises(LaconicError, match=f"{next(iter(settings))} is"):
            RandomJudge(**settings)


class TestPerfectJudge:
    ANSWERS: ClassVar[dict[str, str | None]] = {"a": "1/2", "b": "0.5", "c": "3", "d": None, "e": None}

    def test_agreement_is_that_of_answers(self) -> None:
        a, b, c, d, e = (excerpt(i) for i in self.ANSWERS)
        pairs = [(a, b), (a, c), (a, d), (d, e), (d, d)]
        assert judge_pairs(PerfectJudge(self.ANSWERS), pairs) == [1, 0, 0, 0, 1]
        assert judge_pairs(PerfectJudge(lambda x: self.ANSWERS[x.trace_id]), pairs) == [1, 0, 0, 0, 1]

    def test_matrix(self) -> None:
        check_matrix(PerfectJudge(self.ANSWERS), [excerpt(i) for i in self.ANSWERS])

    def test_refuses_traces_it_knows_nothing_of(self) -> None:
        with pytest.raises(LaconicError, match="no answer of trace 'z'"):
            PerfectJudge(self.ANSWERS).read([excerpt("z")])


class TestSimulatedJudge:
    ANSWERS: ClassVar[dict[str, str | None]] = {f"t{i}": str(i % 3) if i % 10 else None for i in range(90)}

    def judged(self, **settings: Any) -> tuple[list[float], list[bool]]:
        """Of all pairs: the number, and whether the two agree."""
        pairs = [(excerpt(a), excerpt(b)) for a, b in itertools.combinations(self.ANSWERS, 2)]
        same = [p > 0 for p in judge_pairs(PerfectJudge(self.ANSWERS), pairs)]
        return judge_pairs(SimulatedJudge(self.ANSWERS, **settings), pairs), same

    @pytest.mark.parametrize("auroc", [0.5, 0.7, 0.9, 0.99])
    @pytest.mark.parametrize("shared", [0, 0.5])
    def test_its_auroc_is_the_one_that_is_asked_for(self, auroc: float, shared: float) -> None:
        said, same = self.judged(auroc=auroc, shared=shared)
        yes = [p for p, agree in zip(said, same, strict=True) if agree]
        no = [p for p, agree in zip(said, same, strict=True) if not agree]
        above = sum(a > b for a in yes for b in no) / (len(yes) * len(no))
        assert above == pytest.approx(auroc, abs=0.06 if shared else 0.03)
        # .5 parts both kinds with about equal shares of errors.
        missed = sum(p < 0.5 for p in yes) / len(yes)
        wrong = sum(p > 0.5 for p in no) / len(no)
        assert missed == pytest.approx(wrong, abs=0.12 if shared else 0.05)

    def test_shared_errors_are_a_traces(self) -> None:
        """How often a trace's pairs are misjudged varies more between traces than chance allows."""

        def spread(shared: float) -> float:
            said, same = self.judged(auroc=0.7, shared=shared)
            wrong: dict[str, list[bool]] = {}
            for (a, b), p, agree in zip(itertools.combinations(self.ANSWERS, 2), said, same, strict=True):
                for name in (a, b):
                    wrong.setdefault(name, []).append((p > 0.5) != agree)
            return statistics.pvariance([sum(each) / len(each) for each in wrong.values()])

        assert spread(0.8) > 3 * spread(0)

    def test_word_is_kept_and_symmetric(self) -> None:
        a, b = excerpt("t1"), excerpt("t2")
        first = judge_pairs(SimulatedJudge(self.ANSWERS, seed=3), [(a, b), (a, a)])
        assert first == judge_pairs(SimulatedJudge(self.ANSWERS, seed=3), [(b, a), (a, a)])
        assert first != judge_pairs(SimulatedJudge(self.ANSWERS, seed=4), [(a, b), (a, a)])
        assert first[1] == 1.0

    def test_matrix(self) -> None:
        check_matrix(SimulatedJudge(self.ANSWERS), [excerpt(name) for name in list(self.ANSWERS)[:15]])

    @pytest.mark.parametrize("settings", [{"auroc": 0.4}, {"auroc": 1}, {"shared": 2}, {"seed": -1}])
    def test_refuses(self, settings: dict[str, Any]) -> None:
        with pytest.raises(LaconicError, match=f"{next(iter(settings))} is"):
            SimulatedJudge(self.ANSWERS, **settings)


def bert(directory: Path, positions: int = 12) -> Path:
    """A small random encoder of words, with its tokenizer, in a directory."""
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertModel(BertConfig(vocab_size=10, max_position_embeddings=positions, **sizes)).save_pretrained(directory)
    return directory


@pytest.fixture
def without_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)


@pytest.mark.usefixtures("without_sentence_transformers")
class TestEmbeddingCosine:
    def test_mean_of_the_last_hidden_states(self, tmp_path: Path) -> None:
        judge = EmbeddingCosine(str(bert(tmp_path)), batch=2)
        model = AutoModel.from_pretrained(tmp_path).eval()
        texts = {"a b c": [2, 3, 4], "d": [5], "e f g h a": [6, 7, 8, 9, 2]}
        with torch.inference_mode():
            means = [model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0) for ids in texts.values()]
        excerpts = [excerpt(str(i), text) for i, text in enumerate(texts)]
        readings = judge.read(excerpts)
        found = judge.compare([(r, s) for r in readings for s in readings])
        expected = [(1 + float(torch.cosine_similarity(m, n, dim=0))) / 2 for m in means for n in means]
        assert found == pytest.approx(expected, abs=1e-6)
        assert judge.cost.tokens == 9

    def test_long_texts_in_pieces(self, tmp_path: Path) -> None:
        judge = EmbeddingCosine(str(bert(tmp_path)))  # 12 positions, of which 10 are used
        long, head, tail = judge.read(
            [excerpt("1", "a b c d e f g h a b c d e"), excerpt("2", "a b c d e f g h a b"), excerpt("3", "c d e")]
        )
        expected = torch.nn.functional.normalize(10 * head + 3 * tail, dim=0)
        torch.testing.assert_close(long, expected)

    def test_matrix(self, tmp_path: Path) -> None:
        rng = random.Random(1)
        texts = [" ".join(rng.choices("abcdefgh", k=rng.randrange(1, 9))) for _ in range(12)]
        check_matrix(EmbeddingCosine(str(bert(tmp_path))), [excerpt(str(i), text) for i, text in enumerate(texts)])

    def test_a_decoder_will_do(self) -> None:
        judge = EmbeddingCosine(str(reasoner_path()))
        a, b, c = (excerpt(t, t) for t in ("so b=1 and c=2 .", "so b=1 and c=2 . ok", "wait wait wait"))
        near, far = judge_pairs(judge, [(a, b), (a, c)])
        assert 1 > near > far > 0

    def test_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(LaconicError, match=r"The embedding model .*nowhere can't be loaded: .*; expected"):
            EmbeddingCosine(str(tmp_path / "nowhere"))
        with pytest.raises(LaconicError, match="batch is 0"):
            EmbeddingCosine("x", batch=0)
        with pytest.raises(LaconicError, match="trace 't' has no text"):
            EmbeddingCosine(str(bert(tmp_path))).read([excerpt("t", " ")])


def test_sentence_transformers_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        model_max_length = 4

        def __call__(self, text: Any, **_: Any) -> dict[str, Any]:
            return {"input_ids": text.split() if isinstance(text, str) else [t.split() for t in text]}

        def decode(self, ids: list[str]) -> str:
            return " ".join(ids)

        def num_special_tokens_to_add(self) -> int:
            return 0

    class SentenceTransformer:
        """Embeds a text as its counts of "a" and "b"."""

        def __init__(self, name: str, device: str | None) -> None:
            assert (name, device) == ("some/model", "cpu")
            self.tokenizer, self.max_seq_length = Words(), 4

        def encode(self, texts: list[str], show_progress_bar: bool) -> list[list[float]]:
            assert all(len(text.split()) <= 2 for text in texts)
            return [[float(text.count("a")), float(text.count("b"))] for text in texts]

    monkeypatch.setitem(
        sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    )
    judge = EmbeddingCosine("some/model", device="cpu")
    pairs = [(excerpt("1", "a"), excerpt("2", "a a a")), (excerpt("1", "a"), excerpt("3", "b"))]
    assert judge_pairs(judge, pairs) == pytest.approx([1.0, 0.5])
    assert judge.cost.tokens == 1 + 3 + 1


class TestCalibrate:
    @pytest.mark.parametrize("fnr", [0.0, 0.1, 0.2, 0.5, 0.99])
    def test_the_highest_tau_that_keeps_enough(self, fnr: float) -> None:
        rng = random.Random(5)
        scores = [round(rng.random(), 1) for _ in range(60)]  # with ties
        same = [rng.random() < 0.5 for _ in scores]

        def lost(tau: float) -> float:
            agreeing = [s for s, y in zip(scores, same, strict=True) if y]
            return sum(s <= tau for s in agreeing) / len(agreeing)

        def parted(tau: float) -> int:
            return sum(s <= tau for s, y in zip(scores, same, strict=True) if not y)

        tau = calibrate(scores, same, fnr)
        assert lost(tau) <= fnr
        allowed = [t / 1000 for t in range(-1, 1001) if lost(t / 1000) <= fnr]
        assert parted(tau) == max(map(parted, allowed))

    def test_all_may_be_lost(self) -> None:
        assert calibrate([0.2, 0.9], [True, False], fnr=1) == 1.0

    @pytest.mark.parametrize(
        ("scores", "same", "fnr", "said"),
        [
            ([0.1], [True, False], 0.2, "1 similarities and 2 labels"),
            ([0.1, 0.3], [False, False], 0.2, "No pair agrees"),
            ([0.1], [True], -1, "fnr is -1"),
        ],
    )
    def test_refuses(self, scores: list[float], same: list[bool], fnr: float, said: str) -> None:
        with pytest.raises(LaconicError, match=said):
            calibrate(scores, same, fnr)
