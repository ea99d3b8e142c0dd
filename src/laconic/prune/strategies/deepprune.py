"""DeepPrune (arXiv 2510.08483), live: stop traces that a judge expects to agree with others, finish a few, vote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from laconic import checks
from laconic.prune import excerpts
from laconic.prune.cluster import SIMILARITIES, Clustering
from laconic.prune.judge import Excerpt, Judge
from laconic.prune.judging import Judging
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.panels import VOTES, Panel, panels
from laconic.prune.strategies.run import DECIDED, MOST_TRACES, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import (
    check_excerpt,
    check_sampling,
    excerpt_for,
    needs_of_judge,
    settings_of,
    with_confidences,
)
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import Pending, decided, enough
from laconic.settings import setting

FINISHES = ("needed", "together")
PAPERS_K2, PAPERS_N, LEAST_K2 = 20, 512, 3
CANDIDATES = 20
"""Top candidates whose mean log-probability is a token's confidence, for the vote by confidence."""


@dataclass(frozen=True)
class DeepPrune(Strategy):
    """Start n traces, judge them at their excerpts, finish k* of the largest cluster, vote. docs/pruning.md has the whole.

    judge: anything that keeps `laconic.prune.judge.Judge`. K2, K3, excerpt: None stands for what `survivors`, `fallback` and
    `excerpt_kind` say. Raises InputError for settings out of range, or an excerpt that the judge was not made for.
    """

    name = "deepprune"
    summary: ClassVar[str] = (
        "a judge reads the start of every trace; those that would agree with others are stopped, a few are finished"
    )
    source: ClassVar[str] = "arXiv 2510.08483"

    n: int
    judge: Judge
    tau: float = setting(0.5, "a trace joins the most similar cluster if their similarity is above this")
    K: int = setting(32, "clusters at most; a trace like none of them is stopped and left out")
    K1: int = setting(10, "members of a cluster that a newcomer is compared with, at most")
    K2: int | None = setting(None, "traces of the chosen cluster that are finished, at most; none: 20 sqrt(n / 512)")
    K3: int | None = setting(None, "traces that are finished where every cluster is a singleton; none: as K2")
    excerpt: str | None = setting(None, "what the judge sees of a trace; none: what it was made for, else words:25")
    similarity: str = setting("decision", "of a trace and a cluster: mean decision or mean probability over members")
    vote: str = setting("plain", "plain and confidence: of the largest cluster; size: of all, by their sizes")
    early_end: bool = setting(True, "stop the rest once the vote can't change any more")
    finish: str = setting("needed", "needed: only as many at a time as may decide the vote; together: all at once")
    seed: int = setting(0, "which members of a large cluster a newcomer is compared with")

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.capable("deepprune's judge", self.judge, ("read", "compare", "cost"), "a judge: open one by its name")
        for name in ("K2", "K3"):
            if getattr(self, name) is not None:
                checks.whole(name, getattr(self, name), 1, meaning="traces finished")
        checks.word("vote", self.vote, VOTES)
        checks.word("finish", self.finish, FINISHES)
        checks.word("similarity", self.similarity, SIMILARITIES)
        checks.flag("early_end", self.early_end)
        self.clustering()
        check_excerpt(self.excerpt, self.judge)

    @property
    def survivors(self) -> int:
        """K2. Where it isn't given, the paper's 20 of 512 scaled by the square root, as a vote's error goes: 7 of 64."""
        scaled = max(LEAST_K2, round(PAPERS_K2 * math.sqrt(self.n / PAPERS_N)))
        return scaled if self.K2 is None else self.K2

    @property
    def fallback(self) -> int:
        """K3; the paper doesn't say which."""
        return self.survivors if self.K3 is None else self.K3

    @property
    def excerpt_kind(self) -> str:
        return excerpt_for(self.excerpt, self.judge)

    def clustering(self) -> Clustering:
        return Clustering(self.tau, self.K, self.K1, self.seed, self.similarity)

    def needs(self) -> Needs:
        vote = Needs(confidence_top_k=CANDIDATES if self.vote == "confidence" else 0)
        return needs_of_judge(self.judge, self.excerpt_kind) | vote

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> DeepPruneRun:
        if self.vote == "confidence" and not check_sampling(sampling).confidence_top_k:
            sampling = with_confidences(sampling, CANDIDATES)
        return DeepPruneRun(self, engine, question, sampling)


