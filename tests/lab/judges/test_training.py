"""The loop: what it learns, when it stops, and that a killed run resumes exactly."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laconic.errors import LaconicError
from laconic.lab.judges.losses import Loss
from laconic.lab.judges.pairs import Pairs, make_pairs
from laconic.lab.judges.scoring import auroc
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.training import ValidationCheck, batches, fit, predict
from laconic.traces import TraceRecord

Make = Callable[..., TraceRecord]
QUICK = TrainSettings(epochs=3, batch=2, rate=0.02, oversample=2, patience=0)


class Toy(nn.Module):
    """Two excerpts are the same if an embedding of their first token says so. Dropout makes it draw random numbers."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(10, width)
        self.bias = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.dropout = nn.Dropout(0.2)
        self.seen: list[int] = []

    def loss_logits(self, pairs: Pairs) -> Tensor:
        self.seen.append(len(pairs))
        first = self.embedding(torch.tensor([e.token_ids[0] for e in pairs.excerpts]))
        first = self.dropout(first)
        return (first[pairs.left] * first[pairs.right]).sum(-1) + self.bias

    def save(self, directory: Path) -> None:
        torch.save(self.state_dict(), directory / "toy.pt")

    def load(self, directory: Path) -> None:
        self.load_state_dict(torch.load(directory / "toy.pt", weights_only=True))


class Words:
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def data(make_record: Make, problems: int, start: int = 0) -> Pairs:
    """Traces whose answer is their first token (mostly 0)."""
    records = []
    for number in range(start, start + problems):
        for i in range(5):
            token = (number * 7 + i * 3) % 10 if i % 3 == 0 else 0
            records.append(make_record(f"p{number}", i, str(token), tokens=[token, i, 1, 1, 1]))
    return make_pairs(records, "tokens:2", Words())


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_it_learns_and_keeps_the_best_weights(make_record: Make) -> None:
    model = Toy()
    looks: list[ValidationCheck] = []
    train, validation = data(make_record, 12), data(make_record, 6, start=50)
    found = fit(model, train, validation, replace(QUICK, epochs=15), watch=looks.append)
    assert found.best.auroc > 0.97
    assert list(found.looks) == looks
    assert [look.step for look in looks] == [6 * i for i in range(1, 16)]
    assert found.best.auroc == max(look.auroc for look in looks)
    assert not model.training
    assert looks[-1].loss < looks[0].loss
    # What it has now are the best look's weights.
    assert auroc(predict(model, validation), validation.same) == found.best.auroc


@pytest.mark.parametrize("by_problem", [True, False])
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_killed_run_resumes_exactly(make_record: Make, tmp_path: Path, killed_at: int, by_problem: bool) -> None:
    train, validation = data(make_record, 7), data(make_record, 4, start=50)
    settings = replace(QUICK, every=3, by_problem=by_problem, batch=3 if by_problem else 40)
    whole = Toy()
    uninterrupted = fit(whole, train, validation, settings)

    def kill(look: ValidationCheck) -> None:
        if look.step >= 3 * killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), train, validation, settings, tmp_path, kill)
    torch.rand(7)  # whatever else draws random numbers in between
    late = Toy(seed=9)  # its own first weights don't matter
    resumed = fit(late, train, validation, settings, tmp_path)
    assert resumed == uninterrupted
    assert all(map(torch.equal, weights(late), weights(whole)))
    assert len(list(tmp_path.glob("step-*"))) <= 2


def test_a_finished_run_is_not_repeated(make_record: Make, tmp_path: Path) -> None:
    train, validation = data(make_record, 5), data(make_record, 4, start=50)
    first = Toy()
    found = fit(first, train, validation, QUICK, tmp_path)
    again = Toy(seed=3)
    assert fit(again, train, validation, QUICK, tmp_path) == found
    assert not again.seen
    assert all(map(torch.equal, weights(first), weights(again)))


