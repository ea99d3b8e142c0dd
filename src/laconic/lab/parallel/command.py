"""`laconic bench parallel`: pruning against voting over all traces, on the very same traces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.cli.chat import choose_chat
from laconic.cli.common import (
    choose_policy,
    choose_sampling,
    choose_strategy,
    is_bundled,
    model_path,
    one_thread,
)
from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.messages import print_to_stderr
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    ExcerptKind,
    Level,
    MaxNewTokens,
    ModelName,
    Out,
    Policies,
    ProblemsOrAll,
    Source,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
)
from laconic.cli.progress import ProgressBar
from laconic.cli.questions import Question, check_vocabulary
from laconic.cli.unused import given, refuse_seed, refuse_unused
from laconic.lab.shared.options import (
    FewTraces,
    Judges,
    Orders,
    Plot,
    Pools,
    ProblemSeed,
    SampleSeed,
    Strategies,
    Timed,
    Tokenizer,
    TraceFileOrNone,
    TraceNumbers,
)

if TYPE_CHECKING:
    from laconic.journal import Record
    from laconic.lab.parallel.run import ParallelExperiment

PLAIN_SECONDS = 20.0
WITHOUT_JUDGE = "priced-vote;deepconf:low;deepconf:high"
"""What recorded traces are played back under where nothing else is said: most judges read a model, or texts token by token."""


def bench(
    model: ModelName = None,
    source: Source = "bundled",
    problems: ProblemsOrAll = None,
    seed: ProblemSeed = 0,
    level: Level = None,
    n: TraceNumbers = "16,64",
    few: FewTraces = "4,8",
    policies: Policies = "none;rpc:ratio=2;rpc:ratio=4",
    strategies: Strategies = "priced-vote;deepconf:low;deepconf:high;deepprune",
    judges: Judges = "bundled;probe;jaccard;random;perfect",
    excerpt: ExcerptKind = None,
    traces: TraceFileOrNone = None,
    tokenizer_name: Tokenizer = None,
    pools: Pools = "",
    orders: Orders = 1,
    timed: Timed = 8,
    max_new_tokens: MaxNewTokens = None,
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
    out: Out = Path("runs/parallel"),
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """What stopping redundant traces saves against voting over all of them, and costs in right answers.

    Every strategy runs on the same recorded traces, for exact and paired figures, and on the first problems also live, for
    seconds and memory: beside pass@1, cons@n and cons@n with early end, under full KV (none, always there) and each policy,
    DeepPrune once with each judge. Without --problems: 100 bundled ones, or all of a source. --excerpt is for judges without
    one of their own; tokens:56 for the bundled model, else words:25. The temperature has to be above 0, or all traces are
    one.

    --pools adds rows in which all problems share one budget and the next trace goes where it is worth most; with --timed 0.

    With --traces, which `laconic collect` recorded with full KV, strategies are played back on these and no model is loaded;
    judges that read one are refused. Those that read texts (facts) need --tokenizer, the model's.

    --out is a directory of traces-*.jsonl, results.jsonl, results.json, table.md and plot.png. Traces and results are written
    at once; the same command goes on where an interrupted one stopped.
    """
    if_interrupted(lambda: kept_in(out))
    if traces is not None:
        replay_file(
            traces, tokenizer_name, problems, n, few, strategies, judges, excerpt, pools, orders, out, plot, as_json
        )
        return
    refuse_unused("without --traces", "tokenizer_name")
    announce_loading(model, not as_json)
    from laconic.cli.lists import split_names, split_specs, split_whole
    from laconic.engines.hf import load
    from laconic.environment import hide_directories
    from laconic.errors import InputError
    from laconic.fingerprint import fingerprint
    from laconic.journal import Journal
    from laconic.lab.collect.run import TraceProvenance
    from laconic.lab.parallel.lineup import FULL, LabelledPolicy, compressions, lineup
    from laconic.lab.parallel.run import FORMAT, ParallelExperiment, run_parallel, settings
    from laconic.lab.parallel.setup import HFSetup, confidence_top_k_of
    from laconic.lab.shared.reporting import check_plot
    from laconic.problems.sets import prompt_of, refuse_unscored, set_name
    from laconic.problems.sources import load_problems
    from laconic.prune.alike import warn_alike
    from laconic.prune.strategies.registry import needs_judge
    from laconic.traces import tokenizer_fingerprint

    check_plot(plot)
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1")
    small = is_bundled(model)
    # Everything that can be wrong without the model is refused before the model is loaded.
    refuse_seed(source)
    refuse_unscored(source)
    asked = load_problems(source, 100 if problems is None and source == "bundled" else problems, seed, level)
    found = [
        LabelledPolicy(spec, choose_policy("full" if spec == FULL else spec, small)) for spec in split_specs(policies)
    ]
    compressed = compressions(found)
    specs = split_specs(strategies)
    entries = lineup(
        split_whole("--n", n),
        compressed,
        specs,
        split_specs(judges),
        needs_judge,
        split_whole("--few", few),
        split_names(pools),
    )
    confidence_top_k = confidence_top_k_of(specs, bool(pools))
    if not any(map(needs_judge, specs)):
        refuse_unused("without a strategy that asks a judge", "judges", "excerpt")
    if small:
        one_thread()
    chat = choose_chat(model, system, thinking, template_arguments)
    language, tokenizer = load(model_path(model), dtype=dtype, device=device, fix_rotation=True)
    sampling = choose_sampling(
        language,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=sample_seed,
    )
    warn_alike(max(entry.n for entry in entries), sampling)
    name = "bundled" if small else hide_directories(str(model))
    problem_set = (
        f"bundled, heldout, seed {seed}, level {level or 'mixture'}" if source == "bundled" else set_name(source, seed)
    )
    prompt = prompt_of(source)
    weights, tokens = fingerprint(language), tokenizer_fingerprint(tokenizer)
    kind = str(language.dtype).removeprefix("torch.")
    experiment = ParallelExperiment(asked, compressed, entries, sampling, min(timed, len(asked)), orders)
    described = settings(
        model={"name": name, "fingerprint": weights, "dtype": kind},
        problem_set=problem_set,
        experiment=experiment,
        chat=chat.to_json(),
        prompt=prompt,
    )

    def make(spec: str, traces: int, judge: Any) -> Any:
        free = judge is not None and judge.excerpt is None
        return choose_strategy(spec, traces, judge, small, excerpt=excerpt if free else None)

    with Phases(not as_json) as phases:
        setup = HFSetup(
            language,
            tokenizer,
            origin=lambda c: TraceProvenance(
                name, weights, kind, tokens, c.policy.spec(), problem_set, chat.to_json(), prompt
            ),
            problems=asked,
            sampling=sampling,
            n=experiment.most,
            directory=out,
            confidence_top_k=confidence_top_k,
            batch=batch,
            device=device,
            chat=chat,
            make=make,
            check_question=(lambda text: check_vocabulary(tokenizer, Question(text))) if small else None,
            watch=lambda label, event: phases.tell(
                f"traces {label}", event.done, event.total, f"{event.tokens:,} tokens"
            ),
        )
        with Journal(out / "results.jsonl", FORMAT, described) as journal:
            phases.print_resumed(journal)
            records = run_parallel(
                experiment, setup, journal, lambda event: phases.tell(event.phase, event.done, event.total, event.label)
            )
    show(
        experiment,
        records,
        described | {"timed": experiment.timed, "orders": orders, "batch": batch},
        out,
        plot,
        as_json,
    )


def replay_file(
    path: Path,
    tokenizer: str | None,
    problems: int | None,
    n: str,
    few: str,
    strategies: str,
    judges: str,
    excerpt: str | None,
    pools: str,
    orders: int,
    out: Path,
    plot: bool | None,
    as_json: bool,
) -> None:
    """The command on recorded traces alone."""
    from laconic.cli.lists import split_names, split_specs, split_whole
    from laconic.compress import FullKV
    from laconic.environment import hide_directories
    from laconic.journal import Journal
    from laconic.lab.parallel.lineup import FULL, LabelledPolicy, lineup
    from laconic.lab.parallel.recorded import RecordedSetup, digest_of_traces, problems_of, sampling_of
    from laconic.lab.parallel.run import FORMAT, ParallelExperiment, run_parallel, settings
    from laconic.lab.parallel.setup import confidence_top_k_of
    from laconic.lab.shared.reporting import check_plot
    from laconic.prune.strategies.registry import needs_judge
    from laconic.traces import read_traces

    check_plot(plot)
    of_a_model = (
        "model",
        "source",
        "seed",
        "level",
        "policies",
        "timed",
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
    )
    refuse_unused(
        "with --traces", *of_a_model, "system", "thinking", "template_arguments", "sample_seed", "batch", "dtype"
    )
    specs = split_specs(strategies if given("strategies") else WITHOUT_JUDGE)
    if not any(map(needs_judge, specs)):
        refuse_unused("without a strategy that asks a judge", "judges", "excerpt")
    found = read_traces(path)
    if found.broken:
        print_to_stderr(found.describe_broken(path))
    by_problem = found.rescored().by_problem()
    compression = LabelledPolicy(FULL, FullKV())
    entries = lineup(
        split_whole("--n", n),
        [compression],
        specs,
        split_specs(judges),
        needs_judge,
        split_whole("--few", few),
        split_names(pools),
    )
    reader = None
    if tokenizer is not None:
        from laconic.cli.common import model_path
        from laconic.engines.hf.loading import load_tokenizer
        from laconic.lab.shared.traces import check_tokenizer

        reader = load_tokenizer(str(model_path(tokenizer)))
        check_tokenizer(found.records, reader)
    asked = problems_of(by_problem, problems, path)
    top_k = confidence_top_k_of(specs, bool(pools))
    sampling = sampling_of({problem.id: by_problem[problem.id] for problem in asked}, path, top_k)
    experiment = ParallelExperiment(asked, [compression], entries, sampling, 0, orders)
    told = next(iter(by_problem.values()))[0].settings
    described = settings(
        model={"name": str(told.get("model")), "fingerprint": str(told.get("weights"))},
        problem_set=hide_directories(str(path)),
        experiment=experiment,
    ) | {"traces": digest_of_traces(record for problem in asked for record in by_problem[problem.id])}

    def make(spec: str, count: int, judge: Any) -> Any:
        free = judge is not None and judge.excerpt is None
        return choose_strategy(spec, count, judge, False, excerpt=excerpt if free else None)

    with (
        Phases(not as_json) as phases,
        Journal(out / "results.jsonl", FORMAT, described, may_grow=_was_not_noted) as journal,
    ):
        phases.print_resumed(journal)
        records = run_parallel(
            experiment,
            RecordedSetup(by_problem, make, reader),
            journal,
            lambda event: phases.tell(event.phase, event.done, event.total, event.label),
        )
    show(experiment, records, described | {"timed": 0, "orders": orders}, out, plot, as_json)


def _was_not_noted(key: str, lacking: bool) -> bool:
    """Which setting a journal may lack: earlier versions did not note which traces were played back."""
    return lacking and key == "traces"


def show(
    experiment: ParallelExperiment,
    records: Sequence[Record],
    described: dict[str, Any],
    out: Path,
    plot: bool | None,
    as_json: bool,
) -> None:
    """The report of a run, written and printed."""
    import dataclasses

    from laconic.environment import environment
    from laconic.lab.parallel.plot import parallel_plot
    from laconic.lab.parallel.rows import agreement, plain_curve, summarise
    from laconic.lab.parallel.run import FORMAT
    from laconic.lab.parallel.table import parallel_tables
    from laconic.lab.shared.reporting import write_report

    rows = summarise(experiment, records)
    agreed = agreement(rows)
    report = {
        "format": FORMAT,
        **environment(),
        "settings": described,
        "entries": {r["entry"]: r["settings"] for r in records if r["kind"] == "entry"},
        "rows": [row.to_json() for row in rows],
        "plain": plain_curve(experiment, records),
        "agreement": None if agreed is None else dataclasses.asdict(agreed),
    }
    write_report(report, parallel_tables(report), parallel_plot, out, plot, as_json)


def kept_in(out: Path) -> str:
    """The clause on what an interrupted run leaves: finished traces, and results once there are any."""
    return resumed(*sorted(out.glob("traces-*.jsonl")), out / "results.jsonl")()


class Phases:
    """A bar for each part of a run where stderr is a terminal, else a line now and then."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self.phase = ""
        self.bar: ProgressBar | None = None
        self.told = 0.0

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._close()

    def print_resumed(self, journal: Any) -> None:
        bar = ProgressBar(self.shown)
        bar.print_resumed(journal, "result", "results")

    def tell(self, phase: str, done: int, total: int, note: str) -> None:
        """Where a part of the run stands; another part's name begins another bar."""
        if phase != self.phase:
            self._close()
            self.phase, self.told = phase, 0.0
            self.bar = ProgressBar(self.shown)
            self.bar.__enter__()
        assert self.bar is not None
        self.bar.update(phase, done, total, note)
        now = time.monotonic()
        if self.shown and not self.bar.console.is_terminal and (now - self.told > PLAIN_SECONDS or done == total):
            self.told = now
            print_to_stderr(f"{phase}: {done:,} of {total:,} ({note})")

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None
