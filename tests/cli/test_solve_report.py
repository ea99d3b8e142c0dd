from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from laconic.cli.questions import Question
from laconic.cli.solve_report import SolveReport
from laconic.engines.base import Sampling
from laconic.prune.verdict import PlainVote, Tokens, TraceFate, Verdict, Vote

VERDICT = Verdict(
    strategy="deepprune",
    n=4,
    answer="1/2",
    votes=(Vote("1/2", 2.0, (0, 2)), Vote("7", 1.0, (1,))),
    traces=(
        TraceFate("a", 0, "finished", "came to its end", 100, 0, "1/2", 1.0),
        TraceFate("b", 1, "finished", "came to its end", 140, 0, "7", 1.0),
        TraceFate("c", 2, "finished", "came to its end", 120, 0, "1/2", 1.0),
        TraceFate("d", 3, "pruned", "agrees with cluster 0 (1.00)", 40, 0),
    ),
    tokens=Tokens(400, 20, 60),
    clusters=((0, 1, 2, 3),),
    seconds={"explore": 1.0, "judge": 0.25, "finish": 2.0, "total": 3.25},
    kv={"peak_bytes": 3 << 20, "token_steps": 12345},
    settings={"tau": 0.5},
)


def report(verdict: Verdict = VERDICT, gold: str | None = None) -> SolveReport:
    return SolveReport(Question("a half?", gold), "tiny", "full", "jaccard", Sampling(), verdict)


def facts(verdict: Verdict) -> dict[str, str]:
    return dict(report(verdict).facts())


def test_the_answer_is_compared_as_mathematics() -> None:
    assert report().sentence() == "answer 1/2"
    assert report().right is None
    assert report(gold="0.5").sentence() == "answer 1/2, which is right"
    assert report(gold="2").sentence() == "answer 1/2, but it is 2"


def test_no_answer_is_never_right_and_says_so() -> None:
    nothing = replace(VERDICT, answer=None, votes=())
    assert report(nothing).sentence() == "no answer"
    assert report(nothing, "2").sentence() == "no answer (it is 2)"
    assert report(nothing, "2").right is False
    assert facts(nothing)["votes"] == "none"


def test_an_interrupted_run_says_so_and_estimates_nothing() -> None:
    cut = replace(VERDICT, complete=False)
    assert report(cut).sentence() == "interrupted; so far answer 1/2"
    assert "saved" not in facts(cut)


def test_the_summary_has_the_verdicts_figures() -> None:
    assert facts(VERDICT) == {
        "votes": "1/2 (2), 7 (1)",
        "traces": "4: 3 finished, 1 pruned",
        "clusters": "1: 4",
        "tokens": "400 generated + 20 judged",
        "saved": "12% of the 480 tokens that all 4 would take (estimate from 3 finished)",
        "seconds": "3.2: explore 1.0, judge 0.2, finish 2.0",
        "KV, peak": "3.0 MiB",
    }
    assert facts(replace(VERDICT, note="odd\nthing"))["note"] == "odd thing"


def test_the_share_saved_is_of_what_all_traces_would_take() -> None:
    """The estimate is the verdict's own: n times the mean of the finished ones is generated + judged + saved."""
    mean = (100 + 140 + 120) / 3
    assert VERDICT.tokens.total + (VERDICT.tokens.saved or 0) == VERDICT.n * mean
    assert facts(replace(VERDICT, tokens=Tokens(400, 20, None)))["saved"] == "not known: no trace came to its end"
    assert facts(replace(VERDICT, tokens=Tokens(400, 100, -20)))["saved"].startswith("-4% of the 480 tokens")


@pytest.mark.parametrize("verdict", [VERDICT, Verdict("cons", 1, None, (), (), Tokens(0), complete=False)])
def test_json_is_the_whole_verdict_and_more(verdict: Verdict) -> None:
    record: dict[str, Any] = json.loads(json.dumps(report(verdict, "0.5").to_json()))
    told = json.loads(json.dumps(verdict.to_dict()))
    assert {key: record[key] for key in told} == told
    assert record["problem"] == "a half?"
    assert record["gold"] == "0.5"
    assert record["right"] is (verdict is VERDICT)
    assert (record["model"], record["policy"], record["judge"]) == ("tiny", "full", "jaccard")
    assert record["sampling"]["temperature"] == 0.6
    assert {"laconic", "torch", "transformers", "python"} <= set(record["versions"])


def test_a_model_cannot_steer_the_summary() -> None:
    evil = replace(VERDICT, answer="\x1b[2J7", votes=(Vote("\x1b[2J7", 1.0, (0,)),))
    text = report(evil).sentence() + "".join(value for _, value in report(evil).facts())
    assert "\x1b" not in text
    assert "[2J7" in text


def test_the_winner_is_the_heaviest_vote_for_the_answer_and_the_first_of_several() -> None:
    assert VERDICT.winner == 0
    heavier = (replace(VERDICT.traces[0], weight=0.5), *VERDICT.traces[1:])
    assert replace(VERDICT, traces=heavier).winner == 2
    assert replace(VERDICT, votes=(), answer=None).winner is None
    assert VERDICT.to_dict()["winner"] == 0


def test_texts_of_the_winner_or_of_all_cannot_steer_a_terminal() -> None:
    written = tuple(replace(t, text=f"text {t.index}\x1b[2J\nend\n") for t in VERDICT.traces)
    shown = report(replace(VERDICT, traces=written))
    heading = "trace 0, the winner: answer 1/2, 100 tokens, finished (came to its end)"
    assert shown.texts("winner") == [(heading, "text 0[2J\nend")]
    assert [heading.partition(":")[0] for heading, _ in shown.texts("all")] == [
        "trace 0, the winner", "trace 1", "trace 2", "trace 3",
    ]  # fmt: skip
    assert "no answer, 40 tokens, pruned (agrees with cluster 0 (1.00))" in shown.texts("all")[3][0]
    assert report(replace(VERDICT, votes=(), answer=None)).texts("winner") == []
    assert shown.to_json()["traces"][3]["text"] == "text 3\x1b[2J\nend\n"  # a file gets what was written


def test_evictions_and_the_mean_cache_under_compression() -> None:
    told = replace(VERDICT, kv={"mean_tokens": 1234.4, "evicted": 5678, "compressions": 12})
    assert facts(told)["KV, mean"] == "1,234 tokens a trace"
    assert "evicted" not in facts(told)  # full KV evicts nothing
    compressed = replace(report(told), policy="rpc:ratio=4")
    assert dict(compressed.facts())["evicted"] == "5,678 tokens in 12 compressions"


def test_the_plain_vote_is_told_where_it_would_have_said_more_or_else() -> None:
    assert "plain vote" not in facts(replace(VERDICT, plain=PlainVote("1/2", 2, 3, 3.4)))
    dearer = facts(replace(VERDICT, plain=PlainVote("1/2", 2, 3, 3.5)))
    assert dearer["plain vote"].startswith("1/2 (2 of 3 traces that finished; ")
    other = facts(replace(VERDICT, plain=PlainVote("7", 2, 3, 3.0)))
    assert other["plain vote"] == "7 (2 of 3 traces that finished)"
    assert report(replace(VERDICT, plain=PlainVote("7", 2, 3, 3.5))).to_json()["plain"] == {
        "answer": "7",
        "votes": 2,
        "finished": 3,
        "affordable": 3.5,
    }
