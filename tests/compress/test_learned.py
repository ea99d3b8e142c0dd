"""The policy `learned`: its spelling, its scorer against loops in ragged batches, and how it comes by its selector."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from laconic.compress import (
    RPC,
    Custom,
    Evidence,
    KVzapNetworks,
    Learned,
    LearnedScore,
    Policy,
    Proportional,
    Rotation,
    Selector,
    ThoughtTokens,
    parse,
    settings_of,
)
from laconic.compress.selector import GRID
from laconic.errors import LaconicError
from tests.reference import scorers as reference
from tests.reference.selectors import random_selector

B, G, D, M, W = 3, 2, 8, 9, 4
REAL = [9, 1, 6]  # candidates of each row
ROTATION = Rotation(torch.tensor([1.0, 0.4, 0.05]))


class Model:
    """What an engine would tell: two layers of 2 KV heads of 8."""

    def __init__(self, fingerprint: str | None = "abc", found: Selector | None = None) -> None:
        self.print, self.found = fingerprint, found
        self.asked: list[str | None] = []

    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        return {1: (G, D, D), 3: (G, D, D)}

    def fingerprint(self) -> str | None:
        return self.print

    def find_rotation(self) -> Rotation:
        raise AssertionError("a selector brings its own")

    def find_kvzap(self, place: str | None) -> KVzapNetworks:
        raise AssertionError("a selector is none of KVzap's networks")

    def thought_tokens(self) -> ThoughtTokens:
        raise AssertionError("a selector needs no tokens")

    def selector_file(self, file: str | None) -> str:
        return file or "its own"

    def find_selector(self, file: str | None) -> Selector:
        self.asked.append(file)
        return self.found or random_selector((1, 3), fingerprint="abc")


def evidence(junk: float, groups: int) -> Evidence:
    """Rows of unlike lengths, right-aligned; what isn't real holds `junk`, its positions are those of a first slot."""
    source = torch.Generator().manual_seed(5)
    keys, values = (torch.randn(B, G, M + W, D, generator=source) for _ in range(2))
    valid = torch.zeros(B, M, dtype=torch.bool)
    positions = torch.zeros(B, groups, M, dtype=torch.long)
    for b, real in enumerate(REAL):
        valid[b, M - real :] = True
        steps = torch.randint(1, 4, (groups, real), generator=source)
        positions[b, :, M - real :] = steps.cumsum(-1)
    for cached in (keys, values):
        cached[:, :, :M].masked_fill_(~valid[:, None, :, None], junk)
    starts = torch.tensor([6, 0, 1000])
    return Evidence(None, keys, 1.0, valid, positions, values=values, starts=starts, layer=3)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 0.0])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["none", "rope"])
def test_scores_are_those_of_loops_alone_and_in_company(rotation: Rotation | None, per_head: bool, junk: float) -> None:
    made = random_selector((1, 3), G, D, per_head=per_head, rotation=rotation)
    scorer = LearnedScore(made, fading=0)
    assert scorer.aggregation == ("group" if per_head else "layer")
    given = evidence(junk, G if per_head else 1)
    scores = scorer.score(given)
    assert scores.shape == (B, G if per_head else 1, M)
    assert scores.isfinite().all()
    assert given.values is not None
    assert given.starts is not None
    for b, real in enumerate(REAL):
        mine = slice(M - real, M)
        at = (given.positions[b, :, mine] + given.starts[b]).expand(G, -1).tolist()
        k, v = given.keys[b, :, mine].tolist(), given.values[b, :, mine].tolist()
        want = reference.learned(k, v, real, at, made, 3, per_head)
        torch.testing.assert_close(scores[b, :, mine], torch.tensor(want), rtol=0, atol=GRID)
        alone = dataclasses.replace(
            given,
            keys=given.keys[b : b + 1, :, M - real :],
            values=given.values[b : b + 1, :, M - real :],
            starts=given.starts[b : b + 1],
            positions=given.positions[b : b + 1, :, mine],
            valid=None,
        )
        torch.testing.assert_close(scores[b, :, mine], scorer.score(alone)[0], rtol=0, atol=GRID)


@pytest.mark.parametrize("per_head", [False, True])
def test_fading_takes_off_the_logarithm_of_a_tokens_age(per_head: bool) -> None:
    made = random_selector((1, 3), G, D, per_head=per_head, rotation=ROTATION)
    given = evidence(torch.nan, G if per_head else 1)
    plain, faded = LearnedScore(made, fading=0).score(given), LearnedScore(made, fading=2.0).score(given)
    assert faded.isfinite().all()
    for b, real in enumerate(REAL):
        for g in range(plain.shape[1]):
            places = given.positions[b, g, M - real :].tolist()
            newest = places[-1] + W  # of the window
            for i, place in enumerate(places):
                want = float(plain[b, g, M - real + i]) - 2 * math.log(newest - place + 1)
                assert float(faded[b, g, M - real + i]) == pytest.approx(want, abs=1e-4)


