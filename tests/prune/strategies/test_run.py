"""What all runs share: progress, snapshots, interruption at every step, errors, and an engine left clean."""

from __future__ import annotations

import dataclasses

import pytest

from laconic.answers import equivalent
from laconic.errors import LaconicError
from laconic.prune.strategies.deepconf import DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.self_consistency import SelfConsistency
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine, TableJudge, perfect

SCRIPTS = [
    Script(9 + 3 * i % 11, str(i % 3) if i % 4 else None, confidence=(1 + i % 5, 1 + i % 2, 2.5)) for i in range(12)
]


def strategies():
    return [
        SelfConsistency(12),
        DeepPrune(12, TableJudge(perfect(SCRIPTS)), excerpt="tokens:4", K2=3),
        DeepConf(12, "high", warmup=4, window=3, parallel=3),
    ]


def started(strategy, **engine):
    made = ScriptedEngine(SCRIPTS, **engine)
    return made, strategy.begin(made, "why?", SAMPLING)


def checked(verdict, complete, probed=False):
    """What holds of every verdict. probed: stopped traces may vote with what a probe gave."""
    assert verdict.complete == complete
    assert [t.index for t in verdict.traces] == list(range(len(verdict.traces)))
    assert verdict.tokens.generated == sum(t.tokens for t in verdict.traces)
    assert verdict.tokens.total == verdict.tokens.generated + verdict.tokens.judged
    voters = {i: vote for vote in verdict.votes for i in vote.traces}
    assert len(voters) == sum(len(vote.traces) for vote in verdict.votes)
    for trace in verdict.traces:
        assert trace.fate in {"finished", "pruned", "abandoned", "interrupted", "waiting", "running"}
        assert trace.reason
        assert (trace.weight > 0) == (trace.index in voters)
        if trace.index in voters:
            assert equivalent(trace.answer, voters[trace.index].answer)
            assert trace.fate == "finished" or probed
        if trace.cluster is not None:
            assert trace.index in verdict.clusters[trace.cluster]
    placed = [i for cluster in verdict.clusters for i in cluster]
    assert len(placed) == len(set(placed))
    assert verdict.answer == (verdict.votes[0].answer if verdict.votes else None)
    assert verdict.seconds["total"] == pytest.approx(sum(s for p, s in verdict.seconds.items() if p != "total"))
    return verdict


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("batch", [64, 5])
def test_a_verdict_at_every_step_and_after_an_interruption_at_any(which, chunk, batch):
    engine, solving = started(strategies()[which], max_batch=batch, chunk_tokens=chunk)
    checked(solving.verdict(), complete=False)  # nothing has run
    whole = []
    for progress in solving:
        assert progress.phase in ("explore", "judge", "finish", "vote")
        checked(solving.verdict(), complete=False)
        whole.append(progress)
    final = checked(solving.verdict(), complete=True)
    assert not any(t.fate in ("waiting", "running", "interrupted") for t in final.traces)
    assert solving.interrupt() == final  # too late to change anything
    assert solving.snapshot().phase == "vote"
    assert {moved for progress in whole for moved in progress.moved} == {t.id for t in final.traces}

    for at in range(0, len(whole), 3):
        engine, solving = started(strategies()[which], max_batch=batch, chunk_tokens=chunk)
        for count, _ in enumerate(solving):
            if count == at:
                break
        verdict = checked(solving.interrupt(), complete=False)
        assert not any(t.fate in ("waiting", "running") for t in verdict.traces)
        assert verdict.note.startswith("this is how it stood before the end")
        for trace in verdict.traces:
            record = engine.trace(trace.id)
            assert record.state in ("stopped", "finished")
            assert len(record.token_ids) == trace.tokens
        engine.forget([t.id for t in verdict.traces])
        assert engine.clean
        assert list(solving) == []


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("error", [RuntimeError("the engine broke"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 2, 7])
def test_whatever_happens_in_the_engine_it_is_left_clean(which, error, at):
    engine = ScriptedEngine(SCRIPTS, fail_at=at, error=error)
    with pytest.raises(type(error)):
        strategies()[which].solve(engine, "why?", SAMPLING)
    assert engine.clean


def test_whatever_happens_in_the_judge_the_engine_is_left_clean():
    engine = ScriptedEngine(SCRIPTS)
    judge = TableJudge(perfect(SCRIPTS), fail=LaconicError("no such model"))
    with pytest.raises(LaconicError, match="no such model"):
        DeepPrune(12, judge, excerpt="tokens:4").solve(engine, "why?", SAMPLING)
    assert engine.clean


@dataclasses.dataclass
class StopFailsOnce(ScriptedEngine):
    """Its first `stop` raises before anything is done."""

    stop_error: BaseException | None = None
    failed: str = ""

    def stop(self, trace_id):
        if self.stop_error is not None:
            error, self.stop_error, self.failed = self.stop_error, None, trace_id
            raise error
        super().stop(trace_id)


@pytest.mark.parametrize("error", [RuntimeError("the stop got lost"), KeyboardInterrupt()])
def test_a_stop_that_failed_is_asked_for_again(error):
    engine = StopFailsOnce(SCRIPTS, stop_error=error)
    run = DeepPrune(12, TableJudge(perfect(SCRIPTS)), excerpt="tokens:4").begin(engine, "why?", SAMPLING)
    with pytest.raises(type(error)):
        for _ in run:
            pass
    assert engine.failed
    assert ("stop", engine.failed) not in engine.log
    before = len(engine.trace(engine.failed).token_ids)
    assert engine.trace(engine.failed).state == "running"
    verdict = checked(run.interrupt(), complete=False)
    assert engine.log.count(("stop", engine.failed)) == 1
    trace = next(t for t in verdict.traces if t.id == engine.failed)
    assert trace.fate == "interrupted"
    assert engine.trace(trace.id).state == "stopped"
    assert trace.tokens == len(engine.trace(trace.id).token_ids) == before  # it was not left to run on
    engine.forget([t.id for t in verdict.traces])
    assert engine.clean


def test_the_engine_serves_one_run_after_another():
    engine = ScriptedEngine(SCRIPTS)
    first = [strategy.solve(engine, "why?", SAMPLING) for strategy in strategies()]
    again = [strategy.solve(engine, "why?", SAMPLING) for strategy in strategies()]
    for a, b in zip(first, again, strict=True):
        assert (a.answer, a.votes, a.clusters, a.tokens) == (b.answer, b.votes, b.clusters, b.tokens)
        assert a.kv["token_steps"] == b.kv["token_steps"]
        assert [(t.fate, t.tokens) for t in a.traces] == [(t.fate, t.tokens) for t in b.traces]
    assert engine.clean


def test_a_snapshot_tells_what_a_view_needs():
    _, solving = started(strategies()[1])
    seen = []
    for _ in solving:
        seen.append(solving.snapshot())
    assert [row.index for row in seen[0].rows] == list(range(12))
    assert seen[0].generated == sum(row.tokens for row in seen[0].rows)
    assert max(s.kv_bytes for s in seen) > 0
    assert seen[-1].kv_bytes == 0
    assert [s.seconds for s in seen] == sorted(s.seconds for s in seen)
    verdict = solving.verdict()
    last = seen[-1]
    assert last.clusters == tuple(len(c) for c in verdict.clusters)
    assert last.votes == tuple((v.answer, v.weight) for v in verdict.votes)
    assert (last.generated, last.judged) == (verdict.tokens.generated, verdict.tokens.judged)
    assert [row.state for row in last.rows] == [t.fate for t in verdict.traces]
    assert last.plain == verdict.plain


@pytest.mark.parametrize("which", range(3))
def test_a_plain_vote_of_the_traces_that_finished_is_told_at_every_step(which):
    """Against counting by hand: one vote for each, whatever the strategy makes of them, priced at their mean length."""
    _, solving = started(strategies()[which])
    for _ in solving:
        verdict = solving.verdict()
        done = [t for t in verdict.traces if t.fate == "finished"]
        if not done:
            assert verdict.plain is None
            continue
        said = [t.answer for t in done if t.answer is not None]

        def rank(answer, said=said, done=done):
            """Votes, then how sure their traces were where that is known, then the first."""
            sure = [t.confidence or 0.0 for t in done if t.answer == answer]
            return said.count(answer), sum(sure) / len(sure), -said.index(answer)

        best = max(said, key=rank, default=None)
        mean = sum(t.tokens for t in done) / len(done)
        assert verdict.plain is not None
        assert (verdict.plain.answer, verdict.plain.votes) == (best, said.count(best))
        assert verdict.plain.finished == len(done)
        assert verdict.plain.affordable == pytest.approx(max(verdict.tokens.total / mean, len(done)))
    if which == 0:  # with early_end only what no vote could change is missing
        assert verdict.plain is not None
        assert verdict.plain.answer == verdict.answer


def test_every_decision_has_its_own_line():
    _, solving = started(strategies()[1])
    messages = [progress.message for progress in solving if progress.message]
    verdict = solving.verdict()
    pruned = [m for m in messages if " pruned: " in m]
    assert len(pruned) == sum(len(c) - 1 for c in verdict.clusters)
    assert all("\n" not in m for m in messages)
    assert any(m.startswith("trace 1 opens cluster") for m in messages)
    assert any("may vote" in m for m in messages)
