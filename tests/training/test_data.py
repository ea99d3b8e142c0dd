import random

import pytest
import torch
from training.reasoner.data import Mixture, chunk, drill, heldout_traces, line_drill, training_trace
from training.reasoner.traces import Habits
from training.reasoner.vocabulary import IDS, PAD, TOKENS

from laconic.problems.programs import LETTERS, sample_program

BUCKETS = (96, 192, 320)


def batches(index=0, seed=0):
    return chunk(seed, index, Mixture(1, 3), Habits(), size=24, buckets=BUCKETS, tokens=640)


def test_a_chunk_depends_on_seed_and_index_only():
    for a, b in zip(batches(), batches(), strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.weights, b.weights)
    assert any(not torch.equal(a.ids, b.ids) for a, b in zip(batches(0), batches(1), strict=False))


def test_batches_have_few_shapes_and_no_weight_on_prompt_or_padding():
    shapes = {(640 // bucket, bucket) for bucket in BUCKETS}
    masked = 0
    for batch in batches():
        assert tuple(batch.ids.shape) in shapes
        assert batch.weights[batch.ids == IDS[PAD]].eq(0).all()
        for row, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
            if IDS["<think>"] in row:  # not a drill
                assert not any(weights[: row.index(IDS["<think>"]) + 1])
                masked += 1
    assert masked > 0


def test_training_and_diagnostic_traces_come_from_their_own_split():
    # A program can be told from its prompt: the digits, the signs and who uses whom.
    def key(trace):
        return tuple(trace.ids[: trace.prompt_length])

    rng = random.Random(0)
    made = {}
    for _ in range(400):
        program = sample_program(rng, 2)
        made[program.question()] = program.split()
    assert set(made.values()) == {"train", "heldout"}
    trained = {key(training_trace(rng, Mixture(1, 2), Habits())) for _ in range(200)}
    held = {key(trace) for trace in heldout_traces(0, Mixture(1, 2), 50, Habits())}
    assert not trained & held


def test_drills_are_right():
    trace = drill(random.Random(0), 70)
    words = [TOKENS[i] for i in trace.ids]
    assert len(words) == len(trace.tags) == 70
    for i in range(0, 70, 7):
        a, sign, b, _, result = words[i + 1 : i + 6]
        assert eval(f"({a} {sign} {b}) % 10") == int(result)
        assert trace.tags[i + 5] == "a"


def test_line_drills_are_right():
    trace = line_drill(random.Random(0), 103)
    words = [TOKENS[i] for i in trace.ids]
    assert len(words) == len(trace.tags) == 100
    for i in range(0, 100, 10):
        line, operand, a, sign, b, _, result, stored = words[i + 2 : i + 10]
        assert sorted(words[i : i + 2]) == sorted([f"{line[2]}={a}", f"{operand[2]}={b}"])
        assert (line[0], operand[:2]) == (stored[0], stored[0] + sign)
        assert eval(f"({a} {sign} {b}) % 10") == int(result) == int(stored[2])
        assert trace.tags[i : i + 10] == "....dwdwas"


def test_a_mixture_checks_itself():
    with pytest.raises(ValueError, match="shortest"):
        Mixture(3, 2)
    with pytest.raises(ValueError, match="drills"):
        Mixture(drills=1.0)
    assert len(LETTERS) == 16
