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
from laconic.journal import Journal, Record
from laconic.lab.parallel.lineup import ComparedStrategy, LabelledPolicy, pool_of
from laconic.lab.parallel.outcomes import (
    describe,
    in_orders,
    is_mode,
    live_rounds,
    mean_outcome,
    modes_of,
    outcome,
    pooled_outcome,
    results_of,
    single_traces,
)
from laconic.lab.parallel.stable_ids import StableIds
from laconic.lab.shared.progress import Progress, Watcher
from laconic.problems import Problem
from laconic.problems.sets import check_scored, problem_settings
from laconic.prune.judge import Excerpt, Judge
from laconic.prune.pool import Pool
from laconic.prune.strategies.base import Strategy
from laconic.prune.trace_engine import TraceEngine
from laconic.prune.verdict import Verdict
from laconic.traces import TraceRecord

FORMAT = "laconic.parallel/1"
WARM_UP_TOKENS = 64

Answers = Callable[[Excerpt], str | None]


class ParallelSetup(Protocol):
    """What a run is given: `laconic.lab.parallel.setup.HFSetup` is the real one."""

    def traces(self, compression: LabelledPolicy) -> Mapping[str, Sequence[TraceRecord]]:
        """Every problem's traces under a compression by the problem's id, in the order of their index."""
        ...

    def replay(
        self,
        compression: LabelledPolicy,
        records: Sequence[TraceRecord],
        rows: int | None = None,
        acts_at: int | None = None,
    ) -> TraceEngine:
        """An engine that plays traces back, so many at once; None: all of one problem. acts_at: as of `ReplayEngine`."""
        ...

    def live(self, compression: LabelledPolicy) -> TraceEngine:
        """An engine that generates."""
        ...

    def judge(self, spec: str, answers: Answers) -> Judge:
        """A judge; answers: what a trace that an excerpt is of ended in, for the perfect one."""
        ...

    def strategy(self, entry: ComparedStrategy, judge: Judge | None) -> Strategy: ...


@dataclass(frozen=True)
class ParallelExperiment:
    """What is compared. timed: strategies are also run live on this many of the first problems. orders: votes and strategies
    are played back in so many orders of each problem's first `most` traces, the recorded one and others at random; figures are
    means, and pass@1 is the mean over all of these, whatever its n, so that differences stay paired. More traces are not read.

    Raises InputError for no problems, two with one id, one without a reference answer, timed out of range, or several orders of
    what is timed.
    """

    problems: Sequence[Problem]
    compress: Sequence[LabelledPolicy]
    entries: Sequence[ComparedStrategy]
    sampling: Sampling
    timed: int = 8
    orders: int = 1

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        check_scored(self.problems)
        checks.instances("compress", self.compress, LabelledPolicy, "a LabelledPolicy")
        checks.instances("entries", self.entries, ComparedStrategy, "a ComparedStrategy, as `lineup` makes them")
        checks.instance("sampling", self.sampling, Sampling, "a Sampling")
        checks.whole("timed", self.timed, 0)
        checks.whole("orders", self.orders, 1, 10_000)
        if self.orders > 1 and self.timed:
            raise InputError(
                f"orders is {self.orders} and timed is {self.timed}, but live runs are compared with the recorded order alone; "
                "expected timed 0 (--timed 0), or one order"
            )
        if self.timed and any(entry.pooled for entry in self.entries):
            raise InputError(
                f"timed is {self.timed}, but a pool runs on all problems at once and is only played back; expected timed 0 "
                "(--timed 0), or no pools"
            )
        if not 0 <= self.timed <= len(self.problems):
            raise InputError(f"timed is {self.timed}; expected 0 to {len(self.problems)}, the number of problems")

    @property
    def most(self) -> int:
        """Traces a problem that the largest strategy needs."""
        return max(entry.n for entry in self.entries)


def run_parallel(
    experiment: ParallelExperiment, setup: ParallelSetup, journal: Journal, watch: Watcher | None = None
) -> list[Record]:
    """Replay every entry on every problem, then run all of them live on the timed ones.

    journal: results file; what it holds is not run again, so an interrupted run goes on. Each result says of how many traces a
    problem (`most`) its orders are and the answer that most traces give. Found with another number, it is told anew: in the
    recorded order only whether its answer is that one can differ, several orders are played back again. Live runs of one
    problem are written together, as their ratios only mean something within one process: a problem cut short is timed again.

    Returns the journal's records (`parallel_rows.summarise` makes rows of them). Raises InputError where the journal
    has an entry of the same label with other settings, or a problem lacks traces.
    """
    run = _ParallelRun(experiment, setup, journal, watch)
    run.recall()  # what can't work is refused before hours of work
    for compression in experiment.compress:
        run.replays(compression)
    run.timings()
    return journal.records


