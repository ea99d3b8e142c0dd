"""What pruning saves and costs: strategies on the very same traces, against voting over all of them.

Trace i of a problem is the same text whatever becomes of the others, so each compression's traces are generated once, and
every strategy then runs on an engine that plays them back: its tokens, answers and KV-token-steps are exact, and paired.
What only a real run can tell (seconds, peak bytes) is measured live on the first problems, all strategies in turn on
each, and how far the live runs agree with the replayed ones is a figure of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from laconic import checks
from laconic.engines.base import Sampling
from laconic.errors import InputError
from laconic.lab.accuracy import run as accuracy
from laconic.lab.parallel.lineup import Compression, Entry
from laconic.lab.parallel.named import Named
from laconic.lab.parallel.outcomes import describe, outcome, singles, sittings
from laconic.lab.shared.journal import Journal, Record
from laconic.problems import Problem
from laconic.prune.judge import Excerpt, Judge
from laconic.prune.source import Source
from laconic.prune.strategies.base import Strategy
from laconic.prune.verdict import Verdict
from laconic.traces import TraceRecord

FORMAT = "laconic.parallel/1"
WARM_UP_TOKENS = 64

Answers = Callable[[Excerpt], str | None]
Watcher = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, called after every run of a strategy. phase: "replay" or "live"; done, total: of that phase."""

    phase: str
    label: str
    done: int
    total: int


class Bench(Protocol):
    """What a run is given: `laconic.lab.parallel.rig.Rig` is the real one."""

    def traces(self, compression: Compression) -> Mapping[str, Sequence[TraceRecord]]:
        """Every problem's traces under a compression by the problem's id, in the order of their index."""
        ...

    def replay(self, compression: Compression, records: Sequence[TraceRecord], strategy: Strategy) -> Source:
        """An engine that plays one problem's traces back to a strategy."""
        ...

    def live(self, compression: Compression, strategy: Strategy) -> Source:
        """An engine that generates, and notes what the strategy's judge will ask for."""
        ...

    def judge(self, spec: str, answers: Answers) -> Judge:
        """A judge; answers: what a trace that an excerpt is of ended in, for the perfect one."""
        ...

    def strategy(self, entry: Entry, judge: Judge | None) -> Strategy: ...


@dataclass(frozen=True)
class Job:
    """What is compared. timed: strategies are also run live on this many of the first problems.

    Raises InputError for no problems, two with one id, or timed out of range.
    """

    problems: Sequence[Problem]
    compress: Sequence[Compression]
    entries: Sequence[Entry]
    sampling: Sampling
    timed: int = 8

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.instances("problems", self.problems, Problem, "problems")
        checks.instances("compress", self.compress, Compression, "a Compression")
        checks.instances("entries", self.entries, Entry, "an Entry, as `lineup` makes them")
        checks.instance("sampling", self.sampling, Sampling, "a Sampling")
        checks.whole("timed", self.timed, 0)
        if not self.problems:
            raise InputError("There are no problems to solve; expected at least one")
        ids = [problem.id for problem in self.problems]
        if len(set(ids)) < len(ids):
            twice = next(name for index, name in enumerate(ids) if name in ids[:index])
            raise InputError(f"Two problems have the id {twice!r}; expected each id once")
        if not 0 <= self.timed <= len(ids):
            raise InputError(f"timed is {self.timed}; expected 0 to {len(ids)}, the number of problems")

    @property
    def most(self) -> int:
        """Traces a problem that the largest strategy needs."""
        return max(entry.n for entry in self.entries)


def run_parallel(job: Job, bench: Bench, journal: Journal, watch: Watcher | None = None) -> list[Record]:
    """Replay every entry on every problem, then run all of them live on the timed ones.

    journal: results file; what it holds is not run again, so an interrupted run goes on. Live runs of one problem are
    written together, as their ratios only mean something within one process: a problem cut short is timed again.

    Returns the journal's records (`parallel_rows.summarise` makes rows of them). Raises InputError where the journal
    has an entry of the same label with other settings, or a problem lacks traces.
    """
    run = _Run(job, bench, journal, watch)
    run.recall()  # what can't work is refused before hours of work
    for compression in job.compress:
        run.replays(compression)
    run.timings()
    return journal.records


