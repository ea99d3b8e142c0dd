"""pass@1 of policies on a problem set, against the cache each of them really held.

`run_accuracy` drives any engine: it submits what is not done yet, writes every finished trace to a journal, and sums
up. Policies are compared on the same problems and the same random streams.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laconic import checks
from laconic.answers import answer_of, equivalent
from laconic.compress import Policy, parse
from laconic.compress.policies import with_budget
from laconic.compress.policy import SelectorFiles
from laconic.engines.base import Engine, Sampling, Trace
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.accuracy.rows import BASELINE, AccuracyRow, summarise
from laconic.lab.shared.policies import ComparedPolicy, settled
from laconic.lab.shared.progress import Progress, Watcher
from laconic.problems import Problem
from laconic.problems.base import problem_seed
from laconic.problems.sets import check_scored, problem_digest, problem_settings
from laconic.prune.alike import warn_alike

FORMAT = "laconic.accuracy/2"
RANDOM = "random"
FLUSH_TRACES = 16
FLUSH_SECONDS = 1.0

# Files from before accuracy was measured on other engines don't name theirs.
IMPLIED = {"engine": {"name": "hf"}}

EngineFactory = Callable[[Policy], Engine]


def run_accuracy(
    problems: Sequence[Problem],
    contenders: Sequence[ComparedPolicy],
    engine_for: EngineFactory,
    *,
    samples: int = 1,
    sampling: Sampling | None = None,
    journal: Journal | None = None,
    watch: Watcher | None = None,
    keep_tokens: bool = False,
) -> list[AccuracyRow]:
    """Let every contender solve every problem `samples` times, and return their rows in the contenders' order.

    engine_for: makes the engine that decodes with a policy; each is asked for once and dropped after its row, so only
    one holds memory at a time. sampling: its seed is combined with each problem's id, so problems draw independently
    of each other, while sample i of a problem draws the same way under every policy. journal: results file, opened
    with `settings` and `may_grow`; traces that it already holds are not run again, also those of more problems, samples or
    policies than are asked for now, which are left out of the rows. watch: called for every finished trace.
    keep_tokens: also write the traces' token ids to the journal (for `laconic analyze`).

    A contender whose budget must be matched needs the row `full` before it. Once the journal names its budget, that stays:
    it is the one matched on the traces of `full` that the file held then.

    Raises InputError for no problems, two with one id, one without a reference answer, samples < 1, no contenders or two with
    one label, a budget to match without full KV, or a journal whose recorded policies or problems are not this run's.
    """
    _check(problems, contenders, samples)
    checks.function("engine_for", engine_for, "from a policy to an engine")
    if journal is not None:
        checks.instance("journal", journal, Journal, "an open Journal, or None")
    if watch is not None:
        checks.function("watch", watch, "of a Progress")
    checks.flag("keep_tokens", keep_tokens)
    sampling = Sampling() if sampling is None else checks.instance("sampling", sampling, Sampling, "a Sampling")
    warn_alike(samples, sampling)
    records = list(journal.records) if journal else []
    run = _AccuracyRun(
        problems, samples, sampling, journal, watch, keep_tokens, len(contenders) * len(problems) * samples
    )
    known = _known(problems, samples, records)
    run.done = sum(len(known.get(contender.label, ())) for contender in contenders)
    traces: dict[str, list[Record]] = {}
    ran: list[tuple[ComparedPolicy, list[Record]]] = []
    for contender in contenders:
        if contender.target is not None:
            contender = contender.matched([record["length"] for record in traces[BASELINE]])
            contender = _recall_budget(contender, records)
        _recall_policy(contender, records, journal)
        mine = [record for record in records if record.get("kind") == "clock" and record["row"] == contender.label]
        mine += known.get(contender.label, [])
        mine += run.row(contender, engine_for, known.get(contender.label, []))
        traces[contender.label] = [record for record in mine if record["kind"] == "trace"]
        ran.append((contender, mine))
    return [
        summarise(
            contender,
            problems,
            samples,
            mine,
            traces.get(BASELINE),
            traces.get(_random_beside(contender, contenders)),
            {other.label: traces[other.label] for other in _beside(contender, contenders)},
        )
        for contender, mine in ran
    ]


def _beside(contender: ComparedPolicy, contenders: Sequence[ComparedPolicy]) -> list[ComparedPolicy]:
    """The others at a row's cache size; none for full KV."""
    if contender.ratio is None:
        return []
    cell = contender.ratio, contender.interval, contender.window
    return [c for c in contenders if c.label != contender.label and (c.ratio, c.interval, c.window) == cell]


