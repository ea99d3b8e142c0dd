"""`laconic bench throughput`: policies against full KV, plain `generate`, and what bytes predict."""

from __future__ import annotations

from pathlib import Path

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.options import (
    AsJson,
    Device,
    Dtype,
    OutOrNone,
    PoliciesOrDefault,
    PromptTokens,
)
from laconic.cli.unused import refuse_unused
from laconic.lab.shared.options import (
    At,
    Batches,
    Force,
    Lengths,
    Plot,
    Preset,
    RepeatsOrPreset,
    Shapes,
    Steps,
    ThreadsOrDefault,
)

MOST_THREADS = 4096


def bench(
    preset: Preset = None,
    shapes: Shapes = None,
    batches: Batches = "8",
    prompt: PromptTokens = 128,
    lengths: Lengths = None,
    at: At = None,
    steps: Steps = 64,
    policies: PoliciesOrDefault = None,
    repeats: RepeatsOrPreset = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    threads: ThreadsOrDefault = None,
    force: Force = False,
    out: OutOrNone = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Tokens a second of policies, of full KV and of plain `generate`, against what bytes predict.

    Models are built from their configs with random weights; nothing is downloaded. --lengths are whole runs to these numbers
    of tokens; full KV and plain `generate` run always; 5 repeats, or the preset's. auto is bfloat16 on a GPU, float32 on a
    CPU. --out is a directory of samples.jsonl, results.json, table.md and plot.png. Every measured piece is written at once;
    the same command goes on where an interrupted one stopped.
    """
    place = out or Path("runs") / (preset or "throughput")
    if_interrupted(resumed(place / "samples.jsonl"))
    import torch

    from laconic.checks import whole
    from laconic.cli.lists import split_names, split_specs, split_whole
    from laconic.cli.progress import ProgressBar
    from laconic.engines.hf.shapes import pick_device, resolve_dtype
    from laconic.environment import environment
    from laconic.errors import InputError
    from laconic.journal import Journal
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.lab.throughput.plot import throughput_plot
    from laconic.lab.throughput.presets import cells_of, get_preset
    from laconic.lab.throughput.rows import estimates, summarise
    from laconic.lab.throughput.run import FORMAT, METHODS, ThroughputExperiment, run_throughput
    from laconic.lab.throughput.table import estimate_table, throughput_table

    check_plot(plot)
    if threads is not None:
        torch.set_num_threads(whole("--threads", threads, 1, MOST_THREADS))
    where = pick_device(device)
    extra = split_specs(policies or "")
    if preset is not None:
        if lengths or at:
            raise InputError("--preset says what lengths to run; leave --lengths and --at out, or the preset")
        chosen = get_preset(preset).only(split_names(shapes))
        refuse_unused(f"beside --preset {preset}, which says what to run", "batches", "prompt", "steps")
        if chosen.gpu and where.type != "cuda" and not force:
            raise InputError(
                f"The preset {preset} is made for a GPU, and this machine has none that torch can use: run it on one, "
                "choose a cpu- preset, or insist with --force"
            )
        cells, methods, wanted = chosen.cells, [*chosen.methods, *extra], chosen.lengths
        repeats = repeats if repeats is not None else chosen.repeats
    else:
        if not shapes:
            raise InputError("There is nothing to run: name a --preset, or --shapes with --lengths or --at")
        refuse_unused("without a --preset that is made for a GPU", "force")
        if not at:
            refuse_unused("without --at", "steps")
        cells = cells_of(
            split_names(shapes),
            split_whole("--batches", batches),
            prompt,
            split_whole("--lengths", lengths or ""),
            split_whole("--at", at or ""),
            steps,
        )
        methods, wanted = [*METHODS, *(name for name in extra if name not in METHODS)], ()
    experiment = ThroughputExperiment(
        cells, methods, resolve_dtype(dtype, where), where, 5 if repeats is None else repeats
    )
    with Journal(place / "samples.jsonl", FORMAT, experiment.settings()) as journal, ProgressBar(not as_json) as bar:
        bar.print_resumed(journal, "sample", "timed pieces")

        records = run_throughput(experiment, journal, lambda at: bar.update(at.label, at.done, at.total))
    report = {
        "format": FORMAT,
        **environment(),
        "settings": {**experiment.settings(), "preset": preset, "repeats": experiment.repeats},
        "bandwidth": next(record for record in records if record["kind"] == "bandwidth"),
        "weights": [record for record in records if record["kind"] == "weights"],
        "rows": summarise(experiment, records),
        "estimates": estimates(experiment, records, wanted),
    }
    tables = [throughput_table(report)]
    if report["estimates"]:
        tables.append(estimate_table(report))
    write_report(report, tables, throughput_plot, place, plot, as_json)
