import json

import pytest
import torch
from training.reasoner.muon import Muon, orthogonalise
from training.reasoner.recipe import SHIPPED, TOY, Recipe, Stage
from training.reasoner.train import Trainer


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path):
    whole = Trainer(TOY, tmp_path / "whole", compile=False)
    whole.run(log_every=1, diagnose_every=0)
    for until in (4, 9):  # within each stage, and within a chunk
        part = Trainer(TOY, tmp_path / "parts", compile=False)
        if part.checkpoint.exists():
            part.resume()
        part.run(until=until, log_every=1, diagnose_every=0)
    last = Trainer(TOY, tmp_path / "parts", compile=False)
    last.resume()
    assert last.step == 9
    last.run(log_every=1, diagnose_every=0)
    for (name, a), b in zip(whole.student.state_dict().items(), last.student.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    def curve(folder):
        records = [json.loads(line) for line in (tmp_path / folder / "curve.jsonl").read_text().splitlines()]
        return {record["step"]: record["loss"] for record in records}

    assert curve("whole") == curve("parts")
    assert list(curve("whole")) == list(range(1, TOY.steps + 1))


def test_a_trainer_that_has_run_on_goes_back_to_its_checkpoint(tmp_path):
    trainer = Trainer(TOY, tmp_path, compile=False)
    trainer.run(until=2, diagnose_every=0)
    ahead = [trainer.train_step() for _ in range(TOY.steps - 2)]
    trainer.resume()
    assert trainer.step == 2
    assert [trainer.train_step() for _ in range(TOY.steps - 2)] == ahead


def test_training_learns_something(tmp_path):
    trainer = Trainer(TOY, tmp_path, compile=False)
    losses = [trainer.train_step() for _ in range(TOY.steps)]
    assert losses[-1] < losses[0] - 0.05
    diagnosis = trainer.diagnose(count=2)
    assert set(diagnosis) == {"copy", "arrow", "recall", "arithmetic", "digit", "store", "letter"}
    assert all(0 <= share <= 1 for share in diagnosis.values())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    Trainer(TOY, tmp_path, compile=False).save()
    other = Recipe(stages=TOY.stages, seed=1, shape=TOY.shape, buckets=TOY.buckets)
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(other, tmp_path, compile=False).resume()


def test_muon_makes_updates_nearly_orthogonal():
    x = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_treats_a_matrix_the_same_alone_or_in_company():
    def trained(count):
        generator = torch.Generator().manual_seed(0)
        made = [torch.nn.Parameter(torch.randn(6, 4, generator=generator)) for _ in range(count)]
        optimizer = Muon(made, lr=0.1)
        for step in range(3):
            for parameter in made:
                parameter.grad = parameter.detach().sin() * (step + 1)
            optimizer.step()
        return made[0]

    assert torch.allclose(trained(1), trained(3), atol=1e-5)
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_a_recipe_knows_its_stage_at_every_step():
    first, second = SHIPPED.stages[:2]
    grow = next(stage for stage in SHIPPED.stages if stage.name == "grow")
    assert SHIPPED.at(0) == (first, 0)
    assert SHIPPED.at(first.steps - 1) == (first, first.steps - 1)
    assert SHIPPED.at(first.steps) == (second, 0)
    assert grow.mixture_at(0).longest == grow.mixture.longest < 8
    assert grow.mixture_at(grow.ramp).longest == grow.longest == 8
    assert SHIPPED.stages[-1].rate_at(SHIPPED.stages[-1].steps) < 0.05
    with pytest.raises(ValueError, match="below"):
        SHIPPED.at(SHIPPED.steps)


def test_recipes_check_themselves():
    with pytest.raises(ValueError, match=r"Stage\.steps"):
        Stage("a", 0, TOY.stages[0].mixture, longest=3)
    with pytest.raises(ValueError, match=r"Recipe\.tokens"):
        Recipe(stages=TOY.stages, tokens=0)
