"""`laconic think`: one problem, one trace, and what became of its KV cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.chat import choose_chat
from laconic.cli.common import check_writable, choose_policy, choose_sampling, one_thread
from laconic.cli.engines import check_device, choose_engine, open_reasoner
from laconic.cli.interruption import NOTHING, if_interrupted
from laconic.cli.loading import announce_loading
from laconic.cli.messages import INTERRUPTED, print_to_stderr
from laconic.cli.options import (
    AsJson,
    Budget,
    BundledSeed,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    Interval,
    Level,
    MaxNewTokens,
    ModelName,
    PolicySpec,
    ProblemFile,
    ProblemText,
    Ratio,
    Seed,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
    TracePage,
    Window,
)
from laconic.cli.questions import Question, check_vocabulary, choose_question
from laconic.cli.think_report import ThinkReport, conclude
from laconic.files import write_text

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Engine, Trace

ANEW = "\n[its server failed, and none goes on with a text: it begins anew]\n"


def think(
    problem: ProblemText = None,
    file: ProblemFile = None,
    bundled: BundledSeed = None,
    level: Level = None,
    model: ModelName = None,
    policy: PolicySpec = "rpc",
    interval: Interval = None,
    ratio: Ratio = None,
    window: Window = None,
    budget: Budget = None,
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
    html: TracePage = None,
    as_json: AsJson = False,
) -> None:
    """Let a reasoning model think about one problem while its KV cache is compressed, and say what that came to.

    Without --model the bundled reasoner thinks. Its traces are a few hundred tokens long, so for it the policies start from
    interval 128, ratio 4, window 32 and budget 128. Other models start from the policies' published settings (`laconic
    policies`). Sampling starts from the model's own generation_config, else from temperature 0.6 and top-p 0.95. Ctrl-C ends
    the trace where it is, with what it came to. --json prints one object at the end, and nothing meanwhile.
    """
    chosen_engine = choose_engine(engine, model, engine_set or ())
    check_device(chosen_engine, device)
    small = chosen_engine.small
    question = choose_question(problem, file, bundled, level, small)
    from laconic.cli.live import plain

    on_terminal = sys.stdout.isatty() and not as_json
    if on_terminal:
        _introduce(question)
    announce_loading(chosen_engine.model or chosen_engine.urls or None, not as_json)
    if_interrupted(NOTHING)
    chosen = choose_policy(policy, small, interval=interval, ratio=ratio, window=window, budget=budget)
    if html is not None:
        check_writable(html, "the page")

    if small:
        one_thread()
    chat = choose_chat(chosen_engine.model, system, thinking, template_arguments)
    reasoner = open_reasoner(chosen_engine, dtype, device, chat)
    if small:
        check_vocabulary(reasoner.tokenizer, question)
    sampling = choose_sampling(
        reasoner, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )
    with reasoner.engine(chosen, record_held=html is not None) as running:
        prompt = running.render(question.text)
        trace_id = running.submit(prompt, sampling)[0]
        if not as_json and not on_terminal:
            print_to_stderr(f"problem: {plain(question.text)}")
        chosen = getattr(running, "policy", chosen)  # which knows its model
        pieces, kv_tokens = _stream(running, trace_id, chosen, as_json)
        trace = running.trace(trace_id)
        name = chosen_engine.shown
        report = conclude(question, name, chosen, trace, running.stats, chat.to_json())
        if html is not None:
            _write_page(html, running, report, prompt, trace, pieces, kv_tokens)
    _show(report, trace.text, as_json, html)
    if report.finish_reason == "stopped":
        written = f"the trace so far is in {html}; " if html is not None else ""
        after = f"interrupted after {report.generated_tokens:,} tokens"
        print_to_stderr(f"{after}; {written}the same command begins anew and draws the same tokens")
        raise typer.Exit(INTERRUPTED)


def _introduce(question: Question) -> None:
    """The problem above its trace, before anything is loaded."""
    from rich.console import Console
    from rich.text import Text

    from laconic.cli.live import PRINTABLE

    text = question.text.translate(PRINTABLE)
    Console(highlight=False).print(Text(f"Problem, from {question.source}:\n{text}\n", style="dim"))


def _stream(engine: Engine, trace_id: str, policy: Policy, as_json: bool) -> tuple[list[str], list[int]]:
    """Show the trace as it comes, until its end or Ctrl-C. Returns each token's text, and the KV tokens held when it was
    drawn."""
    from rich.console import Console

    from laconic.cli.live import TraceProgress, choose_text_view
    from laconic.cli.solving import InterruptHandler

    pieces: list[str] = []
    kv_tokens: list[int] = []
    trace = engine.trace(trace_id)
    schedule = policy.schedule.of(trace.token_ids)  # a list that grows
    prompt = len(trace.prompt_ids)
    with InterruptHandler() as interrupt, choose_text_view(as_json, Console(highlight=False)) as view:
        for chunk in engine.stream():  # one token a chunk
            computed = len(trace.token_ids) - 1
            if chunk.restarted:
                pieces.clear()
                kv_tokens.clear()
                view.feed(ANEW, TraceProgress(prompt, prompt, 0, 0))
            pieces.append(chunk.text)
            kv_tokens.append(schedule.physical(computed, prompt))
            progress = TraceProgress(prompt + computed, kv_tokens[-1], computed, schedule.rounds(computed))
            view.feed(chunk.text, progress)
            if interrupt.requested and chunk.finish_reason is None:
                break
    return pieces, kv_tokens


def _write_page(
    path: Path, engine: Any, report: ThinkReport, prompt: str, trace: Trace, pieces: list[str], kv_tokens: list[int]
) -> None:
    from laconic.cli.html import TracePage, render

    held = engine.held(trace.id)
    apart = {layer for layers in engine.stats.left_alone.values() for layer in layers}
    count = held.shape[0] + len(apart)
    page = TracePage(
        title=f"What {report.policy} kept of a trace",
        prompt=prompt,
        prompt_tokens=report.prompt_tokens,
        pieces=pieces,
        held=held.cpu(),
        compressions=engine.compression_points(trace.id),
        kv_tokens=kv_tokens,
        facts=report.facts(),
        layers=[layer for layer in range(count) if layer not in apart],
        verdict=report.verdict(),
        right=report.right,
    )
    write_text(path, render(page))


def _show(report: ThinkReport, text: str, as_json: bool, html: Path | None) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(text)))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in report.facts():
            table.add_row(Text(name, style="dim"), value)
        mark = {True: ("✓ ", "bold green"), False: ("✗ ", "bold red"), None: ("", "bold")}[report.right]
        console.print()
        console.print(Text.assemble(mark, (report.verdict(), mark[1])))
        console.print(table)
    else:
        print_to_stderr(f"{report.verdict()}; " + "; ".join(f"{name}: {value}" for name, value in report.facts()))
    if html is not None:
        print_to_stderr(f"wrote {html}")
