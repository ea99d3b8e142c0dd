"""`laconic judge ablate`: focal loss and oversampling on and off, as in the paper."""

from __future__ import annotations

from pathlib import Path

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Device,
    ModelName,
    Out,
    Seed,
)
from laconic.cli.unused import refuse_layers
from laconic.lab.shared.options import (
    Alpha,
    Depth,
    Epochs,
    Excerpts,
    Folds,
    Gamma,
    Layers,
    Oversample,
    Patience,
    PerStep,
    Rate,
    Shares,
    SplitSeed,
    TraceFileOption,
    Vectors,
    Width,
)


def ablate(
    traces: TraceFileOption,
    excerpts: Excerpts = "tokens:56",
    model: ModelName = None,
    vectors: Vectors = "none",
    layers: Layers = "-1",
    width: Width = 64,
    depth: Depth = 1,
    alpha: Alpha = 0.5,
    gamma: Gamma = 1.0,
    oversample: Oversample = 2,
    epochs: Epochs = 8,
    per_step: PerStep = None,
    rate: Rate = None,
    patience: Patience = 4,
    seed: Seed = 0,
    shares: Shares = "0.6,0.15,0.25",
    folds: Folds = 0,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    out: Out = Path("runs/judge-ablation"),
    as_json: AsJson = False,
) -> None:
    """Focal loss on and off, oversampling on and off, for each kind of excerpts: a pair encoder trained for each.

    --out is a directory of cells.jsonl, results.json and table.md; the same command goes on where an interrupted one stopped.
    """
    if_interrupted(resumed(out / "cells.jsonl"))
    announce_loading(model, not as_json)
    from dataclasses import asdict

    from laconic.cli.common import is_bundled, one_thread
    from laconic.cli.lists import split_names
    from laconic.cli.progress import ProgressBar
    from laconic.environment import environment, hide_directories
    from laconic.journal import Journal
    from laconic.lab.judges.ablation import FORMAT, run_ablation
    from laconic.lab.judges.losses import Loss
    from laconic.lab.judges.options import Reasoner, choose_plan, choose_split, describe_traces, read_file
    from laconic.lab.judges.recipe import train_encoder
    from laconic.lab.judges.table import ablation_table
    from laconic.lab.judges.train_settings import TrainSettings
    from laconic.lab.shared.reporting import write_report

    if is_bundled(model):
        one_thread()
    base = TrainSettings(
        loss=Loss(True, alpha, gamma),
        oversample=oversample,
        epochs=epochs,
        batch=per_step if per_step is not None else 1,
        rate=rate if rate is not None else 1e-3,
        patience=patience,
        seed=seed,
    )
    refuse_layers(vectors)
    plan = choose_plan(vectors, layers, width, depth)
    split = choose_split(shares, folds, split_seed)
    found = read_file(traces)
    reasoner = Reasoner(model, device, found, layers=plan.layers)
    described = {
        "traces": {"file": hide_directories(str(traces)), **describe_traces(found)},
        "split": split.to_dict(),
        "plan": {**asdict(plan), "layers": list(plan.layers)},
        "training": asdict(base),
    }
    with Journal(out / "cells.jsonl", FORMAT, described) as journal, ProgressBar(not as_json) as bar:
        bar.print_resumed(journal, "trained", "trained judges")
        rows = run_ablation(
            split_names(excerpts),
            base,
            lambda kind: split.prepare(found, kind, reasoner.tokenizer, reasoner.engine),
            lambda data, settings: train_encoder(
                data, plan, settings, reasoner.model, reasoner.tokenizer, reasoner.engine, device=reasoner.where
            ),
            journal,
            len(split),
            lambda p: bar.update(p.label, p.done, p.total),
        )
    report = {"format": FORMAT, **environment(), "settings": described, "rows": rows}
    write_report(report, [ablation_table(report)], None, out, False, as_json)
