"""`laconic bench`: accuracy of policies at equal cache size, throughput against what bytes predict, pruning, vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from laconic.cli.bench_vllm import vllm
from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import say_loading
from laconic.cli.options import (
    Batch,
    BenchDtype,
    BenchWindow,
    Device,
    Dtype,
    JsonResults,
    Levels,
    ModelName,
    Plot,
    ProblemSeed,
    Ratios,
    SampleSeed,
    Source,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
    TraceLimit,
)
from laconic.cli.parallel import parallel
from laconic.cli.unused import refuse_ratios, refuse_seed, refuse_unused

MOST_THREADS = 4096

app = typer.Typer(
    no_args_is_help=True,
    help="Measure: accuracy against cache size, throughput against what bytes predict, what pruning saves, policies in vLLM.",
)
app.command()(parallel)
app.command()(vllm)

# Which tokens of the bundled task hold a result (`h=6`): what the oracle keeps there.
BUNDLED_RESULTS = r"^[a-z]=\d$"


@app.command()
def accuracy(
    model: ModelName = None,
    source: Source = "bundled",
    problems: Annotated[
        int | None, typer.Option("--problems", "-n", help="How many; without it 200 bundled ones, or all of a source.")
    ] = None,
    seed: ProblemSeed = 0,
    level: Levels = None,
    samples: Annotated[int, typer.Option("--samples", "-k", help="Traces of each problem.")] = 1,
    policies: Annotated[
        str | None,
        typer.Option(
            "--policies",
            "-p",
            help="Names by commas; with whole specs among them (rkv:budget=96,buffer=32) by semicolons. Default: all.",
        ),
    ] = None,
    ratios: Ratios = "2,4,8",
    interval: Annotated[
        int | None, typer.Option(help="RPC's interval; 128 for the bundled model, 4096 for others.")
    ] = None,
    window: BenchWindow = 32,
    oracle_pattern: Annotated[
        str | None, typer.Option(help="Regular expression of the token texts that the policy oracle keeps.")
    ] = None,
    max_new_tokens: TraceLimit = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    sample_seed: SampleSeed = 0,
    batch: Batch = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory of traces.jsonl (resumed), results.json, table.md, plot.png.")
    ] = Path("runs/accuracy"),
    keep_tokens: Annotated[bool, typer.Option(help="Also write token ids, for `laconic analyze`.")] = False,
    plot: Plot = None,
    as_json: JsonResults = False,
) -> None:
    """pass@1 of policies at equal cache size, with 95 % intervals and paired differences to full KV.

    Finished traces are written at once; the same command goes on where an interrupted one stopped. More --problems, --samples,
    --policies or --ratios add to the directory; a budget that was matched before stays. Other settings are refused.
    """
    if_interrupted(resumed(out / "traces.jsonl"))
    say_loading(model, not as_json)
    from laconic.bench.accuracy import FORMAT, may_grow, run_accuracy, settings
    from laconic.bench.contenders import POLICIES, KeepPattern, plan
    from laconic.bench.environment import environment, public
    from laconic.bench.fingerprint import fingerprint
    from laconic.bench.journal import Journal
    from laconic.cli.chat import choose_chat
    from laconic.cli.common import SMALL, check_problems, choose_sampling, is_bundled, model_path
    from laconic.cli.measuring import Bar, check_plot, split_numbers, split_policies, write_report
    from laconic.engines.hf import HFEngine, load
    from laconic.errors import InputError
    from laconic.problems.sources import load_problems
    from laconic.prune.alike import warn_alike

    check_plot(plot)
    if samples < 1:
        raise InputError(f"--samples is {samples}; expected at least 1.")
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1.")
    small = is_bundled(model)
    refuse_seed(source)
    asked = load_problems(source, problems, seed, level)
    names = split_policies(policies) if policies is not None else list(POLICIES)
    chosen_ratios = split_numbers("--ratios", ratios)
    pattern = oracle_pattern or (BUNDLED_RESULTS if small else None)
    if policies is None and pattern is None:
        names.remove("oracle")
    plan_options: dict[str, Any] = {
        "interval": interval if interval is not None else SMALL["interval"] if small else 4096,
        "window": window,
    }
    # Everything that can be wrong without the model is refused before the model is loaded.
    plan([name for name in names if name != "oracle"] or ["full"], chosen_ratios, **plan_options)
    if "oracle" in names and pattern is None:
        plan(["oracle"], chosen_ratios, **plan_options)
    if "oracle" not in names:
        refuse_unused("without the policy oracle", "oracle_pattern")
    refuse_ratios(names)
    chat = choose_chat(model, system, thinking, template_arguments)
    language, tokenizer = load(model_path(model), dtype=dtype, device=device, fix_rotation=True)
    if small:
        check_problems(tokenizer, asked)
    if "oracle" in names and pattern is not None:
        texts = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        plan_options["oracle"] = KeepPattern(pattern, [text or "" for text in texts])
    contenders = plan(names, chosen_ratios, **plan_options)
    sampling = choose_sampling(
        language,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=sample_seed,
    )
    warn_alike(samples, sampling)
    described = settings(
        model={
            "name": "bundled" if small else public(str(model)),
            "fingerprint": fingerprint(language),
            "dtype": str(language.dtype).removeprefix("torch."),
        },
        problem_set=f"bundled, seed {seed}, level {level or 'mixture'}" if source == "bundled" else public(source),
        problems=asked,
        contenders=contenders,
        samples=samples,
        sampling=sampling,
        chat=chat.to_json(),
    )
    journal = Journal(out / "traces.jsonl", FORMAT, described, may_grow=may_grow)
    with journal, Bar(not as_json) as bar:
        bar.tell_journal(journal)
        rows = run_accuracy(
            asked,
            contenders,
            lambda policy: HFEngine(language, tokenizer, policy=policy, max_batch=batch, chunk_tokens=16, chat=chat),
            samples=samples,
            sampling=sampling,
            journal=journal,
            watch=lambda event: bar.update(event.label, event.done, event.total, f"{event.tokens:,} tokens"),
            keep_tokens=keep_tokens,
        )
    report = {"format": FORMAT, **environment(), "settings": described, "rows": [row.to_json() for row in rows]}
    from laconic.report.plots import accuracy_plot
    from laconic.report.results import accuracy_table

    write_report(report, [accuracy_table(report)], accuracy_plot, out, plot, as_json)


@app.command()
def throughput(
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

    from laconic.bench.environment import environment
    from laconic.bench.journal import Journal
    from laconic.bench.presets import cells_of, get_preset
    from laconic.bench.shapes import pick_device, resolve_dtype
    from laconic.bench.speed import estimates, summarise
    from laconic.bench.throughput import FORMAT, METHODS, Job, Piece, run_throughput
    from laconic.checks import whole
    from laconic.cli.measuring import Bar, check_plot, split_names, split_policies, split_whole, write_report
    from laconic.errors import InputError
    from laconic.report.plots import throughput_plot
    from laconic.report.results import estimate_table, throughput_table

    check_plot(plot)
    if threads is not None:
        torch.set_num_threads(whole("--threads", threads, 1, MOST_THREADS))
    where = pick_device(device)
    extra = split_policies(policies or "")
    if preset is not None:
        if lengths or at:
            raise InputError("--preset says what lengths to run; leave --lengths and --at out, or the preset.")
        chosen = get_preset(preset).only(split_names(shape))
        refuse_unused(f"beside --preset {preset}, which says what to run", "batch", "prompt", "steps")
        if chosen.gpu and where.type != "cuda" and not force:
            raise InputError(
                f"The preset {preset} is made for a GPU, and this machine has none that torch can use: run it on one, "
                "choose a cpu- preset, or insist with --force."
            )
        cells, methods, wanted = chosen.cells, [*chosen.methods, *extra], chosen.lengths
        repeats = repeats if repeats is not None else chosen.repeats
    else:
        if not shape:
            raise InputError("There is nothing to run: name a --preset, or a --shape with --lengths or --at.")
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
