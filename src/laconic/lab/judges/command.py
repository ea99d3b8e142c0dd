"""`laconic judge`: train a judge on recorded traces, compare judges, and the paper's ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import say_loading
from laconic.cli.options import (
    AsJson,
    Device,
    ExcerptKind,
    ModelName,
    Out,
    Seed,
)
from laconic.cli.renamed import Command
from laconic.cli.unused import refuse_layers, refuse_unused
from laconic.lab.shared.options import (
    Alpha,
    Base,
    Depth,
    Epochs,
    Every,
    Excerpts,
    Focal,
    Gamma,
    JudgeKind,
    JudgesRepeated,
    Layers,
    Lora,
    Micro,
    Oversample,
    Patience,
    PerStep,
    Rate,
    Shares,
    SplitSeed,
    TraceFileOption,
    UnseenTraces,
    Vectors,
    Width,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Judges of whether two traces will end in the same answer: train one, compare several.",
)


@app.command(cls=Command)
def train(
    traces: TraceFileOption,
    out: Out,
    excerpt: ExcerptKind = None,
    kind: JudgeKind = "encoder",
    model: ModelName = None,
    base: Base = None,
    lora: Lora = 0,
    vectors: Vectors = "none",
    layers: Layers = "-1",
    width: Width = 64,
    depth: Depth = 1,
    focal: Focal = True,
    alpha: Alpha = 0.5,
    gamma: Gamma = 1.0,
    oversample: Oversample = 2,
    epochs: Epochs = 8,
    per_step: PerStep = None,
    micro: Micro = 0,
    every: Every = 0,
    rate: Rate = None,
    patience: Patience = 4,
    seed: Seed = 0,
    shares: Shares = "0.7,0.15,0.15",
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a judge on all pairs of recorded traces, labelled by whether their answers are equivalent.

    Problems are split: trained on, watched to stop early and to calibrate, and tested on at the end. Every look is followed
    by a checkpoint; the same command goes on from there, and makes the judge that it would have made uninterrupted. --model
    is the reasoner that wrote the traces; excerpts of the bundled one are tokens:56 where nothing else is said. --out is the
    judge's directory.
    """
    if_interrupted(resumed(out / "checkpoints" / "trainer.pt", what="the training up to its latest look"))
    say_loading(base if base is not None else model, not as_json)
    import json
    from dataclasses import asdict

    from laconic.cli.common import complain, is_bundled, one_thread
    from laconic.errors import InputError
    from laconic.files import lock_directory
    from laconic.lab.judges.losses import Loss
    from laconic.lab.judges.options import (
        Reasoner,
        choose_excerpt,
        choose_plan,
        describe_traces,
        read_file,
        show,
        split_shares,
        tell,
        tunable_llm,
    )
    from laconic.lab.judges.recipe import CHECKPOINTS, RECORD, prepare, train_encoder, train_other, write_record
    from laconic.lab.judges.table import training_table
    from laconic.lab.judges.training import TrainSettings

    if kind not in ("encoder", "llm"):
        raise InputError(f"--kind is {kind!r}; expected encoder or llm")
    if (kind == "llm") != (base is not None):
        raise InputError("--base names the language model that --kind llm begins with; give both, or neither")
    if lora < 0 or (lora and kind != "llm"):
        raise InputError(f"--lora is {lora}; expected the rank of an adapter, for --kind llm")
    llm = kind == "llm"
    if llm:
        refuse_unused("on --kind llm", "vectors", "layers", "width", "depth")
    else:
        refuse_layers(vectors)
    if not focal:
        refuse_unused("with --cross-entropy", "alpha", "gamma")
    settings = TrainSettings(
        loss=Loss(focal, alpha, gamma),
        oversample=oversample,
        epochs=epochs,
        batch=per_step if per_step is not None else 16 if llm else 1,
        by_problem=not llm,
        micro=micro,
        rate=rate if rate is not None else 1e-3 if not llm else 1e-4 if lora else 1e-5,
        every=every,
        patience=patience,
        seed=seed,
    )
    plan = None if llm else choose_plan(vectors, layers, width, depth)
    chosen, parts = choose_excerpt(excerpt, model), split_shares(shares)
    if is_bundled(model) and not llm:
        one_thread()
    with lock_directory(out):
        found = read_file(traces)
        reasoner = Reasoner(model, device, found, plan.layers if plan else ())
        data = prepare(found, chosen, reasoner.tokenizer, reasoner.engine, parts, split_seed)
        more: dict[str, Any] = {"traces": describe_traces(found), "split": {"shares": list(parts), "seed": split_seed}}
        if plan is not None:
            trained = train_encoder(
                data,
                plan,
                settings,
                reasoner.model,
                reasoner.tokenizer,
                reasoner.engine,
                out / CHECKPOINTS,
                tell,
                reasoner.where,
            )
            more["plan"] = asdict(plan)
        else:
            trained = train_other(
                tunable_llm(str(base), chosen, lora, seed, device), data, settings, out / CHECKPOINTS, tell
            )
            more |= {"base": base, "lora": lora}
        trained.judge.save(out)
        write_record(out, kind, data, settings, trained, **more)
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        show(record, [training_table(record)], as_json)
        complain(f"Written to {out}; use it as {kind}:{out}.")


