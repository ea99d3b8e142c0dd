"""``python -m training.judge TRACES FOLDER``: the bundled judge from the bundled reasoner's traces; see training/README.md."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from laconic.assets import reasoner_path
from laconic.engines.hf import HFEngine, load
from laconic.judges.losses import Loss
from laconic.judges.recipe import CHECKPOINTS, EncoderPlan, prepare, train_encoder, write_record
from laconic.judges.training import Look, TrainSettings
from laconic.traces import read_traces

# Up to the third reasoning word and two words beyond it: where the bundled reasoner's draft ends, whatever its length.
EXCERPT = "words:3:2"
PLAN = EncoderPlan()
SETTINGS = TrainSettings(loss=Loss(focal=True, alpha=0.5, gamma=1.0), oversample=2, epochs=8, batch=1, rate=1e-3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.judge", description="Train the bundled judge.")
    parser.add_argument("traces", type=Path, help="of `laconic collect` with the bundled reasoner, of the train split")
    parser.add_argument("folder", type=Path, help="the folder to write; checkpoints go beside it, and go on there")
    parser.add_argument("--excerpt", default=EXCERPT)
    parser.add_argument("--states", type=int, nargs="*", default=[], help="read these layers' hidden states too")
    parser.add_argument("--reasoner", type=Path, default=reasoner_path(), help="default: the bundled one")
    parser.add_argument("--epochs", type=int, default=SETTINGS.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)

    model, tokenizer = load(chosen.reasoner, dtype="float32", device="cpu")
    traces = read_traces(chosen.traces)
    if traces.broken:
        print(traces.told(chosen.traces))
    plan = replace(PLAN, vectors="states", layers=tuple(chosen.states)) if chosen.states else PLAN
    engine = HFEngine(model, tokenizer, state_layers=plan.layers or (-1,))
    data = prepare(traces, chosen.excerpt, tokenizer, engine, seed=chosen.seed)
    print(json.dumps(data.describe()))
    settings = replace(SETTINGS, seed=chosen.seed, epochs=chosen.epochs)
    checkpoints = chosen.folder.parent / f"{chosen.folder.name}-{CHECKPOINTS}"
    trained = train_encoder(data, plan, settings, model, tokenizer, engine, checkpoints, _told)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    trained.judge.save(chosen.folder)
    write_record(chosen.folder, "encoder", data, settings, trained, plan=asdict(plan))
    test = trained.test
    print(json.dumps({"auroc": test.auroc, "tnr": test.tnr, "ece": round(test.ece, 4), "pairs": test.pairs}))


def _told(look: Look) -> None:
    print(
        f"step {look.step} of {look.of}: loss {look.loss:.4f}, AUROC {look.auroc:.4f}{' *' if look.best else ''}",
        flush=True,
    )


if __name__ == "__main__":
    main()
