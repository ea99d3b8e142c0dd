"""The votes of this server, for its page: those that run, and the latest that are over."""

from __future__ import annotations

import threading
from typing import Any

from laconic.server.asks import AskError
from laconic.server.growth import Point
from laconic.server.votes import VoteJob

STOPPED = ("pruned", "abandoned", "interrupted")

MOST_RUNS = 50
MOST_TOKENS = 4_000_000
"""Of all runs that are over: they are kept with their texts."""
LONGEST_QUESTION = 300  # characters in the list
IN_SHORT = ("id", "state", "strategy", "spec", "compress", "answer", "generated", "saved", "seconds")
"""What the list tells of a state."""


class Runs:
    """Votes by id, the latest last. most, most_tokens: of those that are kept; the oldest ones go first."""

    def __init__(self, most: int = MOST_RUNS, most_tokens: int = MOST_TOKENS) -> None:
        self.most, self.most_tokens = most, most_tokens
        self._jobs: dict[str, VoteJob] = {}
        self._lock = threading.Lock()

    def add(self, job: VoteJob) -> None:
        """A vote begins. The oldest that are over make room."""
        with self._lock:
            self._jobs[job.id] = job
            tokens = sum(each.generated for each in self._jobs.values())
            for name in [name for name, each in self._jobs.items() if each.over]:
                if len(self._jobs) <= self.most and tokens <= self.most_tokens:
                    break
                tokens -= self._jobs.pop(name).generated

    def drop(self, job: VoteJob) -> None:
        """It could not begin: no run came of it."""
        with self._lock:
            self._jobs.pop(job.id, None)

    def get(self, name: str) -> VoteJob:
        """Raises AskError (404) where there is none."""
        job = self._jobs.get(name)
        if job is None:
            raise AskError(f"there is no run {name[:40]!r}; GET /laconic/runs lists those there are", status=404)
        return job

    def listed(self) -> list[dict[str, Any]]:
        """All, the latest first, in short."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [self._short(job) for job in reversed(jobs)]

    def _short(self, job: VoteJob) -> dict[str, Any]:
        state = state_of(job)
        question = job.ask.question
        return {
            "created": job.created,
            "question": question if len(question) <= LONGEST_QUESTION else question[:LONGEST_QUESTION] + "...",
            **{name: state[name] for name in IN_SHORT},
            "n": len(state["traces"]),
        }


def state_of(job: VoteJob) -> dict[str, Any]:
    """How a vote stands, as the page shows it. From any thread: snapshots are never changed once they are made."""
    snapshot, verdict, chosen = job.snapshot, job.verdict, job.chosen
    state = "over" if verdict is not None else "failed" if job.error else "stopped" if job.over else "running"
    rows = snapshot.rows if snapshot is not None else ()
    finished = [row.tokens for row in rows if row.state == "finished"]
    saved = None
    if verdict is not None:
        saved = verdict.tokens.saved
    elif finished and snapshot is not None and state == "running":  # as the command line estimates it while a vote runs
        mean = sum(finished) / len(finished)
        saved = round(sum(mean - row.tokens for row in rows if row.state in STOPPED)) - snapshot.judged
    strategy = chosen.strategy if chosen is not None else None
    plain = verdict.plain if verdict is not None else snapshot.plain if snapshot is not None else None
    return {
        "id": job.id,
        "state": state,
        "error": job.error,
        "strategy": strategy.name if strategy is not None else None,
        "spec": chosen.spec if chosen is not None else None,
        "judge": chosen.judge if chosen is not None else None,
        "compress": chosen.policy.spec() if chosen is not None else None,
        "seed": job.seed,
        "answer": verdict.answer if verdict is not None else None,
        "winner": verdict.winner if verdict is not None else None,
        "phase": snapshot.phase if snapshot is not None else "",
        "traces": [
            [row.index, row.tokens, row.state, row.cluster, row.answer, row.reason]
            for row in sorted(rows, key=lambda row: row.index)
        ],
        "votes": list(snapshot.votes) if snapshot is not None else [],
        "clusters": list(snapshot.clusters) if snapshot is not None else [],
        "generated": snapshot.generated if snapshot is not None else 0,
        "judged": snapshot.judged if snapshot is not None else 0,
        "saved": saved,
        "seconds": round(job.took if job.took is not None else job.seconds, 2),
        "kv_held": job.kv_held,
        "kv_full": job.kv_full,
        "kv_peak": job.kv_peak,
        "plain": None if plain is None else [plain.answer, plain.votes, plain.finished, round(plain.affordable, 1)],
        "messages": [[round(seconds, 2), message] for seconds, message in list(job.messages)],
    }


def summary(job: VoteJob) -> dict[str, Any]:
    """A run without its texts, for showing it beside others: the question, its state, and how it grew."""
    return {
        "question": job.ask.question,
        "created": job.created,
        **state_of(job),
        "growth": {"columns": Point._fields, "rows": job.growth.points},
    }


def whole(job: VoteJob) -> dict[str, Any]:
    """A run as it is downloaded: its summary, and the verdict with every trace's text."""
    found = summary(job)
    if job.verdict is not None:
        found["verdict"] = job.verdict.to_dict()
    return found