class _Run:
    def __init__(self, job: Job, bench: Bench, journal: Journal, watch: Watcher | None) -> None:
        self.job, self.bench, self.journal, self.watch = job, bench, journal, watch
        self.wanted = {(entry.label, problem.id) for entry in job.entries for problem in job.problems}
        self.have = {(r["entry"], r["problem"]) for r in journal.records if r["kind"] == "result"}
        self.judges: dict[str, Judge] = {}
        self.kept: dict[tuple[str, str], list[TraceRecord]] = {}  # of the timed problems
        self.timed = job.problems[: job.timed]

    def recall(self) -> None:
        """Write down what each entry is; refuse a journal that knows another by its label."""
        known = {record["entry"]: record["settings"] for record in self.journal.records if record["kind"] == "entry"}
        new = []
        for entry in self.job.entries:
            policy = self._compression(entry).policy
            settings = describe(entry, policy, self.bench.strategy(entry, self._judge(entry)))
            old = known.get(entry.label)
            if old is None:
                new.append({"kind": "entry", "entry": entry.label, "settings": settings})
            elif old != settings:
                differing = [key for key in dict.fromkeys([*old, *settings]) if old.get(key) != settings.get(key)]
                told = ", ".join(f"{key} was {old.get(key)!r}, now {settings.get(key)!r}" for key in differing)
                raise InputError(
                    f"{self.journal.path} holds results of {entry.label} with other settings ({told}); nothing was "
                    "changed: use those settings to go on with it, or name another directory"
                )
        self.journal.append(new)

    # ---- replayed -------------------------------------------------------------------------------------------------

    def replays(self, compression: Compression) -> None:
        """Every entry of a compression on every problem."""
        traces = self.bench.traces(compression)
        for problem in self.job.problems:
            found = traces.get(problem.id, ())
            if [record.index for record in found[: self.job.most]] != list(range(self.job.most)):
                raise InputError(
                    f"The problem {problem.id} has {len(found)} traces under {compression.label}; expected "
                    f"{self.job.most}, numbered from 0: leave the problem out, or collect its traces again"
                )
        for problem in self.timed:
            self.kept[compression.label, problem.id] = list(traces[problem.id][: self.job.most])
        entries = [entry for entry in self.job.entries if entry.compress == compression.label]
        for problem in self.job.problems:
            records = list(traces[problem.id])
            for entry in entries:
                if (entry.label, problem.id) not in self.have:
                    record = {"kind": "result", "entry": entry.label, "problem": problem.id}
                    self.journal.append([record | self._replay(entry, compression, problem, records)])
                    self.have.add((entry.label, problem.id))
                    self._tell("replay", entry, len(self.have & self.wanted), len(self.wanted))

    def _replay(
        self, entry: Entry, compression: Compression, problem: Problem, records: Sequence[TraceRecord]
    ) -> Record:
        if entry.single:
            return singles(records[: entry.n], compression)
        strategy = self.bench.strategy(entry, self._judge(entry))
        source = self.bench.replay(compression, records, strategy)
        return outcome(self._solve(strategy, source, problem, records, self.job.sampling), problem)

    def _solve(
        self, strategy: Strategy, source: Source, problem: Problem, records: Sequence[TraceRecord], sampling: Sampling
    ) -> Verdict:
        named: Any = Named(source, problem.id)

        def answer(excerpt: Excerpt) -> str | None:
            return records[named.trace(excerpt.trace_id).index].answer

        self.answer = answer
        return strategy.solve(named, problem.question, dataclasses.replace(sampling, seed=records[0].seed))

    def _compression(self, entry: Entry) -> Compression:
        return next(c for c in self.job.compress if c.label == entry.compress)

    def _judge(self, entry: Entry) -> Judge | None:
        """Each judge is opened once, and asks for answers wherever it is used at the moment."""
        if entry.judge is None:
            return None
        if entry.judge not in self.judges:
            self.judges[entry.judge] = self.bench.judge(entry.judge, lambda excerpt: self.answer(excerpt))
        return self.judges[entry.judge]

    # ---- live -----------------------------------------------------------------------------------------------------

    def timings(self) -> None:
        """Every entry live on each timed problem, one after the other."""
        wanted = {entry.label for entry in self.job.entries}
        done, warm = 0, False
        for place, problem in enumerate(self.timed):
            groups = sittings(self.journal.records, problem.id)
            if any(wanted <= {record["entry"] for record in group} for group in groups):
                done += len(wanted)
                continue
            if not warm:
                self._warm_up()
                warm = True
            # Another one goes first on every problem, so that none always follows the same.
            order = [*self.job.entries[place % len(wanted) :], *self.job.entries[: place % len(wanted)]]
            group = []
            for entry in order:
                record = {"kind": "live", "entry": entry.label, "problem": problem.id, "sitting": len(groups)}
                group.append(record | self._live(entry, problem, self.job.sampling))
                done += 1
                self._tell("live", entry, done, len(wanted) * len(self.timed))
            self.journal.append(group)

    def _live(self, entry: Entry, problem: Problem, sampling: Sampling) -> Record:
        compression = self._compression(entry)
        # A single trace is a vote of one, whatever number of traces pass@1 is the mean of.
        entry = dataclasses.replace(entry, n=1) if entry.single else entry
        records = self.kept[entry.compress, problem.id]
        strategy = self.bench.strategy(entry, self._judge(entry))
        verdict = self._solve(strategy, self.bench.live(compression, strategy), problem, records, sampling)
        return outcome(verdict, problem) | {
            "seconds": {name: float(value) for name, value in verdict.seconds.items()},
            "peak_kv_bytes": verdict.kv.get("peak_bytes"),
        }

    def _warm_up(self) -> None:
        """The first run of anything pays for what later ones find ready; nobody's figures should."""
        limit = min(WARM_UP_TOKENS, self.job.sampling.max_new_tokens)
        short = dataclasses.replace(self.job.sampling, max_new_tokens=limit)
        smallest = {(e.family, e.compress): e for e in sorted(self.job.entries, key=lambda e: -e.n)}
        for entry in smallest.values():
            self._live(entry, self.timed[0], short)

    def _tell(self, phase: str, entry: Entry, done: int, total: int) -> None:
        if self.watch:
            self.watch(Progress(phase, entry.label, done, total))


def settings(
    *, model: Mapping[str, Any], problem_set: str, job: Job, chat: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What all results of a directory must agree on, for `Journal`; what an entry is stands in a record of its own."""
    of = accuracy.settings(
        model=model,
        problem_set=problem_set,
        problems=job.problems,
        contenders=(),
        samples=1,
        sampling=job.sampling,
        chat=chat,
    )
    return {name: of[name] for name in ("model", "problems", "sampling", "chat") if name in of}
