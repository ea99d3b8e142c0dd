"""LightThinker's fine-tuning: thoughts, masks and weights, a training that is interrupted, and the folder that it writes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.reference.lightthinker import blocks, masked_logprobs, may_see
from training.lightthinker.data import batch, chunk, ends_of_thoughts, split_trace, visible
from training.lightthinker.recipe import BRIEF, TuneRecipe
from training.lightthinker.train import Tuner, masked_loss
from training.reasoner.data import Mixture
from training.reasoner.export import export
from training.reasoner.model import Shape, Student
from training.reasoner.traces import Habits, write_trace
from training.reasoner.vocabulary import TOKENS
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.compress import LightThinker, ThoughtTokens
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.problems.programs import sample_program

MARKS = ThoughtTokens(len(TOKENS), (len(TOKENS) + 1, len(TOKENS) + 2), len(TOKENS) + 3)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny untrained checkpoint with the reasoner's vocabulary."""
    folder = tmp_path_factory.mktemp("base")
    export(Student(Shape(width=32, layers=2, heads=2, kv_heads=1, head_width=16, hidden=32)), folder, 1.0)
    return folder


def some_trace(seed: int, steps: int = 5):
    rng = random.Random(seed)
    return write_trace(sample_program(rng, steps), rng)


def words(ids) -> str:
    return " ".join([*TOKENS, "<s>", "<c1>", "<c2>", "<o>"][i] for i in ids)


def test_a_thought_ends_with_the_sentence_that_says_what_comes_next():
    for seed in range(10):
        trace = some_trace(seed)
        ends = ends_of_thoughts(trace.ids, trace.prompt_length, 24)
        assert len(ends) > 4
        thoughts = [trace.ids[a:b] for a, b in zip([trace.prompt_length, *ends], ends, strict=False)]
        for thought in thoughts:
            assert len(thought) >= 24
            assert words(thought[-2:]).split()[0][1:2] == ">"
            assert words(thought[-1:]) == "."
        rest = words(trace.ids[ends[-1] :])
        assert "the answer is" in rest
        assert "</think>" in rest
        assert "draft" in words(thoughts[0])
        assert len(ends_of_thoughts(trace.ids, trace.prompt_length, 1)) > len(ends)


def test_splitting_adds_tokens_that_carry_no_loss_but_the_splitter():
    trace = some_trace(3)
    split = split_trace(trace, MARKS, 24)
    added = {MARKS.splitter, *MARKS.fed}
    assert tuple(i for i in split.ids if i not in added) == trace.ids
    count = len(ends_of_thoughts(trace.ids, trace.prompt_length, 24))
    assert split.ids.count(MARKS.splitter) == count
    for i, token in enumerate(split.ids):
        if token == MARKS.splitter:
            assert split.ids[i + 1 : i + 1 + len(MARKS.fed)] == MARKS.fed
            assert split.weights[i] > 0
        if token in MARKS.fed:
            assert split.weights[i] == 0
    assert set(split.weights[: split.prompt_length]) == {0.0}


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_is_the_slow_one(seed):
    split = split_trace(some_trace(seed, 3), MARKS, 24)
    mask = visible(split.ids, split.prompt_length, MARKS)
    assert mask.tolist() == may_see(list(split.ids), split.prompt_length, MARKS)
    assert len(blocks(list(split.ids), split.prompt_length, MARKS)) > 2
    wide = visible(split.ids, split.prompt_length, MARKS, len(split.ids) + 3)
    assert wide[: len(split.ids), : len(split.ids)].equal(mask)
    assert not wide[:, len(split.ids) :].any()
    assert wide[-1, : len(split.ids)].equal(mask[-1])


def test_a_batch_has_the_loss_of_its_rows_alone(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(TOKENS) + 4)
    splits = [split_trace(some_trace(seed, steps), MARKS, 24) for seed, steps in ((1, 2), (2, 4))]
    whole = batch(splits, MARKS)
    assert whole.ids.shape == whole.weights.shape == whole.visible.shape[:2]
    weights = [sum(split.weights[1:]) for split in splits]
    with torch.no_grad():
        alone = [masked_loss(model, batch([split], MARKS)).item() for split in splits]
        together = masked_loss(model, whole).item()
    assert together == pytest.approx(sum(a * w for a, w in zip(alone, weights, strict=True)) / sum(weights), abs=1e-4)