class _ParallelRun:
    def __init__(
        self, experiment: ParallelExperiment, setup: ParallelSetup, journal: Journal, watch: Watcher | None
    ) -> None:
        self.experiment, self.setup, self.journal, self.watch = experiment, setup, journal, watch
        self.wanted = {(entry.label, problem.id) for entry in experiment.entries for problem in experiment.problems}
        self.have: set[tuple[str, str]] = set()
        self.older: dict[tuple[str, str], Record] = {}  # results among fewer or more traces, or not said how many
        for label, results in results_of(journal.records, experiment.most).items():
            for problem, record in results.items():
                if record.get("most") == experiment.most:
                    self.have.add((label, problem))
                else:
                    self.older[label, problem] = record
        self.judges: dict[str, Judge] = {}
        self.modes: dict[tuple[str, str], list[str]] = {}
        self.kept: dict[tuple[str, str], list[TraceRecord]] = {}  # of the timed problems
        self.timed = experiment.problems[: experiment.timed]

    def recall(self) -> None:
        """Write down what each entry is; refuse a journal that knows another by its label."""
        known = {record["entry"]: record["settings"] for record in self.journal.records if record["kind"] == "entry"}
        new = []
        for entry in self.experiment.entries:
            policy = self._compression(entry).policy
            settings = describe(entry, policy, self._strategy(entry))
            if self.experiment.orders > 1:
                settings["orders"] = self.experiment.orders
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

    def replays(self, compression: LabelledPolicy) -> None:
        """Every entry of a compression on every problem."""
        traces = self.setup.traces(compression)
        for problem in self.experiment.problems:
            found = traces.get(problem.id, ())
            if [record.index for record in found[: self.experiment.most]] != list(range(self.experiment.most)):
                raise InputError(
                    f"The problem {problem.id} has {len(found)} traces under {compression.label}; expected "
                    f"{self.experiment.most}, numbered from 0: leave the problem out, or collect its traces again"
                )
        # Whatever else was recorded: all entries draw from the same traces, as the modes and plain votes do.
        drawn = {problem.id: list(traces[problem.id][: self.experiment.most]) for problem in self.experiment.problems}
        for problem in self.timed:
            self.kept[compression.label, problem.id] = drawn[problem.id]
        entries = [entry for entry in self.experiment.entries if entry.compress == compression.label]
        for entry in (entry for entry in entries if entry.pooled):
            self._pool(entry, compression, drawn)
        for problem in self.experiment.problems:
            records = drawn[problem.id]
            for entry in entries:
                if not entry.pooled and (entry.label, problem.id) not in self.have:
                    told = self._told_anew(entry, compression, problem, records)
                    told = self._replay(entry, compression, problem, records) if told is None else told
                    self._keep(entry, [problem], [told])

    def _told_anew(
        self, entry: ComparedStrategy, compression: LabelledPolicy, problem: Problem, records: Sequence[TraceRecord]
    ) -> Record | None:
        """An older result with whether its answer is the mode of as many traces as here; None where it has to be played back:
        there is none, or it is of several orders, which were drawn from other traces."""
        old = self.older.get((entry.label, problem.id))
        if old is None or entry.single or self.experiment.orders > 1:
            return None
        return old | {"agrees": [is_mode(old["answer"], self._modes(compression, problem, records))]}

    def _keep(self, entry: ComparedStrategy, problems: Sequence[Problem], outcomes: Sequence[Record]) -> None:
        """Write an entry's results down, together."""
        self.journal.append(
            [
                {"kind": "result", "entry": entry.label, "problem": problem.id} | found | {"most": self.experiment.most}
                for problem, found in zip(problems, outcomes, strict=True)
            ]
        )
        self.have |= {(entry.label, problem.id) for problem in problems}
        self._tell("replay", entry, len(self.have & self.wanted), len(self.wanted))

    def _pool(
        self, entry: ComparedStrategy, compression: LabelledPolicy, drawn: Mapping[str, Sequence[TraceRecord]]
    ) -> None:
        """A pool on all problems, whose results are written together: a part of them would be of another budget. drawn: the
        traces of each problem, by its id."""
        problems = self.experiment.problems
        if all((entry.label, problem.id) in self.have for problem in problems):
            return
        old = [self._told_anew(entry, compression, problem, drawn[problem.id]) for problem in problems]
        told = [each for each in old if each is not None]
        if len(told) == len(problems):
            self._keep(entry, problems, told)
            return
        pool = pool_of(entry)
        mixed = [in_orders(drawn[problem.id], self.experiment.orders) for problem in problems]
        found: list[list[Record]] = [[] for _ in problems]
        for order in range(self.experiment.orders):
            records = [each[order][: entry.n] for each in mixed]
            engine = self.setup.replay(compression, [one for each in records for one in each], pool.parallel, acts_at=0)
            samplings = [dataclasses.replace(self.experiment.sampling, seed=each[0].seed) for each in records]
            run = pool.begin(engine, [problem.question for problem in problems], samplings)
            for event in run:
                if event.trace is None:
                    raise InputError(f"the problem {problems[event.problem].id} can't be played back: {event.message}")
            for place, problem in enumerate(run.problems):
                asked = problems[place]
                modes = self._modes(compression, asked, drawn[asked.id])
                found[place].append(pooled_outcome(problem, asked, records[place], compression, modes))
            self._tell("replay", entry, len(self.have & self.wanted), len(self.wanted))
        self._keep(entry, problems, [mean_outcome(outcomes) for outcomes in found])

    def _strategy(self, entry: ComparedStrategy) -> Strategy | Pool:
        return pool_of(entry) if entry.pooled else self.setup.strategy(entry, self._judge(entry))

    def _replay(
        self, entry: ComparedStrategy, compression: LabelledPolicy, problem: Problem, records: Sequence[TraceRecord]
    ) -> Record:
        modes = self._modes(compression, problem, records)
        if entry.single:
            mine = records[: entry.n] if self.experiment.orders == 1 else records
            return single_traces(mine, compression, modes)
        strategy = self.setup.strategy(entry, self._judge(entry))
        found: list[Record] = []
        for mixed in in_orders(records, self.experiment.orders):
            engine = self.setup.replay(compression, mixed, acts_at=strategy.acts_at())
            verdict = self._solve(strategy, engine, problem, mixed, self.experiment.sampling)
            found.append(outcome(verdict, problem, modes))
        return mean_outcome(found)

    def _modes(self, compression: LabelledPolicy, problem: Problem, records: Sequence[TraceRecord]) -> Sequence[str]:
        """Of a problem's `records`, as many as the largest strategy needs."""
        key = compression.label, problem.id
        if key not in self.modes:
            self.modes[key] = modes_of(records)
        return self.modes[key]

    def _solve(
        self,
        strategy: Strategy,
        engine: TraceEngine,
        problem: Problem,
        records: Sequence[TraceRecord],
        sampling: Sampling,
    ) -> Verdict:
        named: Any = StableIds(engine, problem.id)

        def answer(excerpt: Excerpt) -> str | None:
            return records[named.trace(excerpt.trace_id).index].answer

        self.answer = answer
        return strategy.solve(named, problem.question, dataclasses.replace(sampling, seed=records[0].seed))

    def _compression(self, entry: ComparedStrategy) -> LabelledPolicy:
        return next(c for c in self.experiment.compress if c.label == entry.compress)

    def _judge(self, entry: ComparedStrategy) -> Judge | None:
        """Each judge is opened once, and asks for answers wherever it is used at the moment."""
        if entry.judge is None:
            return None
        if entry.judge not in self.judges:
            self.judges[entry.judge] = self.setup.judge(entry.judge, lambda excerpt: self.answer(excerpt))
        return self.judges[entry.judge]

    # ---- live -----------------------------------------------------------------------------------------------------

    def timings(self) -> None:
        """Every entry live on each timed problem, one after the other."""
        wanted = {entry.label for entry in self.experiment.entries}
        done, warm = 0, False
        for place, problem in enumerate(self.timed):
            groups = live_rounds(self.journal.records, problem.id)
            if any(wanted <= {record["entry"] for record in group} for group in groups):
                done += len(wanted)
                continue
            if not warm:
                self._warm_up()
                warm = True
            # Another one goes first on every problem, so that none always follows the same.
            order = [*self.experiment.entries[place % len(wanted) :], *self.experiment.entries[: place % len(wanted)]]
            group = []
            for entry in order:
                record = {"kind": "live", "entry": entry.label, "problem": problem.id, "sitting": len(groups)}
                group.append(record | self._live(entry, problem, self.experiment.sampling))
                done += 1
                self._tell("live", entry, done, len(wanted) * len(self.timed))
            self.journal.append(group)

    def _live(self, entry: ComparedStrategy, problem: Problem, sampling: Sampling) -> Record:
        compression = self._compression(entry)
        # A single trace is a vote of one, whatever number of traces pass@1 is the mean of.
        entry = dataclasses.replace(entry, n=1) if entry.single else entry
        records = self.kept[entry.compress, problem.id]
        strategy = self.setup.strategy(entry, self._judge(entry))
        verdict = self._solve(strategy, self.setup.live(compression), problem, records, sampling)
        return outcome(verdict, problem) | {
            "seconds": {name: float(value) for name, value in verdict.seconds.items()},
            "peak_kv_bytes": verdict.kv.get("peak_bytes"),
        }

    def _warm_up(self) -> None:
        """The first run of anything pays for what later ones find ready; nobody's figures should."""
        limit = min(WARM_UP_TOKENS, self.experiment.sampling.max_new_tokens)
        short = dataclasses.replace(self.experiment.sampling, max_new_tokens=limit)
        smallest = {(e.family, e.compress): e for e in sorted(self.experiment.entries, key=lambda e: -e.n)}
        for entry in smallest.values():
            self._live(entry, self.timed[0], short)

    def _tell(self, phase: str, entry: ComparedStrategy, done: int, total: int) -> None:
        if self.watch:
            self.watch(Progress(entry.label, done, total, phase=phase))


def settings(
    *,
    model: Mapping[str, Any],
    problem_set: str,
    experiment: ParallelExperiment,
    chat: Mapping[str, Any] | None = None,
    prompt: str = "",
) -> dict[str, Any]:
    """What all results of a directory must agree on, for `Journal`; what an entry is stands in a record of its own."""
    return problem_settings(
        model=model,
        problem_set=problem_set,
        problems=experiment.problems,
        sampling=experiment.sampling,
        chat=chat,
        prompt=prompt,
    )
