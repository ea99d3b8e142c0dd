"""Timed pieces decode what they say they do: the state at a length is the one that a whole run has there."""

from __future__ import annotations

import pytest
import torch

from laconic.compress.registry import parse
from laconic.engines.base import Sampling
from laconic.engines.hf.shapes import Shape, build, kv_bytes_per_token
from laconic.errors import LaconicError
from laconic.lab.throughput import decoding
from laconic.lab.throughput.decoding import WARM, DecodingCase, _TimedEngine, decode

CPU = torch.device("cpu")
SHAPE = Shape(
    "small",
    "llama",
    "",
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 512,
    },
)
METHODS = ["generate", "full", "rpc:interval=16,ratio=4,window=8", "streamingllm:budget=24", "rkv:budget=24,buffer=16"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return build(SHAPE, torch.float32, CPU)


def attended(method: str, cell: DecodingCase) -> int:
    """Step by step: each row attends to the prompt, what is held, and its own new token."""
    total = 0
    for token in range(cell.start + 1, cell.end + 1):
        if method == "generate":
            total += cell.prompt + token
        else:
            total += parse(method).schedule.physical(token - 1, cell.prompt) + 1
    return total * cell.batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "cell", [DecodingCase("small", 3, 10, 50, "at", 20), DecodingCase("small", 2, 10, 60)], ids=lambda c: c.mode
)
def test_a_piece_is_what_it_says(model, method: str, cell: DecodingCase) -> None:
    sample = decode(model, method, cell)
    assert sample.steps == cell.timed
    assert sample.tokens == cell.timed * cell.batch
    assert sample.seconds > 0
    assert sample.step_seconds <= sample.seconds
    assert sample.attended == attended(method, cell)
    if method == "generate":
        assert (sample.live_bytes, sample.reserved_bytes, sample.compressions) == (None, None, 0)
        return
    schedule = parse(method).schedule
    per_token = kv_bytes_per_token(model.config, torch.float32)
    assert sample.live_bytes == schedule.physical(cell.end, cell.prompt) * cell.batch * per_token
    assert sample.reserved_bytes is not None
    assert sample.reserved_bytes >= sample.live_bytes
    assert sample.compressions == schedule.rounds(cell.end) - schedule.rounds(cell.start)


def test_the_state_at_a_length_is_that_of_a_whole_run(model) -> None:
    """Feed a whole run's own tokens up to a length: the tokens that follow are the whole run's, evictions included."""
    policy = parse("rpc:interval=16,ratio=4,window=8")
    cell = DecodingCase("small", 2, 10, 60, "at", 20)
    prompt, _ = decoding._tokens(model, cell, 0)
    whole = _TimedEngine(model, policy, DecodingCase("small", 2, 10, 90))
    (trace, _) = whole.generate([prompt], Sampling(max_new_tokens=90, temperature=0.0), 2)[0]
    jump = _TimedEngine(model, policy, cell)
    names = jump.submit(prompt, Sampling(max_new_tokens=81, temperature=0.0), 2)
    for name in names:
        jump.stop(name)
        jump.trace(name).token_ids.extend(trace.token_ids[: 60 - WARM + 1])
        jump.resume(name)
    for _ in jump.stream():
        pass
    assert policy.schedule.rounds(60) >= 3  # or nothing was evicted before the jump
    assert [jump.trace(name).token_ids for name in names] == [trace.token_ids[:81]] * 2


def test_generate_starts_its_window_from_the_cache_not_from_scratch(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the cache is filled, every forward pass is of one token a row."""
    cell = DecodingCase("small", 3, 10, 50, "at", 20)
    passes = []
    forward = model.forward

    def counted(*args, **kwargs):
        passes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    decode(model, "generate", cell)
    assert passes == [(1, 10 + 50 - WARM)] + [(3, 1)] * (WARM + 20)


def test_all_rows_share_one_prefill(model, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = DecodingCase("small", 3, 10, 50, "at", 20)
    passes = []
    forward = model.forward

    def counted(*args, **kwargs):
        passes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    decode(model, "full", cell)
    assert passes == [(1, 10), (1, 50 - WARM)] + [(3, 1)] * (WARM + 20)


def test_compression_time_is_told_apart(model) -> None:
    cell = DecodingCase("small", 1, 4, 20, "at", 4)
    stamps = [0.0, 1.0, 2.0, 5.0, 6.0]
    sample = decoding._sample(cell, stamps, {2}, peak=None, attended=0, live=0, reserved=0)
    assert (sample.seconds, sample.step_seconds, sample.compressions, sample.compression_seconds) == (6.0, 1.0, 1, 2.0)
    # Where every step compresses there is nothing to tell apart.
    sample = decoding._sample(cell, stamps, {0, 1, 2, 3}, peak=None, attended=0, live=0, reserved=0)
    assert (sample.step_seconds, sample.compression_seconds) == (1.0, 0.0)


def test_a_cell_beyond_the_context_is_refused(model) -> None:
    with pytest.raises(LaconicError, match="does not fit the model's context"):
        decode(model, "full", DecodingCase("small", 1, 10, 600))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: DecodingCase("small", 0, 1, 10), "batch is 0"),
        (lambda: DecodingCase("small", 1, 0, 10), "prompt is 0"),
        (lambda: DecodingCase("small", 1, 1, 1), "length is 1"),
        (lambda: DecodingCase("small", 1, 1, 10, "at"), "steps is 0"),
        (lambda: DecodingCase("small", 1, 1, 10, "near"), "expected one of whole, at"),  # type: ignore[arg-type]
        (lambda: DecodingCase("small", 1, 1, 2, "at", 4), "length is 2"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word):
        call()
