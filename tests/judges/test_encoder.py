"""The pair encoder as a judge: what it reads, what it costs, how it is saved, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.errors import LaconicError
from laconic.judges import encoder as encoder_module
from laconic.judges.encoder import PairEncoder, open_vector_source
from laconic.judges.input_spec import EncoderInputSpec, sign_fingerprint
from laconic.judges.network import EncoderConfig
from laconic.judges.vectors import DecoderStates, ReasonerStates
from laconic.lab.judges.reread import Reread
from laconic.prune.excerpts import parse
from laconic.prune.judge import Excerpt, judge_pairs
from laconic.prune.needs import Needs
from laconic.traces import tokenizer_fingerprint
from tests.judges.models import WORDS, llama, word_tokenizer

KIND = "tokens:5"
TOKENS = EncoderConfig(vocabulary=40, embedding=8, tokens=5, width=16, heads=2, pools=2, encoding=8, hidden=8)
STATES = replace(TOKENS, given=6, vocabulary=0)


class Engine:
    """States that say which trace and position they are of; knows how many tokens it ran for them."""

    def __init__(self, width: int = 6, layers: tuple[int, ...] = (-1,), reads: int = 0) -> None:
        self.width, self.state_layers, self.reads = width, layers, reads
        self.stats = SimpleNamespace(side_tokens=100)
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        self.asked.append((tuple(trace_ids), tokens))
        self.stats.side_tokens += self.reads
        seeds = [sum(map(ord, trace_id)) for trace_id in trace_ids]
        rows = [torch.randn(32, self.width, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(rows)[:, :tokens]


def excerpt(name: str, *ids: int, kind: str = KIND, prompt: tuple[int, ...] = (1, 2, 3)) -> Excerpt:
    return Excerpt(name, kind, "what ?", prompt, ids, " ".join(map(str, ids)))


SOME = [excerpt("a", 7, 8, 9, 1, 2), excerpt("b", 7, 8, 9, 1, 3), excerpt("c", 30, 31), excerpt("d")]


def plain(seed: int = 0, shape: EncoderConfig = TOKENS, **made: Any) -> PairEncoder:
    return PairEncoder(EncoderInputSpec(KIND, **made), shape, seed=seed)


def of_states(engine_width: int = 6) -> PairEncoder:
    return PairEncoder(
        EncoderInputSpec(KIND, "states", (-1,)), replace(STATES, given=engine_width), ReasonerStates(engine_width)
    )


def test_all_pairs_at_once_are_each_pair_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = plain()
    readings = judge.read(SOME)
    table = judge.matrix(readings)
    for i, a in enumerate(readings):
        assert table[i, i] == 1
        for j, b in enumerate(readings[:i]):
            (found,) = judge.compare([(a, b)])
            assert 0 < found < 1
            assert table[i, j].item() == pytest.approx(found, abs=1e-6)
            assert table[j, i] == table[i, j]
    monkeypatch.setattr(encoder_module, "COMPARED_AT_ONCE", 2)
    monkeypatch.setattr(encoder_module, "ENCODED_AT_ONCE", 3)
    torch.testing.assert_close(judge.matrix(judge.read(SOME)), table)


def test_reading_many_is_reading_each() -> None:
    judge = plain()
    torch.testing.assert_close(torch.stack(judge.read(SOME)), torch.stack([judge.read([e])[0] for e in SOME]))
    assert judge.read([]) == []
    assert judge.compare([]) == []


def test_what_it_does_is_counted_and_its_own_tokens_are_not() -> None:
    judge = plain()
    judge_pairs(judge, [(SOME[0], SOME[1]), (SOME[0], SOME[2])])
    assert (judge.cost.excerpts, judge.cost.pairs, judge.cost.tokens) == (3, 2, 0)
    assert judge.cost.seconds > 0
    judge.matrix(judge.read(SOME))
    assert (judge.cost.excerpts, judge.cost.pairs) == (7, 8)


def test_what_precedes_a_token_in_the_question_is_read() -> None:
    judge = plain()
    told = [judge.read([excerpt("a", 7, 8, prompt=prompt)])[0] for prompt in ((5, 8), (6, 8), (8, 5), (5, 5))]
    # After 5; after 6; first of all, so after nothing; not at all. The last two are alike, the others are not.
    assert torch.equal(told[2], told[3])
    assert not torch.allclose(told[0], told[1])
    assert not torch.allclose(told[0], told[2])


def test_the_first_place_in_the_question_counts() -> None:
    judge = plain()
    first, both = (judge.read([excerpt("a", 8, prompt=prompt)])[0] for prompt in ((5, 8, 1, 9), (5, 8, 6, 8)))
    assert torch.equal(first, both)


def test_a_long_excerpt_is_read_from_its_end() -> None:
    judge = PairEncoder(EncoderInputSpec("words:2"), TOKENS)
    long, tail = (excerpt("a", *ids, kind="words:2") for ids in (range(10, 19), range(14, 19)))
    assert torch.equal(*judge.read([long, tail]))


def test_states_are_asked_for_but_the_last_tokens() -> None:
    judge, engine = of_states(), Engine()
    readings = judge.read(SOME[:3], engine)  # type: ignore[arg-type]
    assert engine.asked == [(("a", "b", "c"), 4)]
    assert judge.cost.tokens == 0
    # Trace c has gone on since: what lies beyond its excerpt of two tokens changes nothing.
    longer = excerpt("c", 30, 31)
    torch.testing.assert_close(judge.read([longer], engine)[0], readings[2])  # type: ignore[arg-type]
    assert judge.needs() == Needs(state_tokens=5, state_layers=(-1,))
    assert plain().needs() == Needs(token_ids=True)


def test_tokens_that_an_engine_ran_for_states_are_on_the_bill() -> None:
    judge = of_states()
    judge.read(SOME[:2], Engine(reads=11))  # type: ignore[arg-type]
    assert judge.cost.tokens == 11


def test_states_are_read() -> None:
    judge = of_states()
    twins = [excerpt("a", 7, 8, 9), excerpt("b", 7, 8, 9)]
    assert not torch.allclose(*judge.read(twins, Engine()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def live() -> HFEngine:
    """Three traces of a tiny model, stopped in the middle, whose states were noted on the way."""
    engine = HFEngine(llama(len(WORDS)), word_tokenizer(), record_states=5, state_layers=(1, -1))
    ids = engine.submit([3, 4, 5, 6], Sampling(max_new_tokens=12, temperature=1.0, seed=3), n=3)
    for _ in engine.stream():
        if all(len(engine.trace(i).token_ids) >= 5 for i in ids):
            break
    return engine


def test_recorded_excerpts_give_the_readings_of_live_ones(live: HFEngine) -> None:
    width = 2 * int(live.model.config.hidden_size)
    judge = PairEncoder(
        EncoderInputSpec(KIND, "states", (1, -1)), replace(STATES, given=width), ReasonerStates(width, (1, -1))
    )
    cut = parse(KIND)
    excerpts = [cut.cut(live.trace(f"p0-{i}"), "q", live) for i in range(3)]
    readings = torch.stack(judge.read(excerpts, live))
    assert judge.cost.tokens == 0
    again = HFEngine(live.model, live.tokenizer, state_layers=(1, -1))
    source = Reread(again, excerpts)
    torch.testing.assert_close(torch.stack(judge.read(excerpts, source)), readings, atol=1e-4, rtol=1e-3)  # type: ignore[arg-type]
    assert judge.cost.tokens == 0
    assert source.seconds > 0
    # An engine that did not note them reads again, which is on the bill.
    unwilling = HFEngine(live.model, live.tokenizer, state_layers=(1, -1))
    unwilling.submit([3, 4, 5, 6], Sampling(max_new_tokens=12, temperature=1.0, seed=3), n=3)
    for _ in unwilling.stream():
        if all(len(unwilling.trace(f"p0-{i}").token_ids) >= 5 for i in range(3)):
            break
    judge.read(excerpts, unwilling)
    assert judge.cost.tokens > 0


def test_a_reread_probe_is_billed_as_a_live_one(live: HFEngine) -> None:
    excerpts = [parse(KIND).cut(live.trace(f"p0-{i}"), "q", live) for i in range(3)]
    source = Reread(HFEngine(live.model, live.tokenizer), excerpts)
    before = live.stats.side_tokens
    ids = [e.trace_id for e in excerpts]
    wanted = live.probe(ids, "a b", 2)
    torch.testing.assert_close(source.probe(ids, "a b", 2), wanted, atol=1e-5, rtol=1e-4)
    assert source.stats.side_tokens == live.stats.side_tokens - before
    with pytest.raises(LaconicError, match="kept does not say where its trace stood"):
        Reread(live, [excerpt("x", 1, kind="kept")]).probe(["x"], "a", 1)


def test_another_decoders_states(tmp_path: Path) -> None:
    model, tokenizer = llama(len(WORDS)), word_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = EncoderInputSpec(KIND, f"model:{tmp_path}")
    vectors = open_vector_source(made, device="cpu")
    assert isinstance(vectors, DecoderStates)
    judge = PairEncoder(made, replace(STATES, given=vectors.width), vectors)
    texts = [replace(e, text=t) for e, t in zip(SOME, ("a b c", "a b", "c", ""), strict=True)]
    together = torch.stack(judge.read(texts))
    torch.testing.assert_close(together, torch.stack([judge.read([e])[0] for e in texts]), atol=1e-5, rtol=1e-4)
    question = len(tokenizer("what ?\n\n")["input_ids"])
    assert judge.cost.tokens == 2 * (4 * question + 3 + 2 + 1)
    # Only the excerpt's last tokens are encoded, and the question is read before them.
    long = replace(SOME[0], text="b a a a a a")
    assert len(vectors.fetch([long], None, 5)[0][0]) == 5
    other = replace(long, question="c c c ?")
    assert not torch.allclose(vectors.fetch([long], None, 5)[0][0], vectors.fetch([other], None, 5)[0][0])


def test_what_is_saved_is_what_is_opened(tmp_path: Path) -> None:
    judge = plain(seed=3)
    judge.scale, judge.shift = 1.7, -0.25
    judge.save(tmp_path)
    again = PairEncoder.open(tmp_path, device="cpu")
    assert again.input_spec == judge.input_spec
    assert again.config == judge.config
    assert again.excerpt == KIND
    assert torch.equal(again.matrix(again.read(SOME)), judge.matrix(judge.read(SOME)))
    other = plain(seed=4)
    assert not torch.equal(other.matrix(other.read(SOME)), judge.matrix(judge.read(SOME)))
    assert torch.equal(other.load(tmp_path).matrix(other.read(SOME)), judge.matrix(judge.read(SOME)))


def test_a_judge_of_states_opens_with_its_layers(tmp_path: Path) -> None:
    PairEncoder(EncoderInputSpec(KIND, "states", (1, -1)), STATES, ReasonerStates(6, (1, -1))).save(tmp_path)
    assert PairEncoder.open(tmp_path, device="cpu").needs() == Needs(state_tokens=5, state_layers=(1, -1))


def test_another_tokenizer_or_model_is_refused_naming_both(tmp_path: Path) -> None:
    model, tokenizer = llama(len(WORDS)), word_tokenizer()
    mine = tokenizer_fingerprint(tokenizer)
    plain(tokenizer=mine, model=sign_fingerprint(model)).save(tmp_path)
    assert PairEncoder.open(tmp_path, model=model, tokenizer=tokenizer, device="cpu")
    assert PairEncoder.open(tmp_path, model=model.bfloat16(), device="cpu")
    tokenizer.chat_template = "another"
    with pytest.raises(
        LaconicError, match=f"the tokenizer {mine}, this reasoner's is {tokenizer_fingerprint(tokenizer)}"
    ):
        PairEncoder.open(tmp_path, tokenizer=tokenizer)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    with pytest.raises(
        LaconicError,
        match=f"the model {sign_fingerprint(llama(len(WORDS)))}, this reasoner's is {sign_fingerprint(model)}",
    ):
        PairEncoder.open(tmp_path, model=model)


def test_another_excerpt_is_refused_naming_both() -> None:
    with pytest.raises(LaconicError, match="trained for excerpts tokens:5, it was given words:3"):
        plain().read([excerpt("a", 1, kind="words:3")])


def test_other_states_are_refused() -> None:
    with pytest.raises(LaconicError, match="no engine was given"):
        of_states().read(SOME)
    with pytest.raises(LaconicError, match=r"layers \[-1\], the engine gives those of \[2\]"):
        of_states().read(SOME, Engine(layers=(2,)))  # type: ignore[arg-type]
    with pytest.raises(LaconicError, match=r"are \[4, 4, 7\], this judge was trained on \[4, 4, 6\]"):
        of_states().read(SOME, Engine(width=7))  # type: ignore[arg-type]


def test_a_token_it_does_not_know_is_refused() -> None:
    with pytest.raises(LaconicError, match="token id 40, this judge knows 40 tokens"):
        plain().read([excerpt("a", 40)])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"excerpt": "kept", "vectors": "states", "layers": (-1,)}, "kept does not"),
        ({"excerpt": KIND, "vectors": "magic"}, "vectors is 'magic'"),
        ({"excerpt": KIND, "vectors": "states"}, "layers is"),
        ({"excerpt": KIND, "layers": (1,)}, "layers is"),
    ],
)
def test_what_can_not_be_made_is_refused(made: dict[str, Any], said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        EncoderInputSpec(**made)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(LaconicError, match="given is 6, the vectors have 0"):
        PairEncoder(EncoderInputSpec(KIND), STATES)


def test_what_holds_no_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="no judge at"):
        PairEncoder.open(tmp_path)
    file = tmp_path / "config.json"
    for text in ("not json", "[]", json.dumps({"format": "laconic.judge/99"})):
        file.write_text(text)
        with pytest.raises(LaconicError, match=r"expected laconic\.judge/1"):
            PairEncoder.open(tmp_path)
    file.write_text(json.dumps({"format": "laconic.judge/1", "made": {"excerpt": KIND, "layers": []}}))
    with pytest.raises(LaconicError, match="not that of a pair encoder"):
        PairEncoder.open(tmp_path)
    plain().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(LaconicError, match="weights of the judge at"):
        PairEncoder.open(tmp_path)


def test_weights_of_another_shape_are_not_taken(tmp_path: Path) -> None:
    plain().save(tmp_path)
    with pytest.raises(LaconicError, match="has shape"):
        plain(shape=replace(TOKENS, hidden=4)).load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["shape"] = asdict(replace(TOKENS, hidden=4))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LaconicError, match="can't be loaded"):
        PairEncoder.open(tmp_path)
