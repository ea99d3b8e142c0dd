"""``python -m training.judge TRACES FOLDER``: the bundled judge from the bundled reasoner's traces; see training/README.md."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from laconic.assets import reasoner_path
from laconic.engines.hf import HFEngine, load
from laconic.lab.judges.losses import Loss
from laconic.lab.judges.pairs import Pairs, make_pairs
from laconic.lab.judges.recipe import CHECKPOINTS, EncoderPlan, TrainingData, prepare, train_encoder, write_record
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.training import ValidationCheck
from laconic.traces import TraceFile, read_traces
from training.judge.renaming import rename_problem

# An eighth of a trace of the bundled reasoner, where most drafts are nearly done. Further on the draft's answer is written
# out and any comparison of texts finds it (`words:2:2`: an AUROC of 1.0 without training), at a third more tokens.
EXCERPT = "tokens:56"
RENAMINGS = (
    47  # of each training problem's letters: AUROC on the validation part .913 without, .953 with 15, .956 with 47
)
PLAN = EncoderPlan()
SETTINGS = TrainSettings(
    loss=Loss(focal=True, alpha=0.5, gamma=1.0), oversample=2, epochs=1, batch=1, rate=1e-3, every=500, patience=0
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.judge", description="Train the bundled judge.")
    parser.add_argument("traces", type=Path, help="of `laconic collect` with the bundled reasoner, of the train split")
    parser.add_argument("folder", type=Path, help="the folder to write; checkpoints go beside it, and go on there")
    parser.add_argument("--excerpt", default=EXCERPT)
    parser.add_argument("--states", type=int, nargs="*", default=[], help="read these layers' hidden states too")
    parser.add_argument("--reasoner", type=Path, default=reasoner_path(), help="default: the bundled one")
    parser.add_argument("--renamings", type=int, default=RENAMINGS, help="of each problem's letters, in training")
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)

    model, tokenizer = load(chosen.reasoner, dtype="float32", device="cpu")
    traces = read_traces(chosen.traces)
    if traces.broken:
        print(traces.describe_broken(chosen.traces))
    plan = replace(PLAN, vectors="states", layers=tuple(chosen.states)) if chosen.states else PLAN
    engine = HFEngine(model, tokenizer, state_layers=plan.layers or (-1,))
    data = prepare(traces, chosen.excerpt, tokenizer, engine, seed=chosen.seed)
    print(json.dumps(data.describe()))
    settings = replace(SETTINGS, seed=chosen.seed, epochs=chosen.epochs)
    checkpoints = chosen.folder.parent / f"{chosen.folder.name}-{CHECKPOINTS}"
    more = replace(data, parts=data.parts | {"train": renamed(data, traces, chosen.renamings, tokenizer, engine)})
    trained = train_encoder(more, plan, settings, model, tokenizer, engine, checkpoints, _told)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    trained.judge.save(chosen.folder)
    write_record(chosen.folder, "encoder", data, settings, trained, plan=asdict(plan), renamings=chosen.renamings)
    test = trained.test
    print(json.dumps({"auroc": test.auroc, "tnr": test.tnr, "ece": round(test.ece, 4), "pairs": test.pairs}))


def renamed(data: TrainingData, traces: TraceFile, copies: int, tokenizer: Any, engine: Any) -> Pairs:
    """The training part's pairs, and those of its problems with their letters renamed."""
    train = data.parts["train"]
    problems = {train.problems[i] for i in train.problem.unique().tolist()}
    own = [record for record in traces.records if record.problem in problems]
    return make_pairs(TraceFile((*own, *rename_problem(own, copies, seed=0)), ()), data.excerpt, tokenizer, engine)


def _told(look: ValidationCheck) -> None:
    print(
        f"step {look.step} of {look.of}: loss {look.loss:.4f}, AUROC {look.auroc:.4f}{' *' if look.best else ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
