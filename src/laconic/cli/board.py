"""The board of `laconic solve`: what a snapshot of a run looks like on a terminal, and what the run has saved so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from laconic.cli.live import plain
from laconic.cli.messages import size
from laconic.prune.strategies.base import Snapshot, TraceRow
from laconic.prune.verdict import PlainVote

# What is going on comes first where not all traces fit.
ORDER = {"running": 0, "finished": 1, "waiting": 2}
STYLES = {
    "running": "green",
    "finished": "bold",
    "waiting": "dim",
    "pruned": "yellow",
    "abandoned": "dim",
    "interrupted": "red",
    "lost": "red",
}
STOPPED = {"pruned", "abandoned", "interrupted"}  # one that was lost saves nothing
LEAST_ROWS = 3  # of traces, before the heading gives way


@dataclass(frozen=True, slots=True)
class BoardHeading:
    """What does not change while a run goes on: the setting in one line, and the question."""

    setting: str
    question: str


@dataclass(frozen=True, slots=True)
class SavingsEstimate:
    """What the traces stopped so far save against letting them run to the end, both estimated; below 0: a loss.

    finished: traces whose mean length the estimate takes for that of the stopped ones.
    """

    tokens: int
    seconds: float
    finished: int


class SavingsEstimator:
    """Watches snapshots go by and estimates what has been saved.

    A stopped trace saves the mean length of the finished ones less its own tokens; the judge's tokens count against it. Once
    all traces have ended this is `Tokens.saved` of the verdict. For seconds, every token not generated and every token
    generated is priced at the rate seen while exploring, when the batch is as full as it would have been all along.
    """

    def __init__(self) -> None:
        self.last = Snapshot("", ())
        self.explored = 0  # tokens generated while exploring

    def add(self, snapshot: Snapshot) -> None:
        """To be told at least whenever the phase changes."""
        if "explore" in (snapshot.phase, self.last.phase):
            self.explored = snapshot.generated
        self.last = snapshot

    @property
    def rate(self) -> float | None:
        """Tokens a second while exploring, or of the whole run where it doesn't explore; None before the first."""
        tokens, seconds = self.explored, self.last.phases.get("explore", 0.0)
        if not tokens:
            tokens, seconds = self.last.generated, self.last.seconds
        return tokens / seconds if tokens and seconds > 0 else None

    def estimate(self) -> SavingsEstimate | None:
        """None as long as no trace has finished: nothing is known of their length."""
        if self.rate is None:
            return None
        ends = [row.tokens for row in self.last.rows if row.state == "finished"]
        if not ends:
            return None
        mean = sum(ends) / len(ends)
        avoided = sum(mean - row.tokens for row in self.last.rows if row.state in STOPPED)
        seconds = (self.last.generated + avoided) / self.rate - self.last.seconds
        return SavingsEstimate(round(avoided - self.last.judged), seconds, len(ends))


def board(
    heading: BoardHeading, snapshot: Snapshot, estimator: SavingsEstimator, width: int, height: int, note: str = ""
) -> Text:
    """At most `height` lines of at most `width` cells. note: takes the place of the hint on the line of the phase."""
    top = [
        Text(plain(heading.setting), style="bold"),
        Text(plain(heading.question), style="dim"),
        _phase(snapshot, note),
        _named("tokens", f"{snapshot.generated:,} generated + {snapshot.judged:,} judged"),
        _named("saved", _saved(estimator.estimate())),
        *([_named("clusters", _clusters(snapshot.clusters))] if snapshot.clusters else []),
        _named("votes", votes(snapshot.votes)),
        _named("plain", plain_vote_line(snapshot.plain)),
        Text(_columns("#", "tokens", "state", "cluster", "answer"), style="dim"),
    ]
    while len(top) + LEAST_ROWS > height and len(top) > 1:
        top.pop(0)
    lines = top + _traces(snapshot.rows, max(height - len(top), 1))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True, end="").join(lines[:height])


def votes(counts: Sequence[tuple[str, float]]) -> str:
    """Answers with their weights, the heaviest first as they come."""
    return ", ".join(f"{plain(answer)} ({weight:.3g})" for answer, weight in counts) or "none yet"


def plain_vote_line(vote: PlainVote | None) -> str:
    """What the same tokens would have bought without a strategy: "12 (3 of 4 traces; the tokens would pay for about 6)"."""
    if vote is None:
        return "not known before a trace has finished"
    noun = "trace" if vote.finished == 1 else "traces"
    answer = "no answer" if vote.answer is None else plain(vote.answer)
    share = f"{vote.votes} of {vote.finished} {noun}" if vote.votes else f"{vote.finished} {noun}"
    spare = round(vote.affordable) > vote.finished
    more = f"; a plain vote of these tokens would have about {vote.affordable:.0f}" if spare else ""
    return f"{answer} ({share} that finished{more})"


def _phase(snapshot: Snapshot, note: str) -> Text:
    rate = f"{snapshot.generated / snapshot.seconds:,.0f} tok/s, " if snapshot.seconds > 0 else ""
    facts = f"{snapshot.seconds:.1f} s, {rate}{size(snapshot.kv_bytes)} of KV alive"
    end = (note, "bold red") if note else ("Ctrl-C: the verdict so far", "dim")
    return Text.assemble((f"{snapshot.phase:<9}", "bold cyan"), facts, " · ", end)


def _named(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<9}", "dim"), value)


def _saved(estimate: SavingsEstimate | None) -> str:
    if estimate is None:
        return "not known before a trace has finished"
    noun = "trace" if estimate.finished == 1 else "traces"
    return (
        f"about {estimate.tokens:,} tokens, {estimate.seconds:,.1f} s so far (estimate from {estimate.finished} {noun})"
    )


def _clusters(sizes: Sequence[int]) -> str:
    return f"{len(sizes)}: " + ", ".join(str(count) for count in sorted(sizes, reverse=True))


def _columns(index: str, tokens: str, state: str, cluster: str, answer: str) -> str:
    return f"{index:>5}  {tokens:>7}  {state:<11}  {cluster:>7}  {answer}"


def _traces(rows: Sequence[TraceRow], room: int) -> list[Text]:
    """A line a trace in order of index; where they don't all fit, those that still run first, and a line for the rest."""
    shown, rest = list(rows), []
    if len(rows) > room:
        ranked = sorted(rows, key=lambda row: (ORDER.get(row.state, len(ORDER)), row.index))
        shown, rest = sorted(ranked[: room - 1], key=lambda row: row.index), ranked[room - 1 :]
    lines = [_trace(row) for row in shown]
    if rest:
        states = Counter(row.state for row in rest)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        more = "more" if shown else "traces"
        lines.append(Text(f"{'and ' if shown else ''}{len(rest)} {more}: {counts}", style="dim"))
    return lines


def _trace(row: TraceRow) -> Text:
    cluster = "-" if row.cluster is None else str(row.cluster)
    start = _columns(str(row.index), f"{row.tokens:,}", row.state, cluster, "")
    line = Text(start, style=STYLES.get(row.state, ""))
    if row.answer is not None:
        line.append(plain(row.answer), style="bold")
    elif row.reason != row.state:
        line.append(plain(row.reason), style="dim")
    return line
