"""`laconic bench accuracy`: policies at equal cache size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.cli.engines import EngineChoice, check_device, choose_engine, open_reasoner
from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    EngineSettings,
    EngineSpec,
    Interval,
    Level,
    MaxNewTokens,
    ModelName,
    Out,
    PoliciesOrDefault,
    ProblemsOrAll,
    Source,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
    WindowOfAll,
)
from laconic.cli.unused import refuse_ratios, refuse_seed, refuse_unused
from laconic.lab.shared.options import (
    KeepTokens,
    OraclePattern,
    Plot,
    ProblemSeed,
    Ratios,
    SampleSeed,
    TracesOfEach,
)

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.lab.shared.policies import ComparedPolicy

# Which tokens of the bundled task hold a result (`h=6`): what the oracle keeps there.
BUNDLED_RESULTS = r"^[a-z]=\d$"


def bench(
    model: ModelName = None,
    source: Source = "bundled",
    problems: ProblemsOrAll = None,
    seed: ProblemSeed = 0,
    level: Level = None,
    samples: TracesOfEach = 1,
    policies: PoliciesOrDefault = None,
    ratios: Ratios = "2,4,8",
    interval: Interval = None,
    window: WindowOfAll = 32,
    oracle_pattern: OraclePattern = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    sample_seed: SampleSeed = 0,
    batch: Batch = 64,
    engine: EngineSpec = "hf",
    engine_set: EngineSettings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Out = Path("runs/accuracy"),
    keep_tokens: KeepTokens = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """pass@1 of policies at equal cache size, with 95 % intervals and paired differences to full KV.

    Without more said: all policies that the engine can run, on 200 problems of the bundled set or all of a source; --interval
    and --window are RPC's, the interval starting from 128 for the bundled model and 4,096 for others. On every engine traces
    draw alike, so directories of two engines compare problem by problem. --out is a directory of traces.jsonl,
    results.json, table.md and plot.png. Finished traces are written at once; the same command goes on where an interrupted
    one stopped. More --problems, --n, --policies or --ratios add to the directory; a budget that was matched before stays.
    Other settings are refused.
    """
    if_interrupted(resumed(out / "traces.jsonl"))
    chosen_engine = choose_engine(engine, model, engine_set or ())
    announce_loading(chosen_engine.model, not as_json)
    from laconic.cli.chat import choose_chat
    from laconic.cli.common import SMALL, choose_sampling
    from laconic.cli.lists import split_numbers, split_specs
    from laconic.cli.progress import ProgressBar
    from laconic.cli.questions import check_problems
    from laconic.environment import environment, hide_directories
    from laconic.errors import InputError
    from laconic.journal import Journal
    from laconic.lab.accuracy.run import FORMAT, IMPLIED, may_grow, run_accuracy, settings
    from laconic.lab.shared.policies import KeepPattern, compared_policies
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.problems.sets import prompt_of, refuse_unscored, set_name
    from laconic.problems.sources import load_problems
    from laconic.prune.alike import warn_alike

    check_plot(plot)
    if samples < 1:
        raise InputError(f"--n is {samples}; expected at least 1")
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1")
    check_device(chosen_engine, device)
    small = chosen_engine.small
    refuse_seed(source)
    refuse_unscored(source)
    asked = load_problems(source, problems, seed, level)
    names = split_specs(policies) if policies is not None else _default_policies(chosen_engine)
    chosen_ratios = split_numbers("--ratios", ratios)
    pattern = oracle_pattern or (BUNDLED_RESULTS if small else None)
    if policies is None and pattern is None and "oracle" in names:
        names.remove("oracle")
    plan_options: dict[str, Any] = {
        "interval": interval if interval is not None else SMALL["interval"] if small else 4096,
        "window": window,
    }
    # Everything that can be wrong without the model is refused before the model is loaded.
    rows = compared_policies([name for name in names if name != "oracle"] or ["full"], chosen_ratios, **plan_options)
    _check_policies(chosen_engine, [row.policy for row in rows], names)
    if "oracle" in names and pattern is None:
        compared_policies(["oracle"], chosen_ratios, **plan_options)
    if "oracle" not in names:
        refuse_unused("without the policy oracle", "oracle_pattern")
    refuse_ratios(names)
    chat = choose_chat(chosen_engine.model, system, thinking, template_arguments)
    reasoner = open_reasoner(chosen_engine, dtype, device, chat)
    tokenizer = reasoner.tokenizer
    if small:
        check_problems(tokenizer, asked)
    if "oracle" in names and pattern is not None:
        texts = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        plan_options["oracle"] = KeepPattern(pattern, [text or "" for text in texts])
    contenders = _without_full(compared_policies(names, chosen_ratios, **plan_options), names)
    sampling = choose_sampling(
        reasoner,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=sample_seed,
    )
    warn_alike(samples, sampling)
    weights, number = reasoner.identity()
    described = settings(
        model={
            "name": "bundled" if small else hide_directories(str(chosen_engine.model)),
            "fingerprint": weights,
            "dtype": number,
        },
        engine=reasoner.describe(),
        problem_set=f"bundled, seed {seed}, level {level or 'mixture'}"
        if source == "bundled"
        else set_name(source, seed),
        problems=asked,
        contenders=contenders,
        files=reasoner,
        samples=samples,
        sampling=sampling,
        chat=chat.to_json(),
        prompt=prompt_of(source),
    )
    journal = Journal(out / "traces.jsonl", FORMAT, described, may_grow=may_grow, implied=IMPLIED)
    engines = reasoner.engines([contender.policy for contender in contenders], batch, chunk_tokens=16)
    with journal, ProgressBar(not as_json) as bar, engines as engine_for:
        bar.print_resumed(journal)
        found = run_accuracy(
            asked,
            contenders,
            engine_for,
            samples=samples,
            sampling=sampling,
            journal=journal,
            watch=lambda event: bar.update(event.label, event.done, event.total, f"{event.tokens:,} tokens"),
            keep_tokens=keep_tokens,
        )
    report = {"format": FORMAT, **environment(), "settings": described, "rows": [row.to_json() for row in found]}
    from laconic.lab.accuracy.plot import accuracy_plot
    from laconic.lab.accuracy.table import accuracy_tables

    write_report(report, accuracy_tables(report), accuracy_plot, out, plot, as_json)


def _default_policies(choice: EngineChoice) -> list[str]:
    """What is compared where nothing is said: all that the engine can run."""
    from laconic.compress import get
    from laconic.lab.shared.policies import POLICIES

    if choice.name == "hf":
        return list(POLICIES)
    from laconic.engines.vllm.plugin.settings import runs_inside

    return [name for name in POLICIES if name != "oracle" and runs_inside(get(name)())]


def _without_full(rows: list[ComparedPolicy], names: Sequence[str]) -> list[ComparedPolicy]:
    """The rows, full KV only where it is named or others need it beside: a model that was fine-tuned to have its thoughts taken
    away is no baseline with them left in place."""
    own = "full" not in names and all(row.policy.schedule.reads_tokens for row in rows[1:])
    return rows[1:] if own and rows[1:] else rows


def _check_policies(choice: EngineChoice, policies: Sequence[Policy], names: Sequence[str]) -> None:
    """InputError for a policy that the engine can't run, before it starts."""
    if choice.name == "hf":
        return
    from laconic.compress import Oracle
    from laconic.engines.vllm.plugin.settings import check_policy

    if "oracle" in names:
        check_policy(Oracle(keep=lambda ids: ids))
    for policy in policies:
        check_policy(policy)