def test_another_training_is_refused(make_record: Make, tmp_path: Path) -> None:
    train, validation = data(make_record, 5), data(make_record, 4, start=50)
    fit(Toy(), train, validation, QUICK, tmp_path)
    with pytest.raises(LaconicError, match=r"settings was .*'rate': 0.02.*, now .*'rate': 0.5"):
        fit(Toy(), train, validation, replace(QUICK, rate=0.5), tmp_path)
    with pytest.raises(LaconicError, match=r"holds another training .train was"):
        fit(Toy(), data(make_record, 6), validation, QUICK, tmp_path)
    (tmp_path / "trainer.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(LaconicError, match="can't be read"):
        fit(Toy(), train, validation, QUICK, tmp_path)


def test_it_stops_when_validation_no_longer_improves(make_record: Make) -> None:
    train, validation = data(make_record, 12), data(make_record, 6, start=50)
    found = fit(Toy(), train, validation, replace(QUICK, epochs=60, rate=0.05, patience=3))
    assert found.early
    assert len(found.looks) < 60
    assert [look.best for look in found.looks[-3:]] == [False] * 3
    assert found.best == found.looks[-4]


def test_pieces_of_a_batch_make_the_same_step(make_record: Make) -> None:
    train, validation = data(make_record, 5), data(make_record, 4, start=50)
    results = []
    for micro in (0, 4):
        model = Toy()
        model.dropout.p = 0.0
        fit(model, train, validation, replace(QUICK, epochs=1, micro=micro))
        results.append(model)
        if micro:
            assert max(model.seen) == micro
    for a, b in zip(*map(weights, results), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_weights_stay(make_record: Make) -> None:
    model = Toy()
    fit(model, data(make_record, 5), data(make_record, 4, start=50), QUICK)
    assert torch.equal(model.frozen, torch.ones(3))


@pytest.mark.parametrize("oversample", [1, 3])
@pytest.mark.parametrize("by_problem", [True, False])
def test_an_epoch_is_every_pair_once_and_rare_ones_more_often(
    make_record: Make, by_problem: bool, oversample: int
) -> None:
    pairs = data(make_record, 7)
    settings = replace(QUICK, by_problem=by_problem, batch=3, oversample=oversample)
    drawn = list(batches(pairs, settings, 0))
    counts = torch.bincount(torch.cat(drawn), minlength=len(pairs))
    rare = pairs.same if int(pairs.same.sum()) * 2 < len(pairs) else ~pairs.same
    assert counts.tolist() == [oversample if r else 1 for r in rare.tolist()]
    if by_problem:
        assert [len(pairs.problem[index].unique()) for index in drawn] == [3, 3, 1]
    else:
        assert {len(index) for index in drawn[:-1]} == {3}
    other = list(batches(pairs, settings, 1))
    assert [i.tolist() for i in other] != [i.tolist() for i in drawn]
    assert [i.tolist() for i in batches(pairs, settings, 0)] == [i.tolist() for i in drawn]


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = TrainSettings(rate=1.0, warmup=0.1)
    rates = [settings.rate_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_prediction_does_not_depend_on_how_many_go_at_once(make_record: Make) -> None:
    model, pairs = Toy(), data(make_record, 4)
    assert torch.equal(predict(model, pairs), predict(model, pairs, at_once=7))
    assert not model.training


def test_a_loss_that_is_no_number_ends_the_run(make_record: Make) -> None:
    model = Toy()
    with torch.no_grad():
        model.embedding.weight.fill_(math.nan)
    with pytest.raises(LaconicError, match="the loss is nan at step 1; lower the rate"):
        fit(model, data(make_record, 5), data(make_record, 4, start=50), QUICK)


def test_one_class_is_refused_before_anything_runs(make_record: Make) -> None:
    model = Toy()
    flat = make_pairs([make_record("p", i, "1") for i in range(3)], "tokens:2", Words())
    with pytest.raises(LaconicError, match="the training part has 3 pairs, all the same"):
        fit(model, flat, data(make_record, 4), QUICK)
    with pytest.raises(LaconicError, match="the validation part has"):
        fit(model, data(make_record, 4), flat, QUICK)
    assert not model.seen


def test_the_loss_that_is_asked_for_is_used(make_record: Make) -> None:
    results = []
    for loss in (Loss(focal=False), Loss(focal=True, alpha=0.2, gamma=2)):
        model = Toy()
        fit(model, data(make_record, 5), data(make_record, 4, start=50), replace(QUICK, loss=loss))
        results.append(weights(model)[0])
    assert not torch.equal(*results)


@pytest.mark.parametrize(
    ("name", "value"),
    [("oversample", 0), ("epochs", 0), ("batch", 0), ("micro", -1), ("every", 1.5), ("patience", -1), ("rate", 0.0),
     ("clip", 0.0), ("warmup", 1.0), ("decay", -0.1)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(LaconicError, match=f"{name} is {value}"):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


@contextmanager
def room(bytes_left: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that fills up: libraries meet the system's own error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("bytes_left", [1, 2000, 4000])
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(
    make_record: Make, tmp_path: Path, bytes_left: int
) -> None:
    """1: the weights don't fit; the larger ones: they do, what stands beside them doesn't (Toy's weights take about 1,900)."""
    train, validation = data(make_record, 6), data(make_record, 4, 6)
    whole = Toy()
    fit(whole, train, validation, QUICK, tmp_path / "whole")
    said = r"(no room left to write|can't be written .* most often there is no room left)"
    with room(bytes_left), pytest.raises(LaconicError, match=said):
        fit(Toy(), train, validation, QUICK, tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []
    resumed = Toy()
    fit(resumed, train, validation, QUICK, tmp_path / "full")
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))
