"""What a selector learns from, against the recorder's maxima and the model's own attention maps and cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.engines.hf.families import family
from tests.lab.learn.made import made_traces
from transformers import DynamicCache

from laconic.engines.hf import forced
from laconic.engines.hf.found_rotation import find_rotation
from laconic.engines.hf.recording import record_future
from laconic.errors import LaconicError
from laconic.lab.learn import harvest as harvesting
from laconic.lab.learn.harvest import batches, digest, draw, eligible, harvest
from laconic.traces import TraceRecord

DELAY = 9
LENGTHS = [70, 23, 51, 70, 38, 64]


@pytest.fixture(autouse=True)
def _few_tokens_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "FEWEST", 10)


def everything(records: list[TraceRecord], most: int = 10**6) -> list[harvesting.DrawnTokens]:
    return draw(records, DELAY, most, 0)


def test_which_tokens_can_be_learned_from() -> None:
    """Token i of 40 is followed by a block that begins at i + 9 or later up to 32 - 9: blocks begin at 0, 16 and 32."""
    assert eligible(40, 9) == 24
    assert eligible(33, 9) == 24
    assert eligible(32, 9) == 8  # the last block begins at 16
    assert eligible(9, 9) == eligible(1, 1) == eligible(0, 1) == 0
    assert eligible(17, 16) == 1


def test_drawing_takes_the_same_share_of_every_trace() -> None:
    records = made_traces([400, 200, 8, 800])
    whole = everything(records)
    assert [d.number for d in whole] == [0, 1, 3]
    assert [len(d.positions) for d in whole] == [eligible(n, DELAY) for n in (400, 200, 800)]
    some = draw(records, DELAY, 300, 5)
    counts = [len(d.positions) for d in some]
    assert 290 <= sum(counts) <= 300
    assert [round(2 * c / counts[0]) for c in counts] == [2, 1, 4]
    for each in some:
        assert list(each.positions) == sorted(set(each.positions))
        assert max(each.positions) < eligible(len(each.trace.token_ids), DELAY)
    assert [d.positions for d in draw(records, DELAY, 300, 5)] == [d.positions for d in some]
    assert [d.positions for d in draw(records, DELAY, 300, 6)] != [d.positions for d in some]


def test_too_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "FEWEST", 1000)
    message = r"hold 240 tokens to learn from, in 10 traces \(a token counts where 9 more follow it\); expected at least 1,000"
    with pytest.raises(LaconicError, match=message):
        draw(made_traces([40] * 10), DELAY, 10**6, 0)
    with pytest.raises(LaconicError, match=r"in 1 traces .* in 2: give more traces, or longer ones"):
        draw(made_traces([2000]), DELAY, 10**6, 0)
    with pytest.raises(LaconicError, match="hold 0 tokens"):
        draw(made_traces([5, 5]), DELAY, 10**6, 0)


def test_batches_are_of_about_one_length_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "ROWS", 3)
    monkeypatch.setattr(harvesting, "ROW_TOKENS", 200)
    found = batches(everything(made_traces([*LENGTHS, 600], problems=3)))
    assert sorted(d.number for rows in found for d in rows) == list(range(7))
    for rows in found:
        width = max(len(d.trace.token_ids) + len(d.trace.prompt_ids) for d in rows)
        assert len(rows) <= 3
        assert len(rows) * width <= 200 or len(rows) == 1
    lengths = [[len(d.trace.token_ids) for d in rows] for rows in found]
    assert [max(part) for part in lengths] == sorted(max(part) for part in lengths)


@pytest.mark.parametrize("pass_tokens", [1024, 50])
@pytest.mark.parametrize(("name", "layers"), [("llama", (0, 1)), ("gemma3", (1,)), ("qwen3-next", (1,))])
def test_attention_is_the_recorders(
    name: str, layers: tuple[int, ...], pass_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forced, "PASS_TOKENS", pass_tokens)
    monkeypatch.setattr(harvesting, "ROWS", 4)
    model, records = family(name), made_traces(LENGTHS, problems=2)
    drawn = draw(records, DELAY, 120, 0)
    told: list[tuple[int, int]] = []
    found = harvest(model, drawn, layers, None, "largest", DELAY, tmp_path, lambda *at: told.append(at))
    assert told[-1] == (6, 6)
    assert len(found.files) == 2
    recorded = record_future(model, [record.prompt_ids for record in records], [record.token_ids for record in records])
    traces = found.traces()
    assert len(traces) == sum(len(d.positions) for d in drawn)
    for layer in layers:
        _, _, paid = found.layer(layer)
        for each in drawn:
            want = recorded[each.number][layer].delayed(DELAY)[:, list(each.positions)]
            torch.testing.assert_close(paid[:, traces == each.number], want, rtol=2e-3, atol=1e-6)


def test_the_mean_is_over_the_queries_that_count(tmp_path: Path) -> None:
    model, records = family("llama"), made_traces(LENGTHS[:3])
    drawn = everything(records)
    found = harvest(model, drawn, (0, 1), None, "mean", DELAY, tmp_path)
    model.set_attn_implementation("eager")
    for each in drawn:
        prompt, tokens = each.trace.prompt_ids, each.trace.token_ids
        with torch.no_grad():
            maps = model(torch.tensor([[*prompt, *tokens]]), output_attentions=True).attentions
        for layer in (0, 1):
            paid = found.layer(layer)[2][:, found.traces() == each.number]
            for column, position in enumerate(each.positions):
                first = next(n for n in range(0, 1000, 16) if n >= position + DELAY)
                seen = maps[layer][0, :, len(prompt) + first :, len(prompt) + position].mean(1)
                want = seen.unflatten(0, (2, -1)).mean(1)
                torch.testing.assert_close(paid[:, column], want, rtol=1e-3, atol=1e-6)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_keys_and_values_are_the_caches_keys_turned_back(name: str, tmp_path: Path) -> None:
    model, records = family(name), made_traces(LENGTHS, problems=2)
    rotation = find_rotation(model).rotation
    assert rotation is not None
    drawn = everything(records)
    found = harvest(model, drawn, (0, 1), rotation, "largest", DELAY, tmp_path)
    for each in drawn:
        cache = DynamicCache(config=model.config)
        start = len(each.trace.prompt_ids)
        with torch.no_grad():
            model(torch.tensor([[*each.trace.prompt_ids, *each.trace.token_ids]]), past_key_values=cache)
        for layer in (0, 1):
            at = [start + position for position in each.positions]
            cached: Any = cache.layers[layer]
            want = rotation.undo(cached.keys[0][:, at], torch.tensor(at))
            keys, values, _ = found.layer(layer)
            mine = found.traces() == each.number
            torch.testing.assert_close(keys[:, mine], want, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(values[:, mine], cached.values[0][:, at], rtol=1e-2, atol=1e-2)


def test_parts_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "ROWS", 2)
    model, drawn = family("llama"), everything(made_traces(LENGTHS))
    whole = harvest(model, drawn, (0, 1), None, "largest", DELAY, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(model, drawn, (0, 1), None, "largest", DELAY, tmp_path / "cut", stop)
    first, second = sorted((tmp_path / "cut").iterdir())
    second.write_bytes(second.read_bytes()[:1000])  # and cut off in the middle, as by a loss of power
    before = first.stat().st_mtime_ns
    again = harvest(model, drawn, (0, 1), None, "largest", DELAY, tmp_path / "cut")
    assert first.stat().st_mtime_ns == before
    assert again.bytes == whole.bytes
    for mine, other in zip(again.files, whole.files, strict=True):
        theirs = load_file(other)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(mine).items())


def test_a_digest_tells_harvests_apart() -> None:
    drawn = everything(made_traces(LENGTHS))
    rotation = find_rotation(family("llama")).rotation
    base = digest("a", drawn, "largest", 9, rotation)
    assert base == digest("a", everything(made_traces(LENGTHS)), "largest", 9, rotation)
    others = [
        digest("b", drawn, "largest", 9, rotation),
        digest("a", drawn[1:], "largest", 9, rotation),
        digest("a", drawn, "mean", 9, rotation),
        digest("a", drawn, "largest", 10, rotation),
        digest("a", drawn, "largest", 9, None),
        digest("a", draw(made_traces(LENGTHS), DELAY, 100, 1), "largest", 9, rotation),
    ]
    assert len({base, *others}) == 7
