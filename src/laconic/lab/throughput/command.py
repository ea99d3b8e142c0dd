"""`laconic bench throughput`: policies against full KV, plain `generate`, and what bytes predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.options import (
    BenchDtype,
    Device,
    JsonResults,
    Plot,
)
from laconic.cli.unused import refuse_unused

MOST_THREADS = 4096


def bench(
    preset: Annotated[
        str | None,
        typer.Option(
            help="cpu-kv, cpu-policies, cpu-weights, cpu-parity or rpc-paper; or say what to run with the options below."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Model shapes by name, separated by commas; with a preset, only these of its.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Rows at once, separated by commas.")] = "8",
    prompt: Annotated[int, typer.Option(help="Prompt tokens a row.")] = 128,
    lengths: Annotated[str | None, typer.Option(help="Whole runs to these numbers of generated tokens.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Or only --steps steps from these numbers on, the cache being as it is there.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps timed with --at.")] = 64,
    policies: Annotated[
        str | None,
        typer.Option("--policies", "-p", help="Specs separated by semicolons; full and generate run always."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", "-r", help="Of everything, interleaved; 5, or the preset's.")
    ] = None,
    dtype: BenchDtype = "auto",
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(help="torch's threads on a CPU.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run a GPU preset on a CPU.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory of samples.jsonl (resumed), results.json, table.md, plot.png."),
    ] = None,
    plot: Plot = None,
    as_json: JsonResults = False,
) -> None:
    """Tokens a second of policies, of full KV and of plain `generate`, against what bytes predict.

    Models are built from their configs with random weights; nothing is downloaded. Every measured piece is written at
    once; the same command goes on where an interrupted one stopped.
    """
    place = out or Path("runs") / (preset or "throughput")
    if_interrupted(resumed(place / "samples.jsonl"))
    import torch

    from laconic.checks import whole
    from laconic.cli.lists import split_names, split_policies, split_whole
    from laconic.cli.progress import Bar
    from laconic.engines.hf.shapes import pick_device, resolve_dtype
    from laconic.environment import environment
    from laconic.errors import InputError
    from laconic.lab.shared.journal import Journal
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.lab.throughput.plot import throughput_plot
    from laconic.lab.throughput.presets import cells_of, get_preset
    from laconic.lab.throughput.rows import estimates, summarise
    from laconic.lab.throughput.run import FORMAT, METHODS, Job, Piece, run_throughput
    from laconic.lab.throughput.table import estimate_table, throughput_table

    check_plot(plot)
    if threads is not None:
        torch.set_num_threads(whole("--threads", threads, 1, MOST_THREADS))
    where = pick_device(device)
    extra = split_policies(policies or "")
    if preset is not None:
        if lengths or at:
            raise InputError("--preset says what lengths to run; leave --lengths and --at out, or the preset")
        chosen = get_preset(preset).only(split_names(shape))
        refuse_unused(f"beside --preset {preset}, which says what to run", "batch", "prompt", "steps")
        if chosen.gpu and where.type != "cuda" and not force:
            raise InputError(
                f"The preset {preset} is made for a GPU, and this machine has none that torch can use: run it on one, "
                "choose a cpu- preset, or insist with --force"
            )
        cells, methods, wanted = chosen.cells, [*chosen.methods, *extra], chosen.lengths
        repeats = repeats if repeats is not None else chosen.repeats
    else:
        if not shape:
            raise InputError("There is nothing to run: name a --preset, or a --shape with --lengths or --at")
        refuse_unused("without a --preset that is made for a GPU", "force")
        if not at:
            refuse_unused("without --at", "steps")
        cells = cells_of(
            split_names(shape),
            split_whole("--batch", batch),
            prompt,
            split_whole("--lengths", lengths or ""),
            split_whole("--at", at or ""),
            steps,
        )
        methods, wanted = [*METHODS, *(name for name in extra if name not in METHODS)], ()
    job = Job(cells, methods, resolve_dtype(dtype, where), where, 5 if repeats is None else repeats)
    with Journal(place / "samples.jsonl", FORMAT, job.settings()) as journal, Bar(not as_json) as bar:
        bar.tell_journal(journal, "sample", "timed pieces")

        def show(piece: Piece) -> None:
            bar.update(piece.label, piece.done, piece.total)

        records = run_throughput(job, journal, show)
    report = {
        "format": FORMAT,
        **environment(),
        "settings": {**job.settings(), "preset": preset, "repeats": job.repeats},
        "bandwidth": next(record for record in records if record["kind"] == "bandwidth"),
        "weights": [record for record in records if record["kind"] == "weights"],
        "rows": summarise(job, records),
        "estimates": estimates(job, records, wanted),
    }
    tables = [throughput_table(report)]
    if report["estimates"]:
        tables.append(estimate_table(report))
    write_report(report, tables, throughput_plot, place, plot, as_json)