@app.command("eval", cls=Command)
def evaluate(
    traces: TraceFileOption,
    judges: JudgesRepeated,
    unseen: UnseenTraces = None,
    excerpt: ExcerptKind = None,
    model: ModelName = None,
    device: Device = "auto",
    out: Out = Path("runs/judges"),
    as_json: AsJson = False,
) -> None:
    """Compare judges on the same pairs: how they rank them, how far their probabilities hold, what they cost.

    Problems that one of them was trained on are left out. Judges that ask the reasoner (probe, encoders of hidden states) ask
    the model of --model (the bundled one without it), on unseen traces too. The first judge is what the others are compared
    with; --judges may be given several times. --excerpt is for judges that take any; without it those have what the trained
    ones were made for. --out is a directory of judged.jsonl, results.json and table.md. The same command goes on where an
    interrupted one stopped; more judges, or more traces in the files, add to the directory.
    """
    if_interrupted(resumed(out / "judged.jsonl"))
    say_loading(model, not as_json)
    from laconic.cli.common import is_bundled, one_thread
    from laconic.cli.lists import split_specs
    from laconic.cli.progress import Bar
    from laconic.environment import environment, hide_directories
    from laconic.lab.judges.options import Reasoner, describe_traces, open_judges, read_file
    from laconic.lab.judges.run import FORMAT, may_grow, prepare_sets, run_judging, summarise
    from laconic.lab.judges.table import judges_table
    from laconic.lab.shared.journal import Journal
    from laconic.lab.shared.reporting import write_report

    if is_bundled(model):
        one_thread()
    files = {"test" if not unseen else "known": traces}
    for number, path in enumerate(unseen or (), start=1):
        files["unseen" if number == 1 else f"unseen {number}"] = path
    found = {name: read_file(path) for name, path in files.items()}
    reasoner = Reasoner(model, device, next(iter(found.values())))
    ends: dict[str, str | None] = {}
    specs = [spec for part in judges for spec in split_specs(part) or [part]]
    entries, known = open_judges(specs, excerpt, model, reasoner, device, lambda cut: ends[cut.trace_id])
    kinds = dict.fromkeys(entry.excerpt for entry in entries)
    sets = prepare_sets(found, kinds, reasoner.tokenizer, reasoner.engine, known)
    for pairs in (pairs for of_kind in sets.values() for pairs in of_kind.values()):
        ends |= {cut.trace_id: answer for cut, answer in zip(pairs.excerpts, pairs.answers, strict=True)}
    described = {
        "traces": {
            name: {"file": hide_directories(str(path)), **describe_traces(found[name])} for name, path in files.items()
        },
        "judges": {entry.label: entry.excerpt for entry in entries},
        "model": "bundled" if is_bundled(model) else hide_directories(str(model)),
        "problems": {name: len(next(iter(kinds.values())).problem.unique()) for name, kinds in sets.items()},
    }
    with Journal(out / "judged.jsonl", FORMAT, described, may_grow=may_grow) as journal, Bar(not as_json) as bar:
        bar.tell_journal(journal, "judged", "judged problems")
        records = run_judging(entries, sets, journal, lambda p: bar.update(p.label, p.done, p.total))
    report = {"format": FORMAT, **environment(), "settings": described, "rows": summarise(entries, sets, records)}
    write_report(report, [judges_table(report)], None, out, False, as_json)


@app.command(cls=Command)
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
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    out: Out = Path("runs/judge-ablation"),
    as_json: AsJson = False,
) -> None:
    """Focal loss on and off, oversampling on and off, for each kind of excerpts: a pair encoder trained for each.

    --out is a directory of cells.jsonl, results.json and table.md; the same command goes on where an interrupted one stopped.
    """
    if_interrupted(resumed(out / "cells.jsonl"))
    say_loading(model, not as_json)
    from dataclasses import asdict

    from laconic.cli.common import is_bundled, one_thread
    from laconic.cli.lists import split_names
    from laconic.cli.progress import Bar
    from laconic.environment import environment, hide_directories
    from laconic.lab.judges.ablation import FORMAT, run_ablation
    from laconic.lab.judges.losses import Loss
    from laconic.lab.judges.options import Reasoner, choose_plan, describe_traces, read_file, split_shares
    from laconic.lab.judges.recipe import prepare, train_encoder
    from laconic.lab.judges.table import ablation_table
    from laconic.lab.judges.training import TrainSettings
    from laconic.lab.shared.journal import Journal
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
    split = split_shares(shares)
    found = read_file(traces)
    reasoner = Reasoner(model, device, found, plan.layers)
    described = {
        "traces": {"file": hide_directories(str(traces)), **describe_traces(found)},
        "split": {"shares": list(split), "seed": split_seed},
        "plan": {**asdict(plan), "layers": list(plan.layers)},
        "training": asdict(base),
    }
    with Journal(out / "cells.jsonl", FORMAT, described) as journal, Bar(not as_json) as bar:
        bar.tell_journal(journal, "cell", "trained judges")
        rows = run_ablation(
            split_names(excerpts),
            base,
            lambda kind: prepare(found, kind, reasoner.tokenizer, reasoner.engine, split, split_seed),
            lambda data, settings: train_encoder(
                data, plan, settings, reasoner.model, reasoner.tokenizer, reasoner.engine, device=reasoner.where
            ),
            journal,
            lambda p: bar.update(p.label, p.done, p.total),
        )
    report = {"format": FORMAT, **environment(), "settings": described, "rows": rows}
    write_report(report, [ablation_table(report)], None, out, False, as_json)