def test_a_chunk_is_a_function_of_its_place():
    settings = {"size": 12, "longest": 700, "most": 1500, "shortest": 24}
    first = chunk(0, 0, Mixture(1, 4, drills=0), Habits(), MARKS, **settings)
    assert chunk(0, 0, Mixture(1, 4, drills=0), Habits(), MARKS, **settings) == first
    assert chunk(0, 1, Mixture(1, 4, drills=0), Habits(), MARKS, **settings) != first
    assert chunk(1, 0, Mixture(1, 4, drills=0), Habits(), MARKS, **settings) != first
    for rows in first:
        assert len(rows) * max(len(row.ids) for row in rows) <= 1500


def test_an_interrupted_training_ends_in_the_same_weights(base, tmp_path):
    whole = Tuner(BRIEF, base, tmp_path / "whole")
    whole.run(log_every=1)
    part = Tuner(BRIEF, base, tmp_path / "parts")
    part.run(until=2, log_every=1)
    last = Tuner(BRIEF, base, tmp_path / "parts")
    last.resume()
    assert last.step == 2
    last.run(log_every=1)
    for (name, a), b in zip(whole.model.state_dict().items(), last.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    curves = [
        [(record["step"], record["loss"]) for record in map(json.loads, (tmp_path / place / "curve.jsonl").open())]
        for place in ("whole", "parts")
    ]
    assert curves[0] == curves[1]
    assert curves[0][-1][1] < curves[0][0][1]
    other = Tuner(replace(BRIEF, seed=1), base, tmp_path / "parts")
    with pytest.raises(ValueError, match="another recipe"):
        other.resume()
    elsewhere = Tuner(BRIEF, base, tmp_path / "parts")
    assert elsewhere.origin == whole.origin
    elsewhere.origin = "another"
    with pytest.raises(ValueError, match="began with another base"):
        elsewhere.resume()


def test_what_it_writes_runs_under_the_policy_as_it_was_trained(base, tmp_path):
    """The engine's own steps on the written folder have the probabilities of one pass under the training's mask."""
    command = [sys.executable, "-m", "training.lightthinker", str(tmp_path / "work"), "--out", str(tmp_path / "model")]
    command += ["--base", str(base), "--recipe", "brief", "--steps", "3", "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    marks = ThoughtTokens.of(json.loads((tmp_path / "model" / "lightthinker.json").read_text()))
    assert tokenizer.convert_ids_to_tokens([marks.splitter, *marks.fed]) == [
        "<|thought|>",
        *(f"<|cache{i}|>" for i in range(1, 10)),
        "<|continue|>",
    ]
    assert model.config.vocab_size == len(TOKENS) + 11
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    with torch.no_grad():  # so little was learned that it would hardly ever end a thought
        head.weight.copy_(model.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[marks.splitter] = 4.0
    model.set_output_embeddings(head)
    engine = HFEngine(model, tokenizer, LightThinker())
    sampling = Sampling(max_new_tokens=150, temperature=1.0, top_p=1.0, logprobs=0)
    question = sample_program(random.Random(1), 2).question()
    traces = engine.generate([engine.render(question)], sampling, 4)[0]
    thoughts = 0
    for trace in traces:
        ids, prompt = [*trace.prompt_ids, *trace.token_ids], len(trace.prompt_ids)
        mask = visible(ids, prompt, marks)
        assert mask.tolist() == may_see(ids, prompt, marks)
        scores = masked_logprobs(model, ids, prompt, marks)
        want = [scores[place - 1, ids[place]].item() for place in range(prompt, len(ids))]
        assert [one.logprob for one in trace.logprobs] == pytest.approx(want, abs=2e-4)
        thoughts += len(blocks(ids, prompt, marks))
    assert thoughts


@pytest.mark.parametrize(
    ("settings", "says"), [({"steps": 0}, "steps must be positive"), ({"longest": 9000}, "at most its tokens")]
)
def test_recipes_that_can_not_be(settings, says):
    with pytest.raises(ValueError, match=says):
        replace(TuneRecipe(), **settings)


def test_bad_input_is_said_in_a_sentence(base, tmp_path):
    Tuner(BRIEF, base, tmp_path).save()
    command = [sys.executable, "-m", "training.lightthinker", str(tmp_path), "--base", str(base), "--recipe", "brief"]
    found = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 2
    assert "was made by another recipe; use another directory" in found.stderr
    assert "Traceback" not in found.stderr