class DeepPruneRun(StrategyRunBase):
    """A run of `DeepPrune`.

    Every trace is stopped where its excerpt ends, so while others catch up it holds no memory. It is judged when its turn
    comes, which is by index, whatever the order in which traces get there: batch size and timing change nothing. If all get
    there in one step, they are judged before the engine carries the stops out, and survivors never lose their cache.
    """

    phase = "explore"

    def __init__(self, strategy: DeepPrune, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        settings = settings_of(strategy) | {
            "K2": strategy.survivors,
            "K3": strategy.fallback,
            "excerpt": strategy.excerpt_kind,
        }
        super().__init__(strategy.name, strategy.n, settings, strategy.needs(), engine, question, sampling)
        self.strategy = strategy
        self.excerpts = excerpts.parse(strategy.excerpt_kind)
        self.clustering = strategy.clustering()
        self.judging = Judging(strategy.judge, self.clustering)
        self.waiting: dict[int, Excerpt] = {}  # cut, not read
        self.turn = 0  # index of the next trace to be placed
        self.panels: list[Panel] = []
        self.panel: Panel | None = None

    def _start(self) -> None:
        self._say(f"{traces(self.n)} start, up to {self.excerpts.kind}")

    def _judged(self) -> int:
        return self.judging.cost.tokens

    def _clusters(self) -> Sequence[Sequence[int]]:
        return self.clustering.clusters

    # ---- explore --------------------------------------------------------------------------------------------------

    def _moved_on(self, record: TraceState) -> None:
        if self.phase != "explore" or record.view.state == "finished":  # its last chunk is on its way
            return
        if self.excerpts.fresh:
            self.engine.trace(record.id)  # brings the record's KV counts up to date
        if self.excerpts.ready(record.view):
            self._reached(record)

    def _reached(self, record: TraceState) -> None:
        """A trace has come to the end of its excerpt, or ended within it."""
        excerpt = self.excerpts.cut(record.view, self.question, self.engine)
        record.complete = excerpt.complete
        if not record.ended:
            self._stop(record, "waiting", "waits to be judged")
        if not excerpt.complete or excerpt.answer is not None:
            self.waiting[record.index] = excerpt
        self._eager = True  # judge before the engine carries the stop out

    def _step_over(self) -> None:
        self._eager = False
        if self.phase != "explore":
            return
        if self.waiting:
            with self.clock.during("judge"):
                self.judging.read({index: self.waiting[index] for index in sorted(self.waiting)}, self.engine)
                self.waiting.clear()
        while self.turn < self.n and self._place(self.records[self.turn]):
            self.turn += 1
        if self.turn == self.n:
            self._choose()

    def _place(self, record: TraceState) -> bool:
        """Put a trace where it belongs; False if its turn has come before it is ready."""
        if record.index not in self.judging:
            # One that ended without an answer agrees with nobody, and can't vote.
            return record.complete and record.answer is None
        with self.clock.during("judge"):
            placement = self.judging.place(record.index)
        record.cluster = placement.cluster
        self._moved[record.id] = None
        like = "" if placement.similarity is None else f" ({placement.similarity:.2f})"
        if placement.opened:
            self._say(f"trace {record.index} opens cluster {placement.cluster}")
            reason = f"the first of cluster {placement.cluster}"
        elif placement.cluster is not None:
            reason = f"agrees with cluster {placement.cluster}{like}"
        else:
            reason = f"unlike each of the {self.clustering.K} clusters there may be{like}"
        if not record.ended:
            record.reason = reason
            if not placement.opened:
                record.fate = "pruned"
                self._say(f"trace {record.index} pruned: {reason}")
        return True

    # ---- finish ---------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """All are placed: who is to be finished, in which order."""
        self.phase = "finish"
        self.clock.go(self.phase)
        voters = [r for r in self.records if not r.complete or r.answer is not None]
        if self.clustering.clusters and self.clustering.singletons:
            self._say("no two traces were judged alike, so the clusters say nothing")
            if len(voters) > 1:
                self.note = "every cluster was a singleton, so the clustering was dropped"
        if all(r.complete and r.fate != "lost" for r in self.records):
            self.note = f"every trace ended within its excerpt ({self.excerpts.kind}), so there was nothing to prune"
        self.panels = panels(
            voters, self.clustering, self.strategy.vote, self.strategy.survivors, self.strategy.fallback
        )
        self._next_panel()

    def _next_panel(self) -> None:
        """The next traces vote; those that ended long ago do so at once."""
        while self.panels:
            self.panel = self.panels.pop(0)
            for record in self.panel.records:
                if record.ended:
                    self._cast(record)
            self._say(f"{traces(len(self.panel.records))} of {self.panel.whose} may vote")
            self._go_on()
            if self.votes or any(r.fate == "running" for r in self.panel.records):
                return
        self.panel = None

    def _go_on(self) -> None:
        """Let as many of the panel run as may be needed, or stop them all where the vote is decided."""
        assert self.panel is not None
        left = [r for r in self.panel.records if not r.ended]  # those that run come first, as they were let go in order
        pending: list[Pending] = [(r.index, self.panel.weight(r)) for r in left]
        if not left:
            return
        count = len(left)
        if self.strategy.early_end:
            if decided(self.votes, pending):
                self._decide(left)
                return
            if self.strategy.finish == "needed":
                count = enough(self.votes, pending)
        for record in left[:count]:
            if record.fate != "running":
                self._resume(record)

    def _decide(self, left: Sequence[TraceState]) -> None:
        running = [r for r in left if r.fate == "running"]
        for record in running:
            self._stop(record, "abandoned", DECIDED)
        lead = self.votes[0]
        self._say(
            f"the vote is decided: {lead.answer} has a weight of {lead.weight:g}, {traces(len(left))} can't change it"
        )

    def _ended(self, record: TraceState) -> None:
        if self.phase == "explore":
            if record.fate == "lost":
                self._eager = True  # the others may have been waiting for it
            elif record.index not in self.judging and record.index not in self.waiting:
                self._reached(record)
        elif self.panel is not None and record in self.panel.records:
            with self.clock.during("vote"):
                self._cast(record)
                self._go_on()
            if not self.votes and all(r.ended for r in self.panel.records):
                self._next_panel()

    def _cast(self, record: TraceState) -> None:
        assert self.panel is not None
        if record.answer is not None:
            record.weight = self.panel.weight(record)
            self.tally.add(record.index, record.answer, record.weight)
            self.votes = self.tally.votes()

    def _close(self) -> None:
        for record in self.records:
            if record.fate == "waiting":
                chosen = self.panel is not None and record in self.panel.records
                record.fate, record.reason = "abandoned", DECIDED if chosen else "not among those chosen to finish"
