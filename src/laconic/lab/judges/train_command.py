"""`laconic judge train`: a judge from recorded traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Device,
    ExcerptKind,
    ModelName,
    Out,
    Seed,
)
from laconic.cli.unused import refuse_layers, refuse_unused
from laconic.lab.shared.options import (
    Alpha,
    Base,
    Depth,
    Epochs,
    Every,
    Focal,
    Folds,
    Gamma,
    JudgeKind,
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
    Vectors,
    Width,
)


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
    folds: Folds = 0,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a judge on all pairs of recorded traces, labelled by whether their answers are equivalent.

    Problems are split: trained on, watched to stop early and to calibrate, and tested on at the end. Every look is followed
    by a checkpoint; the same command goes on from there, and makes the judge that it would have made uninterrupted. --model
    is the reasoner that wrote the traces; excerpts of the bundled one are tokens:56 where nothing else is said. --out is the
    judge's directory. --folds trains several, each without one part of the problems; together they are one judge, which
    judges each problem by the one that doesn't know it.
    """
    place = out / "fold-1" if folds else out  # folds are trained in their order
    if_interrupted(resumed(place / "checkpoints" / "trainer.pt", what="the training up to its latest look"))
    announce_loading(base if base is not None else model, not as_json)
    import json
    from dataclasses import asdict

    from laconic.cli.common import is_bundled, one_thread
    from laconic.cli.messages import print_to_stderr
    from laconic.errors import InputError
    from laconic.files import lock_directory
    from laconic.judges.folds import write_folds
    from laconic.lab.judges.losses import Loss
    from laconic.lab.judges.options import (
        Reasoner,
        choose_excerpt,
        choose_plan,
        choose_split,
        describe_traces,
        read_file,
        show,
        tell,
        tunable_llm,
    )
    from laconic.lab.judges.recipe import (
        CHECKPOINTS,
        RECORD,
        describe_folds,
        train_encoder,
        train_other,
        trained_on,
        without_known,
        write_record,
    )
    from laconic.lab.judges.table import folds_table, training_table
    from laconic.lab.judges.train_settings import TrainSettings

    if kind not in ("encoder", "llm"):
        raise InputError(f"--kind is {kind!r}; expected encoder or llm")
    if (kind == "llm") != (base is not None):
        raise InputError("--base names the language model that --kind llm begins with; give both, or neither")
    if lora < 0 or (lora and kind != "llm"):
        raise InputError(f"--lora is {lora}; expected the rank of an adapter, for --kind llm")
    llm = kind == "llm"
    if llm:
        refuse_unused("on --kind llm", "folds")
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
    chosen, split = choose_excerpt(excerpt, model), choose_split(shares, folds, split_seed)
    if is_bundled(model) and not llm:
        one_thread()
    with lock_directory(out):
        found = read_file(traces)
        reasoner = Reasoner(model, device, found, layers=plan.layers if plan else ())
        before = frozenset() if base is None else trained_on(Path(base).expanduser())
        data = [
            without_known(part, before) for part in split.prepare(found, chosen, reasoner.tokenizer, reasoner.engine)
        ]
        more: dict[str, Any] = {"traces": describe_traces(found), "split": split.to_dict()}
        places = [out / f"fold-{fold}" for fold in range(1, folds + 1)] or [out]
        done = []
        for place, part in zip(places, data, strict=True):
            if folds:
                print_to_stderr(f"{place.name} of {folds}")
            if plan is not None:
                trained = train_encoder(
                    part,
                    plan,
                    settings,
                    reasoner.model,
                    reasoner.tokenizer,
                    reasoner.engine,
                    place / CHECKPOINTS,
                    tell,
                    reasoner.where,
                )
                more["plan"] = asdict(plan)
            else:
                judge = tunable_llm(str(base), chosen, lora, seed, device)
                trained = train_other(judge, part, settings, place / CHECKPOINTS, tell)
                more |= {"base": base, "lora": lora}
            trained.judge.save(place)
            write_record(place, kind, part, settings, trained, before, **more)
            done.append(trained)
        if folds:
            record = describe_folds(data, done)
            write_folds(
                out, {p.name: [e.question for e in d.parts["test"].excerpts] for p, d in zip(places, data, strict=True)}
            )
            show(record, [folds_table(record)], as_json)
        else:
            record = json.loads((out / RECORD).read_text(encoding="utf-8"))
            show(record, [training_table(record)], as_json)
        print_to_stderr(f"Written to {out}; use it as {kind}:{out}.")
