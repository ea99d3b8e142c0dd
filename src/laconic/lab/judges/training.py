"""Training a judge: the loop that trains what is `Trainable`.

Everything a step does follows from the settings, the data and the step's number, and everything else is in the checkpoint,
so a run that was killed and resumed makes the weights of one that was not (on one machine, with one number of threads).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from laconic.errors import InputError
from laconic.files import name_write_errors, replace_file
from laconic.lab.judges.pairs import Pairs, oversampled_indices
from laconic.lab.judges.scoring import auroc
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.trainable import Trainable

CHUNK = 4096  # pairs that a judge without a limit of its own predicts at once
STATE = "trainer.pt"


@dataclass(frozen=True, slots=True)
class ValidationCheck:
    """A look at the validation part. step: steps done; of: all there are; loss: mean of the training loss since the look
    before; auroc: on the validation part; best: whether that is the best so far."""

    step: int
    of: int
    loss: float
    auroc: float
    best: bool


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """How a training went. best: the look whose weights the model has now. early: it ended before its last epoch."""

    looks: tuple[ValidationCheck, ...]
    best: ValidationCheck
    early: bool


def fit(
    model: Trainable,
    train: Pairs,
    validation: Pairs,
    settings: TrainSettings,
    directory: Path | None = None,
    watch: Callable[[ValidationCheck], None] | None = None,
) -> TrainingHistory:
    """Train a model in place; it ends with the weights of the best look.

    directory: where checkpoints go, and where a run that was interrupted goes on; None keeps nothing, and needs no disk but
    a temporary directory. watch: called at every look, after its checkpoint.

    Raises InputError for pairs of one class only, a directory of another training (naming what differs), or a loss that
    is no number.
    """
    train.require_both_classes("the training part")
    validation.require_both_classes("the validation part")
    if directory is None:
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            return _TrainingRun(model, train, validation, settings, Path(place), watch).run()
    return _TrainingRun(model, train, validation, settings, directory, watch).run()


def predict(model: Trainable, pairs: Pairs, at_once: int = 0) -> Tensor:
    """The logits of all pairs, float32 [P], on the CPU. at_once: pairs that go through the model together."""
    model.train(False)
    with torch.inference_mode():
        parts = [
            model.loss_logits(pairs.take(i)).float().cpu() for i in torch.arange(len(pairs)).split(at_once or CHUNK)
        ]
    return torch.cat(parts)


def batches(pairs: Pairs, settings: TrainSettings, epoch: int) -> Iterator[Tensor]:
    """The steps of an epoch: indices into pairs. Depends on the arguments alone."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    index = oversampled_indices(pairs.same, settings.oversample)
    if not settings.by_problem:
        yield from index[torch.randperm(len(index), generator=generator)].split(settings.batch)
        return
    # The pairs of one problem stand together once sorted, and are drawn together.
    order = pairs.problem[index].argsort(stable=True)
    _, counts = pairs.problem[index].unique(return_counts=True)
    groups = index[order].split(counts.tolist())
    for chosen in torch.randperm(len(groups), generator=generator).split(settings.batch):
        yield torch.cat([groups[i] for i in chosen.tolist()])


