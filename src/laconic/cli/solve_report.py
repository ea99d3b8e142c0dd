"""What a run of a strategy came to: a few lines for people, one object for programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic.answers import equivalent
from laconic.cli.board import plain_vote_line, votes
from laconic.cli.live import PRINTABLE, plain
from laconic.cli.messages import size
from laconic.cli.questions import Question
from laconic.engines.base import Sampling
from laconic.prune.verdict import Verdict

FULL = "full"  # the policy that evicts nothing
FATES = ("finished", "pruned", "abandoned", "interrupted", "lost", "waiting", "running")


def told_answer(answer: str | None, gold: str | None, right: bool | None) -> str:
    """An answer and, where it is known, the right one."""
    if answer is None:
        return "no answer" + (f" (it is {plain(gold)})" if gold is not None else "")
    return (
        f"answer {plain(answer)}"
        + {True: ", which is right", False: f", but it is {plain(str(gold))}", None: ""}[right]
    )


@dataclass(frozen=True)
class SolveReport:
    """A verdict, and what it was reached with. policy, judge: specs; judge: None for a strategy that asks none. chat:
    `Chat.to_json`."""

    question: Question
    model: str
    policy: str
    judge: str | None
    sampling: Sampling
    verdict: Verdict
    chat: Mapping[str, Any] = field(default_factory=dict)

    @property
    def right(self) -> bool | None:
        """Whether the answer is the known one; None where none is known."""
        return None if self.question.answer is None else equivalent(self.verdict.answer, self.question.answer)

    def sentence(self) -> str:
        so_far = "" if self.verdict.complete else "interrupted; so far "
        return so_far + told_answer(self.verdict.answer, self.question.answer, self.right)

    def facts(self) -> list[tuple[str, str]]:
        """The summary as (name, value) pairs, for people."""
        verdict = self.verdict
        fates: Counter[str] = Counter(trace.fate for trace in verdict.traces)
        counts = ", ".join(f"{fates[fate]} {fate}" for fate in FATES if fates[fate]) or "none started"
        found = [
            ("votes", votes([(vote.answer, vote.weight) for vote in verdict.votes]) if verdict.votes else "none"),
            ("traces", f"{len(verdict.traces)}: {counts}"),
        ]
        if verdict.clusters:
            sizes = sorted(map(len, verdict.clusters), reverse=True)
            found.append(("clusters", f"{len(sizes)}: {', '.join(map(str, sizes))}"))
        plainly = verdict.plain
        if plainly is not None and (plainly.answer != verdict.answer or round(plainly.affordable) > plainly.finished):
            found.append(("plain vote", plain_vote_line(plainly)))
        found.append(("tokens", f"{verdict.tokens.generated:,} generated + {verdict.tokens.judged:,} judged"))
        if verdict.complete:  # before, only the shortest traces have finished
            found.append(("saved", self._saved(fates["finished"])))
        phases = ", ".join(f"{name} {value:.1f}" for name, value in verdict.seconds.items() if name != "total")
        found.append(("seconds", f"{verdict.seconds.get('total', 0.0):.1f}" + (f": {phases}" if phases else "")))
        if "peak_bytes" in verdict.kv:
            found.append(("KV, peak", size(round(verdict.kv["peak_bytes"]))))
        if "mean_tokens" in verdict.kv:
            found.append(("KV, mean", f"{verdict.kv['mean_tokens']:,.0f} tokens a trace"))
        if self.policy != FULL and "evicted" in verdict.kv:
            times = f"{verdict.kv['compressions']:,} compressions" if "compressions" in verdict.kv else ""
            found.append(("evicted", f"{verdict.kv['evicted']:,} tokens" + (f" in {times}" if times else "")))
        if verdict.note:
            found.append(("note", plain(verdict.note)))
        return found

    def _saved(self, finished: int) -> str:
        tokens = self.verdict.tokens
        if tokens.saved is None:
            return "not known: no trace came to its end"
        whole = tokens.total + tokens.saved
        share = f"{tokens.saved / whole:.0%}" if whole else "nothing"
        return (
            f"{share} of the {whole:,} tokens that all {self.verdict.n} would take (estimate from {finished} finished)"
        )

    def texts(self, which: str) -> list[tuple[str, str]]:
        """(heading, text) of the traces that `--show` asks for: the winner, or all in the order of their index."""
        verdict = self.verdict
        traces = sorted(verdict.traces, key=lambda trace: trace.index)
        if which == "winner":
            traces = [trace for trace in traces if trace.index == verdict.winner]
        found = []
        for trace in traces:
            answer = "no answer" if trace.answer is None else f"answer {plain(trace.answer)}"
            wins = ", the winner" if trace.index == verdict.winner else ""
            heading = (
                f"trace {trace.index}{wins}: {answer}, {trace.tokens:,} tokens, {trace.fate} ({plain(trace.reason)})"
            )
            found.append((heading, trace.text.translate(PRINTABLE).strip("\n")))
        return found

    def to_json(self) -> dict[str, Any]:
        """The whole verdict with the problem, what is known of it, the settings and the versions."""
        from laconic.environment import versions

        return {
            "problem": self.question.text,
            "gold": self.question.answer,
            "right": self.right,
            **self.verdict.to_dict(),
            "model": self.model,
            "policy": self.policy,
            "judge": self.judge,
            "sampling": dataclasses.asdict(self.sampling),
            **({"chat": dict(self.chat)} if self.chat else {}),
            "versions": versions(),
        }
