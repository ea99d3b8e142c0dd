"""`laconic demo`: the main job end to end, offline, in about a minute, with what it cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.common import (
    BUNDLED,
    SMALL,
    choose_sampling,
    choose_strategy,
    model_path,
    one_thread,
)
from laconic.cli.interruption import NOTHING, if_interrupted
from laconic.cli.loading import announce_loading
from laconic.cli.messages import print_to_stderr, size
from laconic.cli.options import (
    AsJson,
    Problems,
    RatioOfAll,
    Seed,
    Traces,
)
from laconic.cli.questions import Question
from laconic.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.text import Text

    from laconic.cli.demo_figures import Figures
    from laconic.cli.solve_report import SolveReport
    from laconic.cli.solving import SilentBoardView
    from laconic.compress import Policy
    from laconic.engines.base import Sampling
    from laconic.problems import Problem
    from laconic.statistics import Interval

MAX_BATCH = 32
EXCERPT = 120  # tokens
TRACES = 64


def demo(
    problems: Problems = 64,
    samples: Traces = 1,
    seed: Seed = 0,
    ratio: RatioOfAll = SMALL["ratio"],
    as_json: AsJson = False,
) -> None:
    """Solve held-out problems with the bundled reasoner: full KV, its selector, RPC and Random at one cache size.

    Needs no network. Prints accuracy with its 95 % interval, KV tokens and bytes, tokens per second, and an excerpt of
    a trace that shows what was evicted. Where there is a bundled judge, the first problem is then solved by 64 traces under
    DeepPrune and compression together, with what that saved.
    """
    for option, count in (("--problems", problems), ("--n", samples)):
        if count < 1:
            raise InputError(f"{option} is {count}; expected at least 1")
    if_interrupted(NOTHING)
    announce_loading(None, not as_json)
    from rich.console import Console

    from laconic.cli.demo_figures import compared_policies, figures, label_of, solve
    from laconic.cli.progress import ProgressBar
    from laconic.cli.solving import SilentBoardView
    from laconic.engines.hf import HFEngine, load
    from laconic.problems import generate
    from laconic.prune.alike import warn_alike

    one_thread()
    compared_policies(ratio, SMALL["interval"], SMALL["window"])
    questions = generate(problems, seed=seed)
    model, tokenizer = load(model_path(None))
    policies = compared_policies(ratio, SMALL["interval"], SMALL["window"], learned=_has_selector(model))
    sampling = choose_sampling(model, seed=seed)
    warn_alike(samples, sampling)
    print_to_stderr(
        f"The bundled reasoner on {problems} held-out problems x {samples}, under {len(policies)} policies ..."
    )
    rows: list[Figures] = []
    right_of_full = None
    per_token = 0.0
    with ProgressBar() as bar:
        done, total = 0, len(policies) * problems * samples

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(label, done, total)

        for compared in policies:
            label = label_of(compared)
            engine = HFEngine(model, tokenizer, policy=compared, max_batch=MAX_BATCH, chunk_tokens=64)
            traces, seconds = solve(engine, questions, samples, sampling, advance)
            row, right = figures(compared, questions, traces, seconds, right_of_full)
            rows.append(row)
            right_of_full = right_of_full or right
            per_token = engine.stats.peak_kv_bytes / engine.stats.peak_kv_tokens

    console = Console(highlight=False)
    policy = policies[1]  # the learned selector, or RPC where there is none
    if as_json:
        report = {"bytes_per_kv_token": per_token, "rows": [row.to_json() for row in rows]}
        if _has_judge():
            report["solve"] = _solve(model, tokenizer, policy, questions[0], sampling, SilentBoardView()).to_json()
        typer.echo(json.dumps(report))
        return
    _table(console, rows, per_token)
    engine = HFEngine(model, tokenizer, policy=policy, record_held=True)
    trace_id = engine.submit(engine.render(questions[0].question), sampling)[0]
    pieces = [chunk.text for chunk in engine.stream()]
    _excerpt(
        console,
        label_of(policy),
        pieces,
        engine.held(trace_id).any(dim=0).any(dim=0).tolist(),
        engine.compression_points(trace_id),
    )
    if _has_judge():
        _show_solving(console, model, tokenizer, policy, questions[0], sampling)


def _has_selector(model: Any) -> bool:
    from laconic.fingerprint import weights_fingerprint
    from laconic.selectors import find_selector

    try:
        find_selector(weights_fingerprint(model))
    except InputError:
        return False
    return True


def _has_judge() -> bool:
    from laconic.assets import reasoner_path

    return (reasoner_path().parent / "judge" / "config.json").is_file()


def _solve(
    model: Any, tokenizer: Any, policy: Policy, problem: Problem, sampling: Sampling, view: SilentBoardView
) -> SolveReport:
    """One problem by many traces, both ways of estimate at once."""
    from laconic.cli.solve_report import SolveReport
    from laconic.cli.solving import watch
    from laconic.engines.hf import HFEngine
    from laconic.judges.registry import open_judge

    judge = open_judge(BUNDLED, model=model, tokenizer=tokenizer)
    strategy = choose_strategy("deepprune", TRACES, judge, True)
    engine = HFEngine(model, tokenizer, policy, max_batch=TRACES)
    verdict = watch(strategy.begin(engine, problem.question, sampling), view)
    if not verdict.complete:
        raise KeyboardInterrupt
    question = Question(problem.question, problem.answer)
    return SolveReport(question, "bundled reasoner", policy.spec(), BUNDLED, sampling, verdict)


def _show_solving(
    console: Console, model: Any, tokenizer: Any, policy: Policy, problem: Problem, sampling: Sampling
) -> None:
    from laconic.cli.board import BoardHeading
    from laconic.cli.solve import summarise
    from laconic.cli.solving import BoardView, SilentBoardView, can_show

    setting = f"deepprune · {TRACES} traces · bundled reasoner · {policy.spec()} · bundled judge"
    view = BoardView(console, BoardHeading(setting, problem.question)) if can_show(console) else SilentBoardView()
    console.print()
    console.print(
        f"The first problem by {TRACES} traces: DeepPrune stops those that would agree, {policy.name} compresses the others."
    )
    report = _solve(model, tokenizer, policy, problem, sampling, view)
    summarise(console, report)
    console.print(
        f"The same, live, for any problem: laconic solve --strategy deepprune --policy {policy.name}", style="dim"
    )


def _table(console: Console, rows: list[Figures], per_token: float) -> None:
    """Policies side by side: a column each fits a narrow terminal, a row each would not."""
    from rich.table import Table

    from laconic.cli.tables import alone

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column("full KV" if row.ratio is None else row.label, justify="right")

    def line(name: str, value: Callable[[Figures], str]) -> None:
        table.add_row(name, *(value(row) for row in rows))

    line("accuracy, %", lambda row: _percent(row.accuracy, ""))
    line("  to full KV", lambda row: _percent(row.difference, "+"))
    line("KV tokens, peak", lambda row: f"{row.peak_kv_tokens:,}")
    line("KV tokens, mean", lambda row: f"{row.mean_kv_tokens:,.0f}")
    line("KV bytes, peak", lambda row: size(round(row.peak_kv_tokens * per_token)))
    line("KV bytes, mean", lambda row: size(round(row.mean_kv_tokens * per_token)))
    line("tokens/s", lambda row: f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else "")
    line("mean length", lambda row: f"{row.mean_length:,.0f}")
    line("no answer", lambda row: f"{row.unanswered:.0%}")
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"n = {rows[0].problems} problems x {rows[0].samples}, 95 % intervals: a difference that spans 0 is no "
        "finding. KV is that of one trace, prompt included: the largest peak, and the mean over steps. Speed is no "
        "claim at this size: so small a model waits for Python, not for its cache (laconic bench throughput). Nor is "
        "accuracy a forecast for large models: these traces are a few hundred dense tokens (README.md has what was "
        "published).",
        style="dim",
    )
    for note in alone(rows[0].problems):
        console.print(note, style="dim")


def _percent(interval: Interval | None, sign: str) -> str:
    """The mean and the interval around it, in percent; sign: "+" for differences."""
    if interval is None:
        return "-"
    mean, low, high = (f"{100 * value:{sign}.0f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def _excerpt(console: Console, policy: str, pieces: list[str], held: list[bool], compressions: list[int]) -> None:
    """The middle of a trace: evicted tokens pale on a terminal, dots elsewhere."""
    from rich.text import Text

    start = max(0, len(pieces) // 2 - EXCERPT // 2)
    text = Text()
    for i, (piece, stays) in enumerate(list(zip(pieces, held, strict=True))[start : start + EXCERPT], start):
        text.append_text(_token(piece, stays, console.is_terminal))
        if i + 1 in compressions:
            text.append(" |", style="yellow")
    pale = "pale" if console.is_terminal else "a dot"
    console.print()
    console.print(
        f"From the middle of one trace under {policy} ({pale}: evicted from every layer by the end, |: a compression):"
    )
    console.print(text)
    console.print("The whole of it as a page: laconic think --html trace.html", style="dim")


def _token(piece: str, stays: bool, colour: bool) -> Text:
    from rich.text import Text

    if stays:
        return Text(piece)
    return Text(piece, style="bright_black") if colour else Text(" ·" if piece.startswith(" ") else "·")