def _random_beside(contender: ComparedPolicy, contenders: Sequence[ComparedPolicy]) -> str:
    """The label of the random policy at a row's cache size; empty for none, and for that row itself."""
    return next((other.label for other in _beside(contender, contenders) if other.family == RANDOM), "")


def settings(
    *,
    model: Mapping[str, Any],
    problem_set: str,
    problems: Sequence[Problem],
    contenders: Sequence[ComparedPolicy],
    files: SelectorFiles,
    samples: int,
    sampling: Sampling,
    chat: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    prompt: str = "",
) -> dict[str, Any]:
    """What records must agree on to belong to one run, for `Journal`: as `problem_settings`, the engine (None: hf), and the
    rows, of which files finds the selectors.

    What of this may differ as a file grows is `may_grow`'s to say.
    """
    common = problem_settings(
        model=model, problem_set=problem_set, problems=problems, sampling=sampling, chat=chat, prompt=prompt
    )
    rows = {contender.label: settled(contender, files) for contender in contenders}
    found = {**common, "engine": dict(engine or IMPLIED["engine"]), "samples": samples, "policies": rows}
    order = ("model", "engine", "problems", "samples", "sampling", "policies", "chat")
    return {key: found[key] for key in order if key in found}


def may_grow(key: str, lacking: bool) -> bool:
    """Which of the `settings` may differ, for `Journal`: how many problems and samples there are (each trace says which it
    is of), and rows that the file or the run has alone. A row that both have must be the same."""
    return key in ("problems.count", "problems.digest", "samples") or (lacking and key.startswith("policies."))


class _AccuracyRun:
    """What the rows of one run share: the problems, the sampling, and where finished traces go."""

    def __init__(
        self,
        problems: Sequence[Problem],
        samples: int,
        sampling: Sampling,
        journal: Journal | None,
        watch: Watcher | None,
        keep_tokens: bool,
        total: int,
    ) -> None:
        self.problems = problems
        self.samples = samples
        self.sampling = sampling
        self.journal = journal
        self.watch = watch
        self.keep_tokens = keep_tokens
        self.total = total
        self.done = 0
        self.tokens = 0

    def row(self, contender: ComparedPolicy, engine_for: EngineFactory, known: list[Record]) -> list[Record]:
        """Run what `known` lacks of a row. Returns the new records, which the journal has by then."""
        have = {(record["problem"], record["sample"]) for record in known}
        missing = [p for p in self.problems if any((p.id, i) not in have for i in range(self.samples))]
        if not missing:
            return []
        engine = engine_for(contender.policy)
        wanted: dict[str, tuple[Problem, int]] = {}
        for problem in missing:
            sampling = dataclasses.replace(self.sampling, seed=problem_seed(self.sampling.seed, problem))
            ids = engine.submit(engine.render(problem.question), sampling, self.samples)
            for sample, trace_id in enumerate(ids):
                if (problem.id, sample) in have:
                    # A trace's random stream goes by its place among the n, so those done already are submitted too,
                    # and stopped before they cost anything.
                    engine.stop(trace_id)
                    engine.forget([trace_id])
                else:
                    wanted[trace_id] = (problem, sample)
        return self._drain(engine, contender, wanted)

    def _drain(
        self, engine: Engine, contender: ComparedPolicy, wanted: Mapping[str, tuple[Problem, int]]
    ) -> list[Record]:
        finished: list[Record] = []
        pending: list[Record] = []
        clock = written = time.monotonic()

        def write() -> None:
            nonlocal clock, written
            now = time.monotonic()
            tokens = sum(record["length"] for record in pending)
            pending.append({"kind": "clock", "row": contender.label, "seconds": now - clock, "tokens": tokens})
            if self.journal:
                self.journal.append(pending)
            finished.extend(pending)
            pending.clear()
            clock = written = now

        try:
            for chunk in engine.stream():
                if chunk.finish_reason is None or chunk.trace_id not in wanted:
                    continue
                problem, sample = wanted[chunk.trace_id]
                pending.append(self._record(contender, problem, sample, engine.trace(chunk.trace_id)))
                engine.forget([chunk.trace_id])
                self.done += 1
                self.tokens += pending[-1]["length"]
                if self.watch:
                    self.watch(Progress(contender.label, self.done, self.total, self.tokens))
                if len(pending) >= FLUSH_TRACES or time.monotonic() - written > FLUSH_SECONDS:
                    write()
        finally:
            if pending:
                write()
        return finished

    def _record(self, contender: ComparedPolicy, problem: Problem, sample: int, trace: Trace) -> Record:
        answer = answer_of(trace)
        record: Record = {
            "kind": "trace",
            "row": contender.label,
            "problem": problem.id,
            "digest": problem_digest(problem.question, problem.answer),
            "sample": sample,
            "correct": equivalent(answer, problem.answer),
            "answer": answer,
            "length": len(trace.token_ids),
            **({"fed": trace.fed_tokens} if trace.fed_tokens else {}),
            "finish": trace.finish_reason,
            "peak_kv_tokens": trace.peak_kv_tokens,
            "mean_kv_tokens": trace.mean_kv_tokens,
        }
        if self.keep_tokens:
            record["token_ids"] = list(trace.token_ids)
        return record


