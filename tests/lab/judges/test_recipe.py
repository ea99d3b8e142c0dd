"""From traces to a judge, and the record beside it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.judges.models import WORDS, llama, word_tokenizer

from laconic.engines.hf import HFEngine
from laconic.errors import LaconicError
from laconic.judges.encoder import PairEncoder
from laconic.judges.folds import question_digest
from laconic.judges.input_spec import sign_fingerprint
from laconic.lab.judges.recipe import (
    EncoderPlan,
    describe_folds,
    new_encoder,
    prepare,
    prepare_folds,
    train_encoder,
    train_other,
    trained_on,
    unknown_to,
    without_known,
    write_record,
)
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.training import predict
from laconic.traces import TraceFile, TraceRecord, tokenizer_fingerprint

PLAN = EncoderPlan(width=16, embedding=8)
QUICK = TrainSettings(epochs=2, batch=4, rate=5e-3, patience=0)


def traces(words: Any, problems: int = 40, **settings: str) -> TraceFile:
    """Four tokens of which the second is the answer."""
    rng, records = random.Random(5), []
    letters = [WORDS.index(letter) for letter in "abcd"]
    for number in range(problems):
        for i in range(4):
            ids = [rng.choice(letters) for _ in range(7)]
            answer = WORDS[ids[1]]
            text = words.decode(ids)
            records.append(
                TraceRecord(
                    f"p{number}", f"q{number} ?", answer, 0, i, 0,
                    {"policy": "full", "tokenizer": tokenizer_fingerprint(words)} | settings,
                    (3, 4, 5), tuple(ids), text, answer, True, "length",
                )
            )  # fmt: skip
    return TraceFile(tuple(records))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def test_data_is_split_by_problem(tokenizer: Any) -> None:
    data = prepare(traces(tokenizer), "tokens:4", tokenizer)
    told = data.describe()
    assert sum(part["problems"] for part in told.values()) == 40
    assert sum(part["pairs"] for part in told.values()) == 40 * 6
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        first, second = ({e.question for e in data.parts[name].excerpts} for name in (a, b))
        assert not first & second


def questions(data: Any, part: str) -> set[str]:
    return {excerpt.question for excerpt in data.parts[part].excerpts}


def test_one_question_under_two_ids_falls_to_one_part(tokenizer: Any) -> None:
    found = traces(tokenizer, problems=20)
    twice = TraceFile(
        (*found.records, *(replace(record, problem=f"again {record.problem}") for record in found.records))
    )
    for data in (prepare(twice, "tokens:4", tokenizer), *prepare_folds(twice, "tokens:4", tokenizer, None, 4)):
        parts = [questions(data, part) for part in ("train", "validation", "test")]
        assert sum(map(len, parts)) == 20
        assert sum(part["problems"] for part in data.describe().values()) == 40
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_every_problem_is_in_one_folds_test(tokenizer: Any) -> None:
    folds = prepare_folds(traces(tokenizer), "tokens:4", tokenizer, None, 5)
    tested = [question for data in folds for question in questions(data, "test")]
    assert sorted(tested) == sorted({f"q{i} ?" for i in range(40)})
    for data, following in zip(folds, [*folds[1:], folds[0]], strict=True):
        assert questions(data, "validation") == questions(following, "test")
        assert len(questions(data, "train")) == 24
    trained = [train_encoder(data, PLAN, replace(QUICK, epochs=1), llama(len(WORDS)), tokenizer) for data in folds]
    told = describe_folds(folds, trained)
    assert told["test"]["pairs"] == sum(fold["test"]["pairs"] for fold in told["folds"]) == 240
    with pytest.raises(LaconicError, match="the folds are 2 of 40 problems; expected at least 3"):
        prepare_folds(traces(tokenizer), "tokens:4", tokenizer, None, 2)


def test_what_a_base_was_trained_on_is_no_test_of_its_successor(tokenizer: Any, tmp_path: Path) -> None:
    data = prepare(traces(tokenizer), "tokens:4", tokenizer)
    known = frozenset({question_digest(next(iter(questions(data, "test")))), question_digest("elsewhere ?")})
    left = without_known(data, known)
    assert len(questions(left, "test")) == len(questions(data, "test")) - 1
    assert questions(left, "train") == questions(data, "train")
    trained = train_encoder(left, PLAN, replace(QUICK, epochs=1), llama(len(WORDS)), tokenizer)
    write_record(tmp_path, "llm", left, QUICK, trained, known)
    assert trained_on(tmp_path) >= known
    everything = frozenset(question_digest(question) for question in questions(data, "test"))
    with pytest.raises(LaconicError, match="without problems that --base knows"):
        without_known(data, everything)


def test_traces_of_another_tokenizer_are_refused_naming_both(tokenizer: Any) -> None:
    mine = tokenizer_fingerprint(tokenizer)
    with pytest.raises(LaconicError, match=f"with the tokenizer feed, the model's is {mine}"):
        prepare(traces(tokenizer, tokenizer="feed"), "tokens:4", tokenizer)


def test_a_part_of_one_class_is_refused_by_name(tokenizer: Any) -> None:
    found = traces(tokenizer)
    alike = TraceFile(tuple(replace(record, answer="a") for record in found.records))
    with pytest.raises(LaconicError, match=r"the train part has .* all the same"):
        prepare(alike, "tokens:4", tokenizer)


def test_a_new_encoder_starts_from_the_reasoners_embedding(tokenizer: Any) -> None:
    model, data = llama(len(WORDS)), prepare(traces(tokenizer), "tokens:4", tokenizer)
    judge = new_encoder(data, replace(PLAN, embedding=64), model, tokenizer)
    table = model.get_input_embeddings().get_parameter("weight").detach()
    assert judge.config.embedding == table.shape[1]
    torch.testing.assert_close(judge.network.embedding.weight.detach(), table / table.std())
    narrow = new_encoder(data, PLAN, model, tokenizer).network.embedding.weight.detach()
    assert narrow.shape == (len(WORDS), 8)
    assert float(narrow.std()) == pytest.approx(1, rel=1e-3)
    assert (judge.input_spec.excerpt, judge.config.tokens) == ("tokens:4", 4)
    assert (judge.input_spec.tokenizer, judge.input_spec.model) == (tokenizer_fingerprint(tokenizer), "")


@pytest.mark.parametrize("states", [False, True])
def test_training_end_to_end(tokenizer: Any, tmp_path: Path, states: bool) -> None:
    model = llama(len(WORDS))
    plan = replace(PLAN, vectors="states", layers=(1,)) if states else PLAN
    engine = HFEngine(model, tokenizer, state_layers=(1,))
    found = traces(tokenizer, problems=90)
    data = prepare(found, "tokens:4", tokenizer)
    looks: list[Any] = []
    settings = replace(QUICK, epochs=14, batch=2, rate=1e-2)
    trained = train_encoder(data, plan, settings, model, tokenizer, engine, tmp_path / "work", looks.append)
    assert trained.test.auroc.value > 0.9
    assert trained.test.pairs == len(data.parts["test"])
    assert tuple(looks) == trained.fit.looks
    assert trained.judge.scale != 1.0
    assert trained.judge.input_spec.model == (sign_fingerprint(model) if states else "")
    trained.judge.save(tmp_path)
    write_record(tmp_path, "encoder", data, settings, trained, plan={"x": 1})
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["excerpt"] == "tokens:4"
    assert record["parts"] == data.describe()
    assert record["plan"] == {"x": 1}
    assert record["test"]["auroc"]["value"] == trained.test.auroc.value
    assert record["looks"][-1]["step"] == trained.fit.looks[-1].step
    # Nobody is scored on what they were trained or chosen on.
    known = trained_on(tmp_path)
    everything = prepare(found, "tokens:4", tokenizer, shares=(1 / 3, 1 / 3, 1 / 3))
    left = {e.question for part in everything.parts.values() for e in unknown_to(part, known).excerpts}
    assert left == {e.question for e in data.parts["test"].excerpts}
    assert question_digest("q0 ?") in known or "q0 ?" in left
    again = PairEncoder.open(tmp_path, model=model, tokenizer=tokenizer, device="cpu")
    assert again.scale == trained.judge.scale


def test_another_seed_is_another_judge(tokenizer: Any) -> None:
    model, data = llama(len(WORDS)), prepare(traces(tokenizer), "tokens:4", tokenizer)
    logits = []
    for seed in (0, 0, 1):
        trained = train_encoder(data, PLAN, replace(QUICK, epochs=1, seed=seed), model, tokenizer)
        logits.append(predict(trained.judge, data.parts["test"]))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_any_trainable_judge_goes_the_same_way(tokenizer: Any) -> None:
    model, data = llama(len(WORDS)), prepare(traces(tokenizer), "tokens:4", tokenizer)
    judge = new_encoder(data, PLAN, model, tokenizer)
    trained = train_other(judge, data, QUICK)
    assert judge.scale == 1.0
    assert trained.test.pairs == len(data.parts["test"])


def test_other_models_tokens_do_not_stand_beside_the_reasoners() -> None:
    with pytest.raises(LaconicError, match="plan tokens=False"):
        EncoderPlan(vectors="model:x")


def test_a_judge_without_a_record_knows_nothing(tmp_path: Path) -> None:
    assert trained_on(tmp_path) == frozenset()
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(LaconicError, match="is broken"):
        trained_on(tmp_path)
