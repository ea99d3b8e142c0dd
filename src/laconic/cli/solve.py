"""`laconic solve`: one problem or a set of them, many traces, and the answers that they agree on."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.chat import choose_chat
from laconic.cli.common import (
    check_writable,
    choose_calibration,
    choose_judge,
    choose_policy,
    choose_sampling,
    choose_strategy,
    one_thread,
    strategy_or_default,
)
from laconic.cli.engines import check_device, choose_engine, open_reasoner
from laconic.cli.interruption import NOTHING, if_interrupted
from laconic.cli.loading import announce_loading
from laconic.cli.messages import INTERRUPTED, print_to_stderr
from laconic.cli.options import (
    AsJson,
    Batch,
    Budget,
    BundledSeed,
    CalibrationFile,
    Clusters,
    Compare,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    ExcerptKind,
    Fallback,
    Finish,
    Gold,
    Interval,
    JudgeSpec,
    Level,
    MaxNewTokens,
    ModelName,
    OutOrNone,
    PolicySpec,
    ProblemFile,
    ProblemsOrAll,
    ProblemText,
    Ratio,
    Seed,
    ShownTexts,
    SourceOrNone,
    Spend,
    StrategySpec,
    System,
    Tau,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
    Traces,
    Window,
)
from laconic.cli.questions import check_vocabulary, choose_question
from laconic.cli.solve_set import POOL_CHUNK, SetRequest, choose_pool, choose_set, kept_of_set, run_set
from laconic.cli.unused import refuse_unused
from laconic.errors import InputError
from laconic.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from laconic.cli.solve_report import SolveReport
    from laconic.prune import Pool, Strategy

NO_ANSWER = 1
SHOWN = ("winner", "all")


def solve(
    problem: ProblemText = None,
    n: Traces = 64,
    strategy: StrategySpec = None,
    judge: JudgeSpec = None,
    excerpt: ExcerptKind = None,
    tau: Tau = None,
    clusters: Clusters = None,
    compare: Compare = None,
    finish: Finish = None,
    fallback: Fallback = None,
    spend: Spend = None,
    calibration: CalibrationFile = None,
    source: SourceOrNone = None,
    problems: ProblemsOrAll = None,
    file: ProblemFile = None,
    bundled: BundledSeed = None,
    level: Level = None,
    gold: Gold = None,
    model: ModelName = None,
    policy: PolicySpec = "none",
    interval: Interval = None,
    ratio: Ratio = None,
    window: Window = None,
    budget: Budget = None,
    batch: Batch = 64,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    engine: EngineSpec = "hf",
    engine_set: EngineSettings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: OutOrNone = None,
    show_texts: ShownTexts = None,
    as_json: AsJson = False,
) -> None:
    """Think about one problem in many traces, as many as are worth their price, and let their answers vote.

    That is the priced vote, four traces at a time, which asks no judge: priced-vote:price=0.012,first=4,parallel=4 (the name
    alone is price 0.005, first 2, one at a time). With --judge, or an option that only DeepPrune has, traces that would end in
    the same answer are stopped instead; with --spend a calibration chooses; --strategy names others.
    The line "plain" says what a plain vote of the traces that have finished would say, and how many it would have for the
    same tokens.

    --source solves a set, problems side by side as far as --batch goes, each a line on stdout, and says at the end what a
    plain vote of as many tokens would have said. With --spend the set shares the budget: every problem gets two traces, each
    further one goes where it should raise the vote most a token, up to --n. --out has the verdicts as they come, and the same
    command goes on from there.

    On a terminal a board shows every trace as it goes; elsewhere each decision is a line on stderr. Ctrl-C ends the run with
    the verdict so far (a second one in the middle of a step). Exit codes: 0 with an answer, 1 where no trace gave one (of a
    set: to no problem, or a budget left some without a trace), 2 for bad input, 130 after Ctrl-C.

    Without --model the bundled reasoner thinks. For it what you don't say starts from its own settings; other models start
    from what was published. Tokens saved are estimated from the traces that finished; `laconic bench parallel` measures them.
    The verdict as JSON (--out, --json) holds the text of every trace and says which one stands for the answer.
    """
    chosen_engine = choose_engine(engine, model, engine_set or ())
    small = chosen_engine.small
    asked, question = None, None
    if source is None:
        refuse_unused("without --source", "problems")
        question = choose_question(problem, file, bundled, level, small)
        question = dataclasses.replace(question, answer=gold) if gold is not None else question
    else:
        one = {"PROBLEM": problem, "--file": file, "--bundled": bundled, "--gold": gold, "--show": show_texts}
        asked = choose_set(source, problems, seed, level, one)
    announce_loading(chosen_engine.model or chosen_engine.urls or None, not as_json)
    if_interrupted(kept_of_set(out) if asked is not None else NOTHING)
    compression = choose_policy(
        policy,
        small,
        interval=interval,
        ratio=ratio,
        window=window,
        budget=budget,
    )
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1 trace")
    if show_texts is not None and show_texts not in SHOWN:
        raise InputError(f"--show is {show_texts!r}; expected {' or '.join(SHOWN)}")
    if show_texts is not None and as_json:
        raise InputError(f"--json prints every trace's text anyway; leave --show {show_texts} out, or --json")
    if out is not None:
        check_writable(out, "the verdict")
    options = {"tau": tau, "K": clusters, "K1": compare, "K2": finish, "K3": fallback, "excerpt": excerpt}
    pool = None
    if asked is not None and spend is not None:
        given = {"strategy": strategy, "judge": judge, "calibration": calibration, **options}
        pool = choose_pool(spend, n, batch, len(asked), given)
    judge_spec = None
    if pool is None:
        strategy = strategy_or_default(
            strategy, {"judge": judge, **options}, {"spend": spend, "calibration": calibration}
        )
        options["spend"] = spend
        judge_spec = choose_judge(judge, strategy, small)
        calibrated = choose_calibration(calibration, strategy)

        from laconic.judges.baselines import RandomJudge

        # With a stand-in for the judge: what is wrong with the strategy is refused before a model is loaded.
        choose_strategy(strategy, n, RandomJudge() if judge_spec else None, small, calibrated, **options)
    if judge_spec is None:
        check_device(chosen_engine, device)

    from rich.console import Console

    from laconic.cli.board import BoardHeading
    from laconic.cli.solve_report import SolveReport
    from laconic.cli.solving import choose_board_view, watch
    from laconic.judges.registry import open_judge
    from laconic.prune import Strategy
    from laconic.prune.alike import warn_alike

    if small:
        one_thread()
    chat = choose_chat(chosen_engine.model, system, thinking, template_arguments)
    reasoner = open_reasoner(chosen_engine, dtype, device, chat)
    if small and question is not None:
        check_vocabulary(reasoner.tokenizer, question)
    sampling = choose_sampling(
        reasoner, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    warn_alike(n, sampling)
    opened = None
    if judge_spec is not None:
        opened = open_judge(
            judge_spec, model=reasoner.weights, tokenizer=reasoner.tokenizer, excerpt=excerpt, device=device
        )
    chosen: Strategy | Pool | None = pool
    if strategy is not None:
        calibrated = choose_calibration(calibration, strategy, reasoner)
        chosen = choose_strategy(strategy, n, opened, small, calibrated, **options)
    assert chosen is not None
    with reasoner.engine(compression, batch, chosen.needs(), chunk_tokens=1 if pool is None else POOL_CHUNK) as running:
        if asked is not None:
            said: dict[str, Any] = {"policy": compression.spec(), "judge": judge_spec, "chat": chat.to_json()}
            identity: dict[str, Any] = getattr(opened, "identity", dict)()
            if identity:
                said["judge_identity"] = identity
            request = SetRequest(str(source), asked, chosen, sampling, seed, said, batch)
            if not run_set(request, chosen_engine, reasoner, running, as_json, out):
                raise typer.Exit(NO_ANSWER)
            return
        assert question is not None
        assert isinstance(chosen, Strategy)
        name = chosen_engine.shown
        setting = f"{chosen.name} · {n} traces · {name} · {compression.spec()}" + (
            f" · judge {judge_spec}" if judge_spec else ""
        )
        view = choose_board_view(as_json, Console(highlight=False), BoardHeading(setting, question.text))
        verdict = watch(chosen.begin(running, question.text, sampling), view)
    report = SolveReport(question, name, compression.spec(), judge_spec, sampling, verdict, chat.to_json())
    end(report, out, show_texts, as_json)


def end(report: SolveReport, out: Path | None, show_texts: str | None, as_json: bool) -> None:
    """Write and show the verdict, and exit as it says."""
    verdict = report.verdict
    if out is not None:
        write_text(out, json.dumps(report.to_json(), indent=1) + "\n")
    if show_texts is not None:
        show_traces(report, show_texts)
    show(report, as_json)
    if out is not None:
        print_to_stderr(f"wrote {out}")
    if not verdict.complete:
        place = (
            f"the verdict so far is in {out}"
            if out is not None
            else "the verdict so far is all that is kept (see --out)"
        )
        print_to_stderr(f"interrupted; {place}, and the same command begins anew")
        raise typer.Exit(INTERRUPTED)
    if verdict.answer is None:
        raise typer.Exit(NO_ANSWER)


def show_traces(report: SolveReport, which: str) -> None:
    """The texts of traces on stdout, each under a line that says which it is."""
    from rich.console import Console
    from rich.text import Text

    found = report.texts(which)
    if not found:
        print_to_stderr("there is no winning trace to show: no trace gave an answer")
    if sys.stdout.isatty():
        console = Console(highlight=False)
        for heading, text in found:
            console.print(Text(heading, style="bold"))
            console.print(Text(text + "\n"))
    else:
        for heading, text in found:
            typer.echo(f"== {heading}\n{text}\n")


def show(report: SolveReport, as_json: bool) -> None:
    """The verdict: as JSON, with a table on a terminal, or the answer alone on stdout and what it cost on stderr."""
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    elif sys.stdout.isatty():
        from rich.console import Console

        summarise(Console(highlight=False), report)
    else:
        for name, value in report.facts():
            print_to_stderr(f"{name}: {value}")
        typer.echo(report.sentence())


def summarise(console: Console, report: SolveReport) -> None:
    """The answer, and under it a table of what it cost."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in report.facts():
        table.add_row(Text(name, style="dim"), Text(value))
    mark = {True: ("✓ ", "bold green"), False: ("✗ ", "bold red"), None: ("", "bold")}[report.right]
    console.print(Text.assemble(mark, (report.sentence(), mark[1])))
    console.print(table)
