"""`laconic analyze`: how much traces repeat themselves, from a file or from a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.cli.interruption import if_interrupted
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    MaxNewTokens,
    ModelName,
    OutOrNone,
    Policies,
    Problems,
    Seed,
    Source,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
)
from laconic.cli.unused import refuse_unused
from laconic.lab.shared.options import (
    Embedder,
    Lengths,
    Plot,
    Spans,
    Threshold,
    Tokenizer,
    WrittenTraces,
)

if TYPE_CHECKING:
    from laconic.engines.chat import Chat
    from laconic.lab.analyze.reading import WrittenTrace


def analyze(
    file: WrittenTraces = None,
    tokenizer: Tokenizer = None,
    model: ModelName = None,
    source: Source = "bundled",
    problems: Problems = 32,
    seed: Seed = 0,
    policies: Policies = "full",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    batch: Batch = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
    lengths: Lengths = None,
    spans: Spans = None,
    threshold: Threshold = 0.75,
    embedder: Embedder = "tfidf",
    out: OutOrNone = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """n-gram entropy by length, and redundancy, of traces from a file or from a model.

    What compression can live on: reasoning that says the same again has low entropy and high redundancy. With --model traces
    of problems are written first; the options of problems, policies and sampling are for that. --lengths is where the entropy
    is taken: 1024,2048,4096,8192, or 64 to 512 for short traces. --out is a directory of results.json, table.md and plot.png.
    """
    if_interrupted(
        "the file of traces is as it was; the same command begins anew"
        if model is None
        else "the traces written so far are not kept; the same command begins anew (`laconic collect` would keep them)"
    )
    if model is not None:
        announce_loading(model, not as_json)
    from laconic.cli.chat import choose_chat
    from laconic.cli.common import is_bundled
    from laconic.cli.lists import split_whole
    from laconic.environment import environment, hide_directories
    from laconic.errors import InputError
    from laconic.lab.analyze.plot import analysis_plot
    from laconic.lab.analyze.redundancy import embedder as check_embedder
    from laconic.lab.analyze.run import FORMAT, analyse
    from laconic.lab.analyze.table import analysis_tables
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.problems.sets import prompt_of, set_name

    check_plot(plot)
    if (file is None) == (model is None):
        raise InputError("Give either a file of traces or a --model that writes some, not both or neither")
    if file is not None:
        refuse_unused(
            "on a file of traces",
            *("source", "problems", "seed", "policies", "max_new_tokens", "temperature", "batch", "dtype", "device"),
        )
    else:
        refuse_unused("with --model, which has a tokenizer", "tokenizer")
    if plot and out is None:
        raise InputError("--plot has nowhere to go; say where with --out DIRECTORY")
    if file is not None and (system is not None or thinking is not None or template_arguments):
        raise InputError(
            "--system, --thinking and --chat-template-arg are for --model; a file's traces are written already"
        )
    # What can be wrong without a trace is refused before any is generated.
    asked = None if lengths is None else split_whole("--lengths", lengths)
    check_embedder(embedder)
    if file is not None:
        traces = _from_file(file, tokenizer)
        origin: dict[str, Any] = {
            "file": hide_directories(str(file)),
            "tokenizer": hide_directories(tokenizer) if tokenizer else None,
        }
    else:
        chat = choose_chat(model, system, thinking, template_arguments)
        traces = _from_model(
            model,
            source,
            problems,
            seed,
            policies,
            batch,
            dtype,
            device,
            max_new_tokens,
            temperature,
            chat,
            not as_json,
        )
        origin = {
            "model": "bundled" if is_bundled(model) else hide_directories(str(model)),
            "source": set_name(source, seed),
            **({"prompt": prompt} if (prompt := prompt_of(source)) else {}),
            "problems": problems,
            "seed": seed,
            **({"chat": chat.to_json()} if chat else {}),
        }
    groups = analyse(traces, asked, embed=embedder, threshold=threshold, span_tokens=spans)
    report = {"format": FORMAT, **environment(), "settings": origin, "groups": groups}
    write_report(report, analysis_tables(report), analysis_plot, out, plot, as_json)


def _from_file(file: Path, tokenizer: str | None) -> list[WrittenTrace]:
    from laconic.cli.messages import print_to_stderr
    from laconic.engines.text import decode
    from laconic.lab.analyze.reading import read_traces
    from laconic.traces import TraceFile

    broken: list[str] = []
    if tokenizer is None:
        found = read_traces(file, skip=broken.append)
    else:
        cut = _load_tokenizer(tokenizer)
        found = read_traces(
            file,
            tokenize=lambda text: cut(text, add_special_tokens=False)["input_ids"],
            detokenize=lambda ids: decode(cut, ids),
            skip=broken.append,
        )
    if broken:
        print_to_stderr(TraceFile((), tuple(broken)).describe_broken(file))
    return found


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from laconic.cli.common import model_path
    from laconic.errors import InputError, reason

    try:
        return AutoTokenizer.from_pretrained(model_path(name))
    except Exception as error:  # transformers raises many kinds; all mean that there is no such tokenizer
        raise InputError(f"The tokenizer {name} can't be loaded: {reason(error)}") from error


def _from_model(
    model: str | None,
    source: str,
    problems: int,
    seed: int,
    policies: str,
    batch: int,
    dtype: str,
    device: str,
    max_new_tokens: int | None,
    temperature: float | None,
    chat: Chat,
    shown: bool,
) -> list[WrittenTrace]:
    """One trace of each problem under each policy."""
    import dataclasses

    from laconic.cli.common import choose_policy, choose_sampling, is_bundled, model_path
    from laconic.cli.lists import split_specs
    from laconic.cli.progress import ProgressBar
    from laconic.cli.questions import check_problems
    from laconic.engines.hf import HFEngine, load
    from laconic.errors import InputError
    from laconic.lab.analyze.reading import WrittenTrace
    from laconic.problems.base import problem_seed
    from laconic.problems.sources import load_problems

    chosen = [choose_policy(spec, is_bundled(model)) for spec in split_specs(policies)]
    if not chosen:
        raise InputError("--policies is empty; expected at least one, such as full")
    asked = load_problems(source, problems, seed)
    language, cut = load(model_path(model), dtype=dtype, device=device, fix_rotation=True)
    if is_bundled(model):
        check_problems(cut, asked)
    sampling = choose_sampling(language, max_new_tokens=max_new_tokens, temperature=temperature)
    traces: list[WrittenTrace] = []
    with ProgressBar(shown) as bar:
        for policy in chosen:
            engine = HFEngine(language, cut, policy=policy, max_batch=batch, chunk_tokens=16, chat=chat)
            of: dict[str, str] = {}
            for problem in asked:
                seeded = dataclasses.replace(sampling, seed=problem_seed(seed, problem))
                (trace_id,) = engine.submit(engine.render(problem.question), seeded)
                of[trace_id] = problem.id
            for chunk in engine.stream():
                if chunk.finish_reason is not None:
                    trace = engine.trace(chunk.trace_id)
                    ids = tuple(trace.token_ids)
                    traces.append(WrittenTrace(ids, trace.text, policy.spec(), of[chunk.trace_id]))
                    bar.update(policy.spec(), len(traces), len(chosen) * len(asked))
    return traces