def test_fading_as_a_setting() -> None:
    policy = parse("learned:fading=0.5,window=8")
    assert policy == Learned(window=8, fading=0.5)
    fitted = policy.for_model(Model())
    assert isinstance(fitted.scorer, LearnedScore)
    assert (fitted.scorer.fading, fitted.scorer.queries, fitted.scorer.selector is None) == (0.5, 0, False)
    assert Learned().fading == LearnedScore().fading == 1
    for make in (Learned, LearnedScore):
        with pytest.raises(LaconicError, match="fading is -1; expected a number at least 0"):
            make(fading=-1)


def test_what_the_scorer_asks_for() -> None:
    scorer = LearnedScore(random_selector())
    assert (scorer.queries, scorer.reads_values, scorer.reads_future, scorer.accumulates) == (0, True, False, False)
    with pytest.raises(LaconicError, match="policy learned has not been given its selector: run it on a model"):
        LearnedScore().score(evidence(0.0, 1))
    given = evidence(0.0, 1)
    with pytest.raises(LaconicError, match="values is missing; LearnedScore can't score without it"):
        scorer.score(dataclasses.replace(given, values=None))
    with pytest.raises(LaconicError, match="starts is missing; LearnedScore can't score without it"):
        scorer.score(dataclasses.replace(given, starts=None))


def test_a_file_needs_no_key() -> None:
    assert parse("learned") == Learned()
    assert parse("learned:my/own.safetensors") == Learned("my/own.safetensors")
    assert parse("learned: my/own.safetensors , ratio=8") == Learned("my/own.safetensors", ratio=8)
    assert parse("learned:file=a=b.safetensors,interval=64") == Learned("a=b.safetensors", 64)
    assert parse("learned:ratio=8,file=x") == Learned("x", ratio=8)
    assert parse("learned:compression_ratio=0.75").schedule == RPC().schedule
    assert parse("learned:file=none") == Learned()
    with pytest.raises(LaconicError, match="file is given twice in policy"):
        parse("learned:x,file=y")
    with pytest.raises(LaconicError, match="'x' in policy 'learned:ratio=2,x' has no value"):
        parse("learned:ratio=2,x")
    with pytest.raises(LaconicError, match="setting 'a' of policy learned is unknown; its settings: file, interval"):
        parse("learned:a=b.safetensors")


def test_spelling() -> None:
    assert Learned().spec() == "learned:interval=4096,ratio=4,window=32,fading=1.0"
    assert Learned("x/y", ratio=8).spec() == "learned:file=x/y,interval=4096,ratio=8,window=32,fading=1.0"
    assert parse(Learned("x/y", ratio=8).spec()) == Learned(Path("x/y"), ratio=8)  # type: ignore[arg-type]
    assert settings_of("learned")[0].type == "text or none"
    with pytest.raises(LaconicError, match="file is 5; expected the path of a file"):
        Learned(5)  # type: ignore[arg-type]


def test_it_plans_without_a_model() -> None:
    assert Learned().schedule == RPC().schedule == Proportional(4096, 4, 32)
    assert Learned().scorer == LearnedScore()


@pytest.mark.parametrize("policy", [Learned(), Learned("f", 64, 2, 8), Learned(compression_ratio=0.5)])
def test_a_model_gives_it_its_selector(policy: Learned) -> None:
    model = Model()
    fitted = policy.for_model(model)
    assert model.asked == [policy.file]
    assert fitted == policy
    assert fitted.spec() == policy.spec()
    assert fitted.schedule == policy.schedule
    assert isinstance(fitted.scorer, LearnedScore)
    assert fitted.scorer.selector is not None
    assert policy.scorer == LearnedScore()  # which goes on to other models as it was
    for copied in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        given = evidence(0.0, 1)
        assert copied.scorer is not None
        assert torch.equal(copied.scorer.score(given), fitted.scorer.score(given))


def test_another_models_selector_is_refused() -> None:
    for model, message in (
        (Model("abd"), "made for a model with the fingerprint abc, this one's is abd"),
        (Model(found=random_selector((1, 2))), r"a full-attention layer 2, this one's are \[1, 3\]"),
        (Model(found=random_selector((1, 3), size=4)), "layer 1 has 2 KV heads with keys of 8 and values of 8"),
    ):
        with pytest.raises(LaconicError, match=message):
            Learned().for_model(model)
    Learned().for_model(Model(None))  # weights that can't be told: its shape must do


def test_other_policies_need_no_model() -> None:
    policies: list[Policy] = [RPC(), Custom(Proportional(), LearnedScore(random_selector()))]
    for policy in policies:
        model = Model()
        assert policy.for_model(model) is policy
        assert model.asked == []
