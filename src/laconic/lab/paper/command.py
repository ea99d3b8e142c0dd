"""`laconic bench paper`: the commands that fill a paper's tables, run or printed, and the tables merged."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from laconic.cli.interruption import if_interrupted
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    JudgeSpec,
    MaxNewTokens,
    Models,
    OutOrNone,
    ProblemsOrAll,
    TracesOrAll,
)
from laconic.lab.shared.options import (
    CellPattern,
    CellsToRun,
    MeanLength,
    PaperName,
    RepeatsOrPreset,
    ResultDirectories,
    Sources,
    TokensPerSecond,
)


def bench(
    paper: PaperName,
    run: CellsToRun = None,
    cells: CellPattern = "*",
    results: ResultDirectories = None,
    model: Models = None,
    source: Sources = None,
    problems: ProblemsOrAll = None,
    n: TracesOrAll = None,
    repeats: RepeatsOrPreset = None,
    max_new_tokens: MaxNewTokens = None,
    judge: JudgeSpec = None,
    mean_length: MeanLength = None,
    tokens_per_second: TokensPerSecond = None,
    engine: EngineSpec = "hf",
    engine_set: EngineSettings = None,
    batch: Batch = 16,
    dtype: Dtype = "bfloat16",
    device: Device = "auto",
    out: OutOrNone = None,
    as_json: AsJson = False,
) -> None:
    """The tables of a paper: which command fills which cell, at the published settings, and about how many GPU hours it takes.

    Without more said they are printed, as a script whose comments say what is published. --run runs cells instead, in
    directories below --out, and prints their table; the same command goes on where an interrupted one stopped. --results merges
    what several machines wrote (each its own copy of such a --out) into the tables, with the published figure beside each;
    results of different settings are refused with what differs.

    --model NAME=MODEL says where a model of the paper is, MODEL alone stands for all of them; --source NAME:FILE where the
    problems of a benchmark are, any other source stands for all; both may be given several times. --problems, --n, --repeats
    and --max-new-tokens make it smaller; the table then says so. --out is runs/paper-NAME where nothing is said.
    """
    from laconic.checks import number, whole
    from laconic.cli.messages import print_to_stderr
    from laconic.errors import InputError
    from laconic.lab.paper.commands import RunChoices, chosen_models, chosen_sources
    from laconic.lab.paper.deepprune import PAPER as DEEPPRUNE
    from laconic.lab.paper.listing import listed, script
    from laconic.lab.paper.rpc import PAPER as RPC
    from laconic.lab.paper.running import call_command, full_length, run_cells, runnable, select_cells

    papers = {each.name: each for each in (RPC, DEEPPRUNE)}
    if paper not in papers:
        raise InputError(f"The paper {paper!r} is unknown; expected {' or '.join(papers)}")
    chosen = papers[paper]
    for name, count in (("--problems", problems), ("--n", n), ("--repeats", repeats), ("--batch", batch)):
        if count is not None:
            whole(name, count, 1)
    for name, value in (("--mean-length", mean_length), ("--tokens-per-second", tokens_per_second)):
        if value is not None:
            number(name, value, 1)
    how = RunChoices(
        out=out or Path("runs") / f"paper-{paper}",
        models=chosen_models(model or (), chosen),
        sources=chosen_sources(source or (), chosen),
        problems=problems,
        n=n,
        repeats=repeats,
        max_new_tokens=max_new_tokens,
        mean_length=mean_length,
        judge=judge,
        engine=engine,
        engine_set=engine_set or (),
        batch=batch,
        dtype=dtype,
        device=device,
    )
    selected = select_cells(chosen, [cells])
    if run:
        selected = [cell for cell in select_cells(chosen, run) if cell in selected]
        if not selected:
            raise InputError(f"None of the cells of --run is one of --cells {cells}; leave --cells out")
        selected = runnable(chosen, selected, run, how, print_to_stderr)
        if_interrupted(f"what is finished is in {how.out}, and the same command goes on from there")
        run_cells(chosen, selected, how, print_to_stderr, call_command)
        places = {cell.place for cell in selected}
        selected = [cell for cell in chosen.cells if cell.place in places]  # with those that stand beside them
    if not run and not results:
        lengths = {cell.place: full_length(cell, how) for cell in selected}
        found = listed(selected, how, tokens_per_second, {place: length for place, length in lengths.items() if length})
        typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(script(chosen, found)))
        return
    from laconic.lab.paper.report import has_tables, show_merged

    roots = [*([how.out] if run else []), *(results or ())]
    if run and not results and not has_tables(selected):
        print_to_stderr(f"The results are in {how.out}; no table is made of them here.")
        return
    show_merged(chosen, selected, roots, how.out, as_json)
