"""The probe against a slow reading of its definition, on invented distributions and on the bundled reasoner."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.assets import reasoner_path
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.errors import LaconicError
from laconic.judges.probe import ProbeJudge
from laconic.prune.judge import Excerpt
from laconic.prune.probing import SUFFIXES


class Probeable:
    """An engine that can only be probed: its traces' distributions are given."""

    def __init__(self, distributions: Tensor, words: Sequence[str] = ("</think>",)) -> None:
        self.distributions = distributions
        self.tokenizer: Any = SimpleNamespace(get_vocab=lambda: dict.fromkeys(words, 0))
        self.stats = SimpleNamespace(side_tokens=5)
        self.asked: list[tuple[list[str], str, int]] = []

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        self.asked.append((list(trace_ids), suffix, steps))
        self.stats.side_tokens += 10 * len(trace_ids)
        return self.distributions


def excerpts(count: int, ended: dict[int, str | None] | None = None) -> list[Excerpt]:
    ended = ended or {}
    return [
        Excerpt(f"t{i}", "tokens:4", "what is x ?", (1,), (2, 3), "so", i in ended, ended.get(i)) for i in range(count)
    ]


def read(judge: ProbeJudge, distributions: Any, ended: dict[int, str | None] | None = None) -> list[Any]:
    return judge.read(excerpts(len(distributions), ended), Probeable(torch.as_tensor(distributions)))  # type: ignore[arg-type]


def overlap(p: Tensor, q: Tensor) -> float:
    """The definition, a token and a step at a time."""
    agreement = 1.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        agreement *= sum(x * y for x, y in zip(a, b, strict=True))
        if a.index(max(a)) != b.index(max(b)):
            return agreement
    return agreement


def distributions(count: int, steps: int, vocabulary: int = 5, seed: int = 0) -> Tensor:
    return (4 * torch.randn(count, steps, vocabulary, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def test_overlap_by_hand() -> None:
    judge = ProbeJudge(steps=2)
    a, b, c = read(
        judge,
        [
            [[0.8, 0.2, 0.0], [0.5, 0.5, 0.0]],
            [[0.6, 0.4, 0.0], [0.0, 0.9, 0.1]],
            [[0.1, 0.9, 0.0], [0.5, 0.5, 0.0]],
        ],
    )
    # a and c part at the first step, so their second steps aren't comparable.
    found = judge.compare([(a, b), (a, c), (a, a)])
    assert found == pytest.approx([(0.48 + 0.08) * 0.45, 0.08 + 0.18, 1.0])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pairs_and_matrix_are_the_definition(steps: int) -> None:
    judge = ProbeJudge(steps=steps)
    given = distributions(12, steps)
    readings = read(judge, given)
    found = judge.matrix(readings)
    assert judge.cost.pairs == 66
    expected = torch.tensor([[1.0 if p is q else overlap(p, q) for q in given] for p in given])
    expected.fill_diagonal_(1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-5)  # rare tokens are dropped
    pairs = judge.compare([(a, b) for a in readings for b in readings])
    torch.testing.assert_close(torch.tensor(pairs).view(12, 12), expected, rtol=0, atol=4e-5)  # rare tokens are dropped
    assert judge.matrix([]).shape == (0, 0)


def test_rare_tokens_are_dropped_without_harm() -> None:
    given = torch.full((2, 1, 5000), 1e-6)
    given[:, 0, 7] = 1 - 4999e-6
    judge = ProbeJudge(steps=1)
    a, b = read(judge, given)
    assert a.probabilities == ({7: pytest.approx(1 - 4999e-6)},)
    assert judge.compare([(a, b)])[0] == pytest.approx(overlap(given[0], given[1]), abs=2e-5)


def test_traces_that_ended_agree_by_their_answers() -> None:
    judge = ProbeJudge(steps=2)
    given = distributions(6, 2)
    readings = read(judge, given, {0: "1/2", 1: "0.5", 2: "7", 3: None})
    found = judge.matrix(readings)
    pairs = judge.compare([(a, b) for a in readings for b in readings])
    torch.testing.assert_close(torch.tensor(pairs).view(6, 6), found)
    assert found[0].tolist()[:4] == [1, 1, 0, 0]
    assert found[3].tolist() == [0, 0, 0, 1, 0, 0]  # no answer agrees with nothing
    # One that ended against one that goes on: what is left is the probe.
    assert float(found[0, 4]) == pytest.approx(overlap(given[0], given[4]), abs=1e-6)


def test_what_is_asked_of_the_engine_and_what_it_costs() -> None:
    source: Any = Probeable(distributions(3, 2))
    judge = ProbeJudge()
    judge.read(excerpts(3), source)
    assert source.asked == [(["t0", "t1", "t2"], SUFFIXES["</think>"], 2)]
    assert (judge.cost.tokens, judge.cost.excerpts) == (30, 3)
    assert judge.read([], source) == []
    source = Probeable(distributions(2, 1))
    ProbeJudge("so: ", 1).read(excerpts(2), source)
    assert source.asked == [(["t0", "t1"], "so: ", 1)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"steps": 0}, "steps is 0"), ({"steps": 1.5}, "steps is 1.5"), ({"suffix": 3}, "suffix is 3")],
)
def test_refuses_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        ProbeJudge(**settings)


def test_refuses_engines_that_do_not_do() -> None:
    with pytest.raises(LaconicError, match="has no engine"):
        ProbeJudge().read(excerpts(1))
    source: Any = Probeable(distributions(1, 2))
    source.tokenizer = None
    with pytest.raises(LaconicError, match="no tokenizer"):
        ProbeJudge().read(excerpts(1), source)
    with pytest.raises(LaconicError, match=r"shape \[1, 2, 5\]; expected \[2, 2, vocabulary\]"):
        ProbeJudge().read(excerpts(2), Probeable(distributions(1, 2)))  # type: ignore[arg-type]
    with pytest.raises(LaconicError, match="no distributions"):
        read(ProbeJudge(), torch.randn(2, 2, 5))


def test_on_the_bundled_reasoner_it_is_what_plain_forward_passes_say() -> None:
    model = AutoModelForCausalLM.from_pretrained(reasoner_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    engine = HFEngine(model, tokenizer)
    question = "given b=1 c=2 f=4 ; d:b d+c d>g ; g:d g-f g>. ; start *>d ; find g ?"
    ids = engine.submit(engine.render(question), Sampling(max_new_tokens=64, temperature=1.0, seed=3), n=4)
    for _ in engine.stream():
        if all(len(engine.trace(i).token_ids) == 20 for i in ids):
            break
    traces = [engine.trace(i) for i in ids]
    cut = [Excerpt(t.id, "tokens:20", question, t.prompt_ids, tuple(t.token_ids), t.text) for t in traces]
    judge = ProbeJudge(steps=2)
    found = judge.matrix(judge.read(cut, engine))
    suffix = tokenizer("</think> \\boxed{", add_special_tokens=False)["input_ids"]
    assert len(suffix) == 2
    assert judge.cost.tokens == 4 * (1 + 2 + 1)  # the newest token, the suffix, and one token of the answer
    given = []
    for trace in traces:
        fed, rows = [*trace.prompt_ids, *trace.token_ids, *suffix], []
        for _ in range(2):
            with torch.inference_mode():
                rows.append(model(torch.tensor([fed])).logits[0, -1].softmax(-1))
            fed.append(int(rows[-1].argmax()))
        given.append(torch.stack(rows))
    expected = torch.tensor([[overlap(p, q) for q in given] for p in given]).fill_diagonal_(1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