def _known(problems: Sequence[Problem], samples: int, records: Sequence[Record]) -> dict[str, list[Record]]:
    """The recorded traces of these problems and samples, by row; refuses those of another problem under the same id."""
    asked = {problem.id: problem_digest(problem.question, problem.answer) for problem in problems}
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.get("kind") != "trace" or record["problem"] not in asked or record["sample"] >= samples:
            continue
        if record["digest"] != asked[record["problem"]]:
            raise InputError(
                f"The results file holds traces of another problem with the id {record['problem']}; nothing was changed: "
                "give the problems that it was made of, or name another file"
            )
        found.setdefault(record["row"], []).append(record)
    return found


def _recall_budget(contender: ComparedPolicy, records: Sequence[Record]) -> ComparedPolicy:
    """With the budget that the journal names for its row, if it names one; it was matched on what the file held then."""
    for record in records:
        if record.get("kind") == "policy" and record["row"] == contender.label:
            budget = getattr(parse(record["policy"]), "budget", None)
            return (
                contender
                if budget is None
                else dataclasses.replace(contender, policy=with_budget(contender.policy, budget))
            )
    return contender


def _recall_policy(contender: ComparedPolicy, records: Sequence[Record], journal: Journal | None) -> None:
    """Write down which policy a row's traces are of; refuse a journal whose earlier traces are of another."""
    spec = contender.policy.spec()
    for record in records:
        if record.get("kind") == "policy" and record["row"] == contender.label:
            if record["policy"] != spec:
                raise InputError(
                    f"The results file holds traces of {record['policy']} for the row {contender.label}, this run has "
                    f"{spec}; nothing was changed: name another file"
                )
            return
    if journal:
        journal.append([{"kind": "policy", "row": contender.label, "policy": spec}])


def _check(problems: Sequence[Problem], contenders: Sequence[ComparedPolicy], samples: int) -> None:
    check_scored(problems)
    checks.instances("contenders", contenders, ComparedPolicy, "contenders, as `compared_policies` makes them")
    checks.whole("samples", samples, 1)
    if not contenders:
        raise InputError("There are no policies to compare; expected at least one")
    labels = [contender.label for contender in contenders]
    if len(set(labels)) < len(labels):
        raise InputError(f"Two rows have one label among {', '.join(labels)}; expected each label once")
    for index, contender in enumerate(contenders):
        if contender.target is not None and BASELINE not in labels[:index]:
            raise InputError(f"The budget of {contender.label} is matched on full KV's lengths; run full before it")
