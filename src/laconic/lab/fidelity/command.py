"""`laconic bench fidelity`: how far policies move a model's next-token distributions on whole traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.options import AsJson, Batch, Device, Dtype, ModelName, Out, PoliciesOrDefault, ProblemsOrAll, Source
from laconic.cli.unused import refuse_unused
from laconic.lab.shared.options import (
    Intervals,
    OraclePattern,
    Plot,
    Ratios,
    ScheduleKind,
    TextPrompt,
    Texts,
    TokensOfEach,
    TraceFileOrNone,
    TracesOfEach,
    Windows,
)

if TYPE_CHECKING:
    from laconic.problems import Problem

TRACES, RECORDS = "traces.jsonl", "records.jsonl"
SAMPLED = 32  # bundled problems that are sampled where nothing else is said


def bench(
    model: ModelName = None,
    traces: TraceFileOrNone = None,
    texts: Texts = None,
    source: Source = "bundled",
    problems: ProblemsOrAll = None,
    n: TracesOfEach = 1,
    tokens: TokensOfEach = None,
    prompt_tokens: TextPrompt = 64,
    policies: PoliciesOrDefault = None,
    ratios: Ratios = "2,4,8",
    interval: Intervals = None,
    window: Windows = "32",
    schedule: ScheduleKind = "common",
    oracle_pattern: OraclePattern = None,
    batch: Batch = 16,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Out = Path("runs/fidelity"),
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """How far policies move a model's next-token distributions on whole traces: KL, same likeliest token, log-likelihood.

    Traces are fed as they stand. They come from --traces (the first --n of each problem), from --texts, or are sampled from the
    model with full KV and kept in --out. --schedule common puts every scorer on RPC's schedule, so that caches are equal at
    every moment; own leaves policies their own, budgets matched to RPC's mean cache. --interval (128 for the bundled model,
    4,096 for others) and --window take several, separated by commas. --out is a directory of records.jsonl, results.json,
    table.md and plot.png; the same command goes on where an interrupted one stopped, and more traces, policies, ratios,
    intervals or windows add to it.
    """
    if_interrupted(resumed(out / RECORDS, out / TRACES))
    announce_loading(model, not as_json)
    from laconic.cli.common import SMALL, is_bundled, model_path, one_thread
    from laconic.cli.lists import split_numbers, split_specs, split_whole
    from laconic.cli.messages import print_to_stderr
    from laconic.cli.progress import ProgressOrLines
    from laconic.engines.hf import load
    from laconic.engines.hf.facts import HFModelInfo
    from laconic.engines.hf.models import context_length, text_config
    from laconic.environment import environment, hide_directories
    from laconic.errors import InputError
    from laconic.fingerprint import fingerprint
    from laconic.journal import Journal
    from laconic.lab.fidelity import traces as tracing
    from laconic.lab.fidelity.contenders import POLICIES, check_lengths, contenders, first_compression
    from laconic.lab.fidelity.run import FORMAT, may_grow, run_fidelity, settings
    from laconic.lab.shared.policies import KeepPattern
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.problems.sources import BUNDLED, load_problems

    check_plot(plot)
    for name, value in (("--n", n), ("--batch", batch), ("--prompt-tokens", prompt_tokens), ("--tokens", tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    _check_origins(traces, texts)
    small = is_bundled(model)
    names = split_specs(policies) if policies is not None else list(POLICIES)
    if "oracle" not in names:
        refuse_unused("without the policy oracle", "oracle_pattern")
    intervals = split_whole("--interval", interval) if interval is not None else [SMALL["interval"] if small else 4096]
    cells = (split_numbers("--ratios", ratios), intervals, split_whole("--window", window))
    # Everything that can be wrong without the model is refused before the model is loaded.
    rows = contenders(names, *cells, schedule, oracle=(lambda ids: ids) if oracle_pattern is not None else None)
    first = min((at for at in map(first_compression, rows) if at is not None), default=None)
    found, recorded = None, None
    if traces is not None:
        found, recorded, broken = tracing.recorded_traces(traces, problems, n, tokens)
        lengths = [len(trace.token_ids) for trace in tracing.long_enough(found, first)]
        check_lengths([row for row in rows if row.target is None], lengths)
        if broken:
            print_to_stderr(broken)
    asked = None
    if traces is None and not texts:
        asked = load_problems(source, SAMPLED if problems is None and source == BUNDLED else problems)
    if small:
        one_thread()
    language, tokenizer = load(model_path(model), dtype=dtype, device=device, fix_rotation=True)
    bar = ProgressOrLines(not as_json, "tokens")
    if oracle_pattern is not None:
        words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        rows = contenders(names, *cells, schedule, oracle=KeepPattern(oracle_pattern, [word or "" for word in words]))
    if traces is not None:
        tracing.check_tokenizer(traces, recorded, tokenizer)
    elif texts:
        found = tracing.text_traces(texts, tokenizer, prompt_tokens, tokens)
    else:
        assert asked is not None
        path = _sample(language, tokenizer, model, source, asked, n, tokens, batch, out, not as_json)
        found, _, _ = tracing.recorded_traces(path, None, n, tokens, {problem.id for problem in asked})
    assert found is not None
    chosen = tracing.long_enough(found, first)
    if len(chosen) < len(found):
        print_to_stderr(
            f"{len(found) - len(chosen):,} of {len(found):,} traces are left out: they end before the first compression, after "
            f"{first:,} generated tokens."
        )
    tracing.check_for_model(chosen, text_config(language).vocab_size, context_length(language))
    described = settings(
        model={
            "name": "bundled" if small else hide_directories(str(model)),
            "fingerprint": fingerprint(language),
            "dtype": str(language.dtype).removeprefix("torch."),
        },
        schedule=schedule,
        tokens=tokens,
        rows=rows,
        files=HFModelInfo(language),
    )
    with Journal(out / RECORDS, FORMAT, described, may_grow=may_grow) as journal, bar:
        bar.print_resumed(journal, what="finished pairs of a policy and a trace")
        bar.begin()  # loading and sampling took none of its time
        results = run_fidelity(
            language,
            chosen,
            rows,
            batch=batch,
            journal=journal,
            watch=lambda event: bar.tell(event.label, event.done, event.total),
        )
    report: dict[str, Any] = {
        "format": FORMAT,
        **environment(),
        "settings": described,
        "rows": [row.to_json() for row in results],
    }
    from laconic.lab.fidelity.plot import fidelity_plot
    from laconic.lab.fidelity.table import fidelity_tables

    write_report(report, fidelity_tables(report), fidelity_plot, out, plot, as_json)


def _check_origins(traces: Path | None, texts: list[Path] | None) -> None:
    """InputError for two of the places that traces can come from, or options of another."""
    from laconic.errors import InputError

    if traces is not None and texts:
        raise InputError("--traces and --texts each say what is fed; give one of them")
    if texts:
        refuse_unused("with --texts", "source", "problems", "n")
    else:
        refuse_unused("without --texts", "prompt_tokens")
    if traces is not None:
        refuse_unused("with --traces", "source")


def _sample(
    language: Any,
    tokenizer: Any,
    model: str | None,
    source: str,
    asked: Sequence[Problem],
    n: int,
    tokens: int | None,
    batch: int,
    out: Path,
    shown: bool,
) -> Path:
    """n traces of every problem asked, drawn from the model with full KV as `laconic collect` does it. Returns their file, in
    which those of an earlier run are found again."""
    from laconic.cli.common import choose_sampling, is_bundled
    from laconic.cli.progress import ProgressOrLines
    from laconic.cli.questions import Question, check_vocabulary
    from laconic.engines.hf import HFEngine
    from laconic.environment import hide_directories
    from laconic.fingerprint import fingerprint
    from laconic.lab.collect.run import TraceProvenance, collect, open_file
    from laconic.problems.sets import prompt_of, set_name
    from laconic.problems.sources import BUNDLED
    from laconic.traces import tokenizer_fingerprint

    sampling = choose_sampling(language, max_new_tokens=tokens)
    engine = HFEngine(language, tokenizer, max_batch=batch, chunk_tokens=16)
    origin = TraceProvenance(
        model="bundled" if is_bundled(model) else hide_directories(str(model)),
        weights=fingerprint(language),
        dtype=str(language.dtype).removeprefix("torch."),
        tokenizer=tokenizer_fingerprint(tokenizer),
        policy=engine.policy.spec(),
        problems="bundled, heldout" if source == BUNDLED else set_name(source),
        prompt=prompt_of(source),
    )
    bar = ProgressOrLines(shown)
    with open_file(out / TRACES, origin, sampling) as journal, bar:
        bar.print_resumed(journal)
        collect(
            asked,
            engine,
            journal,
            n=n,
            sampling=sampling,
            settings=origin.line(sampling),
            batch=batch,
            check_question=(lambda text: check_vocabulary(tokenizer, Question(text))) if is_bundled(model) else None,
            watch=lambda event: (
                bar.say(event.message)
                if event.message
                else bar.tell("sampling", event.done, event.total, f"{event.tokens:,} tokens")
            ),
        )
    return out / TRACES
