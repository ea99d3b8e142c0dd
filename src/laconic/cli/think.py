"""`laconic think`: one problem, one trace, and what became of its KV cache."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.chat import choose_chat
from laconic.cli.common import (
    INTERRUPTED,
    Question,
    check_vocabulary,
    check_writable,
    choose_policy,
    choose_question,
    choose_sampling,
    complain,
    one_thread,
    size,
)
from laconic.cli.engines import check_device, choose_engine, open_reasoner
from laconic.cli.interruption import NOTHING, if_interrupted
from laconic.cli.loading import say_loading
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
from laconic.files import write_text

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Engine, EngineStats, Trace


@dataclass(frozen=True)
class ThinkOutcome:
    """What a trace came to. KV tokens are of one layer, the prompt's included; bytes are of all compressible layers.

    held: at the end, after the last compression; bytes_held and bytes_full: what that takes, and what all tokens would.
    seconds: of decoding. right: whether the answer is the known one, None where none is known. chat: `Chat.to_json`.
    """

    question: Question
    policy: str
    model: str
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    compressions: int
    evicted: int
    held: int
    peak: int
    mean: float
    bytes_held: int
    bytes_peak: int
    bytes_full: int
    seconds: float
    answer: str | None
    right: bool | None
    chat: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def logical(self) -> int:
        """Tokens whose KV was computed: the newest one's never is, as no step follows that would attend to it."""
        return self.prompt_tokens + max(self.generated_tokens - 1, 0)

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.seconds if self.seconds > 0 else 0.0

    def verdict(self) -> str:
        if self.answer is None:
            why = {"length": " (cut off: more --max-new-tokens would let it go on)", "stopped": " (interrupted)"}
            return f"no final answer{why.get(self.finish_reason, '')}"
        known = {True: ", which is right", False: f", but it is {self.question.answer}", None: ""}[self.right]
        return f"answer {self.answer}{known}"

    def facts(self) -> list[tuple[str, str]]:
        """The summary as (name, value) pairs, for people."""
        return [
            ("model", self.model),
            ("policy", self.policy),
            ("tokens", f"{self.prompt_tokens:,} prompt + {self.generated_tokens:,} generated"),
            ("compressions", f"{self.compressions:,}"),
            ("evicted", f"{self.evicted:,} tokens"),
            ("KV held at the end", f"{self.held:,} of {self.logical:,} tokens ({self.held / self.logical:.0%})"),
            ("KV peak / mean", f"{self.peak:,} / {self.mean:,.0f} tokens"),
            ("KV memory at the end", f"{size(self.bytes_held)} of {size(self.bytes_full)}"),
            ("KV memory, peak", size(self.bytes_peak)),
            ("speed", f"{self.tokens_per_second:,.0f} tokens/s"),
        ]

    def to_json(self, text: str) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        question, chat = record.pop("question"), record.pop("chat")
        return {
            "question": question["text"],
            "expected": question["answer"],
            "text": text,
            **record,
            **({"chat": chat} if chat else {}),
            "logical": self.logical,
            "tokens_per_second": self.tokens_per_second,
        }


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
    say_loading(chosen_engine.model, not as_json)
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
            complain(f"problem: {plain(question.text)}")
        pieces, kv_tokens = _stream(running, trace_id, chosen, as_json)
        trace = running.trace(trace_id)
        name = "bundled reasoner" if small else str(chosen_engine.model)
        outcome = conclude(question, name, chosen, trace, running.stats, chat.to_json())
        if html is not None:
            _write_page(html, running, outcome, prompt, trace, pieces, kv_tokens)
    _show(outcome, trace.text, as_json, html)
    if outcome.finish_reason == "stopped":
        written = f"the trace so far is in {html}; " if html is not None else ""
        after = f"interrupted after {outcome.generated_tokens:,} tokens"
        complain(f"{after}; {written}the same command begins anew and draws the same tokens")
        raise typer.Exit(INTERRUPTED)


def _introduce(question: Question) -> None:
    """The problem above its trace, before anything is loaded."""
    from rich.console import Console
    from rich.text import Text

    from laconic.cli.live import PRINTABLE

    text = question.text.translate(PRINTABLE)
    Console(highlight=False).print(Text(f"Problem, from {question.source}:\n{text}\n", style="dim"))


