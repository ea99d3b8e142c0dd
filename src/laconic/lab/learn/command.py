"""`laconic learn`: a selector for a model, from its own traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from laconic.cli.interruption import NOTHING, if_interrupted
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Batch,
    Device,
    Dtype,
    MaxNewTokens,
    OutOrNone,
    ProblemsOrAll,
    Seed,
    SourceOrNone,
    System,
    Temperature,
    TemplateArguments,
    Thinking,
    TopK,
    TopP,
)
from laconic.cli.unused import refuse_unused
from laconic.lab.learn.progress import PhaseProgress
from laconic.lab.shared.options import (
    CheckTraces,
    LearnedModel,
    LearnFrom,
    RecipeSpec,
    TraceFileOrNone,
    WorkFolder,
)

if TYPE_CHECKING:
    from laconic.lab.learn.check import SelectorCheck
    from laconic.lab.learn.run import LearnedSelector
    from laconic.traces import TraceRecord

NEW_TOKENS = 1024
"""Of a sampled trace, where no option says otherwise."""
NOT_CHECKED = "none: no trace for it is long enough to be compressed, so nothing is known of how good the selector is"


def learn(
    model: LearnedModel = "bundled",
    traces: TraceFileOrNone = None,
    check: CheckTraces = None,
    source: SourceOrNone = None,
    problems: ProblemsOrAll = None,
    recipe: RecipeSpec = "group",
    learn_from: LearnFrom = 60_000,
    seed: Seed = 0,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    system: System = None,
    thinking: Thinking = None,
    template_arguments: TemplateArguments = None,
    batch: Batch = 128,
    dtype: Dtype = "auto",
    device: Device = "auto",
    work: WorkFolder = None,
    out: OutOrNone = None,
    as_json: AsJson = False,
) -> None:
    """Train a selector for a model on its own traces, for the policy `learned`, and check it.

    Traces come from --traces, or are sampled with full KV: of --source, or (without it) of train problems of the bundled set
    for the bundled reasoner, and of a list of general questions for others; 200 of up to 1,024 tokens where nothing else is
    said (of the questions 240: 4 of each of 60). One pass of each tells what later tokens attend to, and small networks learn
    to tell it from a token's own key and value. Traces of the last problems, 16 at least, are kept for the check unless
    --check names others: KL to full KV at ratio 4, beside RPC, R-KV, Random and hindsight. Without --out the selector lies
    where `learned` finds it by itself. The same command goes on where an interrupted one stopped.
    """
    folders: list[Path] = []
    if_interrupted(lambda: _kept(folders))
    announce_loading(model, not as_json)
    from laconic.cli.chat import choose_chat
    from laconic.cli.common import SMALL, choose_sampling, is_bundled, model_path, one_thread
    from laconic.engines.hf import load
    from laconic.environment import hide_directories
    from laconic.files import lock_directory
    from laconic.fingerprint import weights_fingerprint
    from laconic.lab.learn.check import CheckCell
    from laconic.lab.learn.recipe import parse_recipe
    from laconic.lab.learn.run import learn_and_check
    from laconic.lab.learn.sampling import choose_problems, sample_traces
    from laconic.lab.learn.traces import CHECKED, split_traces
    from laconic.lab.shared.traces import check_tokenizer
    from laconic.selectors import place_of, working_folder, write_selector

    chosen, small = parse_recipe(recipe), is_bundled(model)
    _check_options(learn_from, batch, traces, out)
    # What can be wrong without the model is refused before it is loaded.
    given, checked = (None if path is None else read_file(path) for path in (traces, check))
    if given is not None:
        split_traces(given, 0 if checked else CHECKED)
    asked = None if given is not None else choose_problems(source, problems, seed, small)
    chat = choose_chat(model, system, thinking, template_arguments)
    if small:
        one_thread()
    language, tokenizer = load(model_path(model), dtype=dtype, device=device, fix_rotation=True)
    for records in filter(None, (given, checked)):
        check_tokenizer(records, tokenizer, language)
    name, mine = "bundled" if small else hide_directories(model), weights_fingerprint(language)
    folder = working_folder(mine) if work is None else work
    target = place_of(mine) if out is None else out
    with lock_directory(folder), PhaseProgress(not as_json) as progress:
        folders.append(folder)
        if asked is not None:
            sampling = choose_sampling(
                language,
                max_new_tokens=NEW_TOKENS if max_new_tokens is None else max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
            )
            given = sample_traces(language, tokenizer, asked, sampling, folder, name, batch, chat, small, progress)
        assert given is not None
        learned, kept = (given, unlearned(checked, given)) if checked else split_traces(given)
        found, shown = learn_and_check(
            language,
            learned,
            kept,
            chosen,
            folder,
            tokens=learn_from,
            seed=seed,
            cell=CheckCell(SMALL["interval"], SMALL["window"]) if small else None,
            about={"model": name},
            progress=progress,
        )
        write_selector(target, found.selector)
    show(found, shown, target, folder, out is not None, as_json)


def read_file(path: Path) -> list[TraceRecord]:
    """The traces of a file that have tokens; broken lines are told on stderr."""
    from laconic.cli.messages import print_to_stderr
    from laconic.lab.learn.traces import usable
    from laconic.traces import read_traces

    found = read_traces(path)
    if found.broken:
        print_to_stderr(found.describe_broken(path))
    return usable(found.records, str(path))


def unlearned(checked: list[TraceRecord], learned: list[TraceRecord]) -> list[TraceRecord]:
    """Those of --check whose questions nothing is learned from. Raises InputError where there is none."""
    from laconic.cli.messages import print_to_stderr
    from laconic.errors import InputError

    questions = {record.question for record in learned}
    found = [record for record in checked if record.question not in questions]
    if not found:
        raise InputError(
            "every trace of --check is of a problem that the selector learns from, so it would check nothing; give traces of "
            "other problems, or leave --check out"
        )
    if len(found) < len(checked):
        left = f"{len(checked) - len(found):,} of {len(checked):,} traces of --check"
        print_to_stderr(f"{left} are of problems that the selector learns from, and are left out")
    return found


def show(
    found: LearnedSelector, check: SelectorCheck | None, target: Path, folder: Path, named: bool, as_json: bool
) -> None:
    """The facts and the check's table on stdout, or JSON. named: the file was named, so `learned` alone doesn't find it."""
    from laconic.cli.messages import size
    from laconic.cli.tables import print_tables
    from laconic.lab.learn.table import check_table, facts

    recipe = found.selector.recipe
    if as_json:
        typer.echo(json.dumps({"file": str(target), "fingerprint": found.selector.fingerprint, **recipe}))
        return
    used = f"learned:{target}" if named else "learned"
    told = [
        *facts(recipe),
        ("check", NOT_CHECKED if check is None else check.sentence()),
        ("file", f"{target} ({size(target.stat().st_size)}), to be used as --policy {used}"),
        ("kept", f"{folder}: traces and what was read of them ({size(found.harvest.bytes)}), for other recipes"),
    ]
    for name, value in told:
        typer.echo(f"{name:<10}{value}")
    if check is not None:
        typer.echo()
        print_tables([check_table(check)], "--json has them.")


def _check_options(learn_from: int, batch: int, traces: Path | None, out: Path | None) -> None:
    from laconic.cli.common import check_writable
    from laconic.errors import InputError
    from laconic.lab.learn.harvest import FEWEST

    if learn_from < FEWEST:
        raise InputError(f"--learn-from is {learn_from}; expected at least {FEWEST:,} tokens")
    if batch < 1:
        raise InputError(f"--batch is {batch}; expected at least 1")
    if traces is not None:
        unused = ("source", "problems", "max_new_tokens", "temperature", "top_p", "top_k", "system", "thinking")
        refuse_unused("with --traces", *unused, "template_arguments", "batch")
    if out is not None:
        check_writable(out, "the selector")


def _kept(folders: list[Path]) -> str:
    if not folders:
        return NOTHING
    return f"what is finished is in {folders[0]}, and the same command goes on from there"
