"""`laconic collect`: traces of many problems into a file, for judges, replays and benchmarks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.chat import choose_chat
from laconic.cli.engines import check_device, choose_engine, open_reasoner
from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.messages import share
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    Level,
    MaxNewTokens,
    ModelName,
    Out,
    PolicySpec,
    ProblemsOrAll,
    Seed,
    Source,
    Spend,
    Split,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
    Traces,
)
from laconic.cli.progress import ProgressOrLines
from laconic.lab.shared.options import (
    ConfidenceTopK,
    SampleSeedOrNone,
)

if TYPE_CHECKING:
    from laconic.lab.collect.summary import CollectionSummary
    from laconic.problems import Problem


def collect(
    out: Out,
    n: Traces = 16,
    spend: Spend = None,
    problems: ProblemsOrAll = None,
    source: Source = "bundled",
    seed: Seed = 0,
    sample_seed: SampleSeedOrNone = None,
    split: Split = None,
    level: Level = None,
    model: ModelName = None,
    policy: PolicySpec = "full",
    confidence_top_k: ConfidenceTopK = 0,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    batch: Batch = 128,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    engine: EngineSpec = "hf",
    engine_set: EngineSettings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write n traces of every problem to a file, one a line, each as it finishes.

    The same command goes on where an interrupted one stopped. A larger --n or --problems adds to the file: the first 16 of 64
    traces are those of --n 16. Without --problems: 200 bundled ones, or all of a file or data set. Other settings are
    refused. A problem that the model can't take is skipped and named.

    --spend 4x: all problems share four traces each. Every one gets two; each further one goes where it should raise the vote
    most a token, up to --n. So easy problems, and those where no vote will form, leave their share to the others. With
    --confidence-top-k 20 ties of votes go to the more confident traces. What the file holds counts as spent.
    """
    if_interrupted(resumed(out))
    chosen_engine = choose_engine(engine, model, engine_set or ())
    announce_loading(chosen_engine.model, not as_json)
    from laconic.cli.common import choose_policy, choose_sampling, one_thread
    from laconic.cli.questions import Question, check_vocabulary
    from laconic.environment import hide_directories
    from laconic.errors import InputError
    from laconic.lab.collect.run import TraceProvenance, check_votes, open_file
    from laconic.lab.collect.run import collect as run
    from laconic.problems.sets import prompt_of
    from laconic.prune.alike import warn_alike
    from laconic.prune.budget import PoolBudget
    from laconic.traces import tokenizer_fingerprint

    check_device(chosen_engine, device)
    small = chosen_engine.small
    asked, problem_set = choose_problems(problems, seed, split, level, source)
    chosen = choose_policy(policy, small)
    budget = None if spend is None else PoolBudget.parse(spend)
    if budget is not None:
        check_votes(asked)
    if n < 1:
        raise InputError(f"--n is {n}; expected at least 1")
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1")
    if small:
        one_thread()
    chat = choose_chat(chosen_engine.model, system, thinking, template_arguments)
    reasoner = open_reasoner(chosen_engine, dtype, device, chat)
    tokenizer = reasoner.tokenizer
    sampling = choose_sampling(
        reasoner,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed if sample_seed is None else sample_seed,
        confidence_top_k=confidence_top_k,
    )
    warn_alike(n, sampling)
    bar = CollectProgress(not as_json)
    with reasoner.engine(chosen, batch, chunk_tokens=16) as running:
        weights, number = reasoner.identity(running)
        origin = TraceProvenance(
            model="bundled"
            if small
            else hide_directories(str(chosen_engine.model or getattr(running, "model", "unknown"))),
            weights=weights,
            dtype=number,
            tokenizer=tokenizer_fingerprint(tokenizer),
            policy=chosen.spec(),
            problems=problem_set,
            chat=chat.to_json(),
            prompt=prompt_of(source),
        )
        with open_file(out, origin, sampling) as journal, bar:
            bar.print_resumed(journal)
            found = run(
                asked,
                running,
                journal,
                n=n,
                sampling=sampling,
                settings=origin.line(sampling),
                batch=batch,
                budget=budget,
                check_question=(lambda text: check_vocabulary(tokenizer, Question(text))) if small else None,
                watch=bar.watch,
            )
    show(found, as_json)


def choose_problems(
    count: int | None, seed: int, split: str | None, level: int | None, source: str
) -> tuple[list[Problem], str]:
    """The problems that the options name, and a name for the set. Raises InputError for options that don't go together."""
    from laconic.errors import InputError
    from laconic.problems import generate
    from laconic.problems.benchmarks import find_benchmark
    from laconic.problems.sets import set_name
    from laconic.problems.sources import BUNDLED, HUB, load_problems

    if source.startswith(HUB):
        if split and ":" in source.removeprefix(HUB):
            raise InputError(f"--source {source} names a split, and --split {split} another; give one of them")
        source = f"{source}:{split}" if split else source
        return load_problems(source, count, level=level), source
    if source != BUNDLED:
        if split is not None and (named := find_benchmark(source)) and named.file is None:
            raise InputError(
                f"--split {split} was given, but {source} is the split {named.benchmark.split} of its data set; leave it out, "
                f"or give another split's file as {source}:FILE"
            )
        if split is not None:
            raise InputError("--split was given, but a file of problems has no splits; leave it out")
        return load_problems(source, count, seed, level), set_name(source, seed)
    if count is not None and count < 1:
        raise InputError(f"--problems is {count}; expected at least 1")
    split = split or "heldout"
    problems = generate(200 if count is None else count, seed, level, split)
    return problems, f"bundled, {split}, seed {seed}, level {level or 'mixture'}"


def show(found: CollectionSummary, as_json: bool) -> None:
    """The summary on stdout."""
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    new = "" if found.new == found.traces else f" ({found.new:,} new)"
    lacking = f", {len(found.refused):,} skipped" if found.refused else ""
    facts = [
        ("problems", f"{found.problems:,}{lacking}"),
        ("traces", f"{found.traces:,}{new}"),
        ("pass@1", share(found.pass_at_1, found.problems)),
        ("vote" if found.budget else f"cons@{found.n}", share(found.cons_at_n, found.problems)),
        ("equal pairs", "none" if found.equal_pairs is None else f"{found.equal_pairs:.1%}"),
        ("tokens", f"{found.tokens:,} ({found.tokens / found.traces:,.0f} a trace)"),
    ]
    if found.limit is not None:
        facts.append(("budget", f"{found.budget}: {found.tokens / found.limit:.0%} of {found.limit:,} tokens spent"))
    if found.tokens_per_second is not None:
        facts.append(("speed", f"{found.tokens_per_second:,.0f} tokens/s"))
    facts.append(("file", found.path))
    for name, value in facts:
        typer.echo(f"{name:<12}{value}")


class CollectProgress(ProgressOrLines):
    """Also tells of problems that are skipped, and of broken lines in the file."""

    def print_resumed(self, journal: Any, kind: str = "trace", what: str = "finished traces") -> None:
        super().print_resumed(journal, kind, what)
        if journal.broken:
            lines = "1 broken line" if len(journal.broken) == 1 else f"{len(journal.broken)} broken lines"
            first = "; ".join(journal.broken[:5])
            self.say(f"{lines} in {journal.path} passed over ({first}); what they held runs again.")

    def watch(self, event: Any) -> None:
        if event.message:
            self.say(event.message)
        else:
            self.tell("traces", event.done, event.total, f"{event.tokens:,} tokens")