def conclude(
    question: Question,
    model: str,
    policy: Policy,
    trace: Trace,
    stats: EngineStats,
    chat: Mapping[str, Any] | None = None,
) -> ThinkOutcome:
    """The figures of a trace that ran alone in its engine, to its end or until it was interrupted."""
    from laconic.answers import answer_of, equivalent

    prompt, generated = len(trace.prompt_ids), len(trace.token_ids)
    computed = max(generated - 1, 0)
    held = policy.schedule.physical(computed, prompt)
    per_token = stats.peak_kv_bytes / stats.peak_kv_tokens if stats.peak_kv_tokens else 0.0
    answer = answer_of(trace)
    known = question.answer is not None
    return ThinkOutcome(
        question=question,
        policy=policy.spec(),
        model=model,
        finish_reason=trace.finish_reason or "stopped",
        prompt_tokens=prompt,
        generated_tokens=generated,
        compressions=stats.compressions,
        evicted=stats.evicted,
        held=held,
        peak=trace.peak_kv_tokens,
        mean=trace.mean_kv_tokens,
        bytes_held=round(held * per_token),
        bytes_peak=stats.peak_kv_bytes,
        bytes_full=round((prompt + computed) * per_token),
        seconds=stats.decode_seconds,
        answer=answer,
        right=equivalent(answer, question.answer) if known else None,
        chat=chat or {},
    )


def _stream(engine: Engine, trace_id: str, policy: Policy, as_json: bool) -> tuple[list[str], list[int]]:
    """Show the trace as it comes, until its end or Ctrl-C. Returns each token's text, and the KV tokens held when it was
    drawn."""
    from rich.console import Console

    from laconic.cli.live import Moment, choose_view
    from laconic.cli.solving import InterruptHandler

    pieces: list[str] = []
    kv_tokens: list[int] = []
    trace, schedule = engine.trace(trace_id), policy.schedule
    prompt = len(trace.prompt_ids)
    with InterruptHandler() as interrupt, choose_view(as_json, Console(highlight=False)) as view:
        for chunk in engine.stream():  # one token a chunk
            computed = len(trace.token_ids) - 1
            pieces.append(chunk.text)
            kv_tokens.append(schedule.physical(computed, prompt))
            moment = Moment(prompt + computed, kv_tokens[-1], computed, schedule.rounds(computed))
            view.feed(chunk.text, moment)
            if interrupt.requested and chunk.finish_reason is None:
                break
    return pieces, kv_tokens


def _write_page(
    path: Path, engine: Any, outcome: ThinkOutcome, prompt: str, trace: Trace, pieces: list[str], kv_tokens: list[int]
) -> None:
    from laconic.cli.html import TracePage, render

    held = engine.held(trace.id)
    apart = {layer for layers in engine.stats.left_alone.values() for layer in layers}
    count = held.shape[0] + len(apart)
    page = TracePage(
        title=f"What {outcome.policy} kept of a trace",
        prompt=prompt,
        prompt_tokens=outcome.prompt_tokens,
        pieces=pieces,
        held=held.cpu(),
        compressions=engine.compression_points(trace.id),
        kv_tokens=kv_tokens,
        facts=outcome.facts(),
        layers=[layer for layer in range(count) if layer not in apart],
        verdict=outcome.verdict(),
        right=outcome.right,
    )
    write_text(path, render(page))


def _show(outcome: ThinkOutcome, text: str, as_json: bool, html: Path | None) -> None:
    if as_json:
        typer.echo(json.dumps(outcome.to_json(text)))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in outcome.facts():
            table.add_row(Text(name, style="dim"), value)
        mark = {True: ("✓ ", "bold green"), False: ("✗ ", "bold red"), None: ("", "bold")}[outcome.right]
        console.print()
        console.print(Text.assemble(mark, (outcome.verdict(), mark[1])))
        console.print(table)
    else:
        complain(f"{outcome.verdict()}; " + "; ".join(f"{name}: {value}" for name, value in outcome.facts()))
    if html is not None:
        complain(f"wrote {html}")