class _TrainingRun:
    def __init__(
        self,
        model: Trainable,
        train: Pairs,
        validation: Pairs,
        settings: TrainSettings,
        directory: Path,
        watch: Callable[[ValidationCheck], None] | None,
    ) -> None:
        self.model, self.train, self.validation, self.settings = model, train, validation, settings
        self.directory, self.watch = directory, watch
        self.header = {"settings": asdict(settings), "train": digest(train), "validation": digest(validation)}
        if origin := getattr(model, "origin", None):  # of a model that began as another's
            self.header["base"] = origin()
        self.steps_per_epoch = sum(1 for _ in batches(train, settings, 0))
        self.steps = self.steps_per_epoch * settings.epochs
        self.every = settings.every or self.steps_per_epoch
        self.step = 0
        self.looks: list[ValidationCheck] = []
        self.losses: list[float] = []

    def run(self) -> TrainingHistory:
        self.directory.mkdir(parents=True, exist_ok=True)
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(self.settings.seed)
            self.optimizer = self._optimizer()
            self._resume()
            while self.step < self.steps and not self._exhausted():
                self._epoch()
        early = self.step < self.steps
        best = max(self.looks, key=lambda look: (look.best, look.step))
        self.model.load(self._place(best.step))
        self.model.train(False)
        return TrainingHistory(tuple(self.looks), best, early)

    def _epoch(self) -> None:
        """What is left of the present epoch."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        for number, index in enumerate(batches(self.train, self.settings, epoch)):
            if number < done:
                continue
            self._learn(index)
            self.step += 1
            if self.step % self.every == 0 or self.step == self.steps:
                self._look()
                if self._exhausted():
                    return

    def _learn(self, index: Tensor) -> None:
        settings = self.settings
        self.model.train(True)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(self.step, self.steps)
        total = 0.0
        for part in index.split(settings.micro or len(index)):
            pairs = self.train.take(part)
            logits = self.model.loss_logits(pairs)
            loss = settings.loss(logits.float(), pairs.same.to(logits.device)) * (len(part) / len(index))
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise InputError(
                f"the loss is {total} at step {self.step + 1}; lower the rate ({settings.rate:g}) and train anew"
            )
        nn.utils.clip_grad_norm_(self._parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)

    def _look(self) -> None:
        found = auroc(predict(self.model, self.validation, self.settings.micro), self.validation.same)
        best = not self.looks or found > max(look.auroc for look in self.looks)
        loss = math.fsum(self.losses) / len(self.losses)
        self.losses = []
        self.looks.append(ValidationCheck(self.step, self.steps, loss, found, best))
        self._save()
        if self.watch:
            self.watch(self.looks[-1])

    def _exhausted(self) -> bool:
        since = [look.best for look in self.looks][::-1]
        return bool(self.settings.patience and since) and since.index(True) >= self.settings.patience

    def _parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _optimizer(self) -> torch.optim.AdamW:
        matrices = [p for p in self._parameters() if p.dim() > 1]
        others = [p for p in self._parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": self.settings.decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.settings.rate)

    # ---- the checkpoint -------------------------------------------------------------------------------------------

    def _place(self, step: int) -> Path:
        return self.directory / f"step-{step}"

    def _save(self) -> None:
        """Weights into a directory of their step; then one file that says which directories count, replaced at once."""
        place = self._place(self.step)
        if place.exists():  # of a run that was killed right here
            shutil.rmtree(place)
        state = {
            "header": json.dumps(self.header),
            "step": self.step,
            "looks": [asdict(look) for look in self.looks],
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        try:
            with name_write_errors(place, RuntimeError):
                place.mkdir()
                self.model.save(place)
            with name_write_errors(self.directory / STATE, RuntimeError):
                replace_file(self.directory / STATE, lambda new: torch.save(state, new))
        except Exception:  # weights that nothing points to are worth nothing, and take the room that is lacking
            shutil.rmtree(place, ignore_errors=True)
            raise
        best = max(self.looks, key=lambda look: (look.best, look.step)).step
        for old in self.directory.glob("step-*"):
            if old not in (place, self._place(best)):
                shutil.rmtree(old)

    def _resume(self) -> None:
        file = self.directory / STATE
        if not file.exists():
            return
        try:
            state = torch.load(file, weights_only=True)
            found = json.loads(state["header"])
        except Exception as error:
            raise InputError(
                f"{file} can't be read ({type(error).__name__}); remove {self.directory} to train anew"
            ) from error
        wanted = json.loads(json.dumps(self.header))
        if found != wanted:
            told = [f"{key} was {found.get(key)}, now {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
            raise InputError(
                f"{self.directory} holds another training ({'; '.join(told)}); go on with its settings and traces, or name "
                "another directory"
            )
        self.step = state["step"]
        self.looks = [ValidationCheck(**look) for look in state["looks"]]
        self.model.load(self._place(self.step))
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def digest(pairs: Pairs) -> str:
    """8 bytes in hex of what is trained on, or judged: excerpts and labels."""
    found = hashlib.blake2b(digest_size=8)
    for excerpt in pairs.excerpts:
        found.update(f"{excerpt.trace_id}/{excerpt.kind}/{excerpt.token_ids}".encode())
    for column in (pairs.left, pairs.right, pairs.same.long()):
        found.update(column.numpy().tobytes())
    return found.hexdigest()
