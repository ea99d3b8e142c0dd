"""Rows from records: shares, pairs, medians and agreement against sums made here."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from tests.lab.parallel.fakes import PROBLEMS, SECONDS, FakeBench, experiment, record, run

from laconic.lab.parallel.equal_cost import plain_votes
from laconic.lab.parallel.rows import Agreement, LiveFigures, StrategyRow, agreement, summarise
from laconic.statistics import mean_interval, paired_difference
from laconic.traces import TraceRecord


@pytest.fixture
def records(tmp_path: Path):
    return run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment())


def live_of(row: StrategyRow) -> LiveFigures:
    assert row.live is not None
    return row.live


def agreement_of(row: StrategyRow) -> Agreement:
    found = live_of(row).agreement
    assert found is not None
    return found


def of(records, kind: str, label: str):
    return {r["problem"]: r for r in records if r["kind"] == kind and r["entry"] == label}


def traces_of(problem: str, compress: str) -> list[TraceRecord]:
    asked = next(each for each in PROBLEMS if each.id == problem)
    policy = next(each for each in experiment().compress if each.label == compress)
    return [record(asked, index, policy) for index in range(6)]


def slow_agrees(answer: str | None, problem: str, compress: str) -> float:
    """Whether it is as frequent an answer as any among all six traces, by counting."""
    given = [trace.answer for trace in traces_of(problem, compress) if trace.answer is not None]
    if not given:
        return float(answer is None)
    return float(answer is not None and given.count(answer) == max(map(given.count, given)))


def test_a_block_for_each_n_and_the_votes_of_few_in_all(records) -> None:
    rows = summarise(experiment(), records)
    families = ["pass@1", "cons", "cons, early end", "prune, oracle"]
    assert [(row.block, row.family, row.n, row.compress) for row in rows] == [
        (n, family, m, compress)
        for n in (4, 6)
        for compress in ("none", "rpc")
        for family, m in [("cons", 2), *((family, n) for family in families)]
    ]


def test_figures_are_those_of_a_slow_sum(records) -> None:
    for row in summarise(experiment(), records):
        mine = list(of(records, "result", row.label).values())
        base = list(of(records, "result", f"cons n={row.block} none").values())
        assert row.problems == 6
        assert row.accuracy == mean_interval([r["right"] for r in mine])
        if row.label == f"cons n={row.block} none":
            assert row.difference is None
            assert row.token_share == row.kv_share == live_of(row).ratio == 1
        else:
            assert row.difference == paired_difference([r["right"] for r in mine], [r["right"] for r in base])
        singles = list(of(records, "result", f"pass@1 n=6 {row.compress}").values())  # the most traces
        plain = plain_votes(singles)
        assert plain is not None
        if row.family in ("pass@1", "cons"):
            assert row.equal_cost is None
            assert row.to_json()["equal_cost"] is None
        else:
            theirs = [[share] for share in plain.at(row.total_tokens)]
            assert row.equal_cost == paired_difference([r["right"] for r in mine], theirs)
            assert row.to_json()["equal_cost"]["mean"] == row.equal_cost.mean
        told = [[slow_agrees(r["answer"], r["problem"], row.compress)] for r in mine]
        if row.family == "pass@1":
            alone = [traces_of(r["problem"], row.compress)[: row.n] for r in mine]
            told = [[slow_agrees(t.answer, t.problem, row.compress) for t in traces] for traces in alone]
        assert row.agrees == mean_interval(told)
        assert row.to_json()["agrees"]["mean"] == row.agrees.mean
        votes = plain_votes(singles, what="agrees")
        assert votes is not None
        if row.family in ("pass@1", "cons"):
            assert row.agrees_equal_cost is None
        else:
            share = [[each] for each in votes.at(row.total_tokens)]
            assert row.agrees_equal_cost == paired_difference(told, share)
        assert row.trace_tokens == pytest.approx(sum(r["generated"] for r in mine) / 6)
        assert row.judge_tokens == pytest.approx(sum(r["judged"] for r in mine) / 6)
        assert row.total_tokens == row.trace_tokens + row.judge_tokens
        assert row.token_share == pytest.approx(
            sum(r["generated"] + r["judged"] for r in mine) / sum(r["generated"] for r in base)
        )
        assert row.kv_share == pytest.approx(
            sum(r["kv_token_steps"] for r in mine) / sum(r["kv_token_steps"] for r in base)
        )
        assert row.steps == pytest.approx(sum(r["steps"] for r in mine) / 6)
        assert row.step_share == pytest.approx(sum(r["steps"] for r in mine) / sum(r["steps"] for r in base))
        traces = 1 if row.family == "pass@1" else row.n
        assert sum(row.fates.values()) == pytest.approx(traces)
        assert row.fates["pruned"] == pytest.approx(sum(r["fates"].count("p") for r in mine) / 6)
        live, base = of(records, "live", row.label), of(records, "live", f"cons n={row.block} none")
        assert live_of(row).problems == 2
        assert live_of(row).seconds["total"] == median(SECONDS * (r["fates"].count("f")) for r in live.values())
        assert live_of(row).ratio == median(live[p]["seconds"]["total"] / base[p]["seconds"]["total"] for p in live)
        assert live_of(row).peak_kv_bytes == median(r["peak_kv_bytes"] for r in live.values())
        assert row.to_json()["accuracy"]["mean"] == row.accuracy.mean
    shares = {row.label: row.token_share for row in summarise(experiment(), records)}
    assert shares["prune, oracle n=6 none"] < 1  # or the shares were never put to the test


def test_results_that_did_not_note_the_answers_have_no_vote_of_equal_cost(records) -> None:
    old = [{key: value for key, value in record.items() if key != "classes"} for record in records]
    assert all(row.equal_cost is None for row in summarise(experiment(), old))


def test_results_that_did_not_note_the_mode_have_no_agreement(records) -> None:
    old = [{key: value for key, value in record.items() if key != "agrees"} for record in records]
    rows = summarise(experiment(), old)
    assert all(row.agrees is None and row.agrees_equal_cost is None for row in rows)
    assert any(row.equal_cost is not None for row in rows)


def test_agreement_with_the_mode_of_fewer_traces_is_none(records) -> None:
    told = experiment(ns=(4,)), experiment()
    assert all(row.agrees is None and row.agrees_equal_cost is None for row in summarise(told[0], records))
    assert all(row.agrees is not None for row in summarise(told[1], records))
    assert any(row.equal_cost is not None for row in summarise(told[0], records))


def test_live_runs_like_their_replays_agree_wholly(records) -> None:
    rows = summarise(experiment(), records)
    assert rows
    for row in rows:
        found = agreement_of(row)
        traces = 2 * (1 if row.family == "pass@1" else row.n)
        assert (found.runs, found.answers, found.traces, found.lengths, found.fates) == (2, 2, traces, traces, traces)
        assert found.tokens == found.replayed_tokens > 0


def test_a_live_trace_that_parts_from_its_recording_shows(tmp_path: Path) -> None:
    bench = FakeBench(PROBLEMS, 6)
    bench.shorter = 1
    records = run(tmp_path / "r.jsonl", bench, experiment())
    rows = {(row.block, row.label): row for row in summarise(experiment(), records)}
    cons = agreement_of(rows[6, "cons n=6 none"])
    assert (cons.runs, cons.answers, cons.traces, cons.lengths, cons.fates) == (2, 2, 12, 10, 12)
    assert cons.replayed_tokens == sum(of(records, "result", "cons n=6 none")[p]["generated"] for p in ("q0", "q1"))
    assert cons.tokens == cons.replayed_tokens - 2
    single = agreement_of(rows[6, "pass@1 n=6 none"])
    assert (single.traces, single.lengths) == (2, 2)  # trace 0 alone runs there
    assert single.tokens == single.replayed_tokens
    overall = agreement(list(rows.values()))
    assert overall is not None
    # Each entry counts once, though cons@2 stands in both blocks.
    once = {row.label: agreement_of(row) for row in rows.values()}
    assert overall.runs == 2 * 18
    assert overall.traces == sum(found.traces for found in once.values())
    assert overall.lengths == sum(found.lengths for found in once.values()) < overall.traces


def test_without_timed_problems_there_is_nothing_live(tmp_path: Path) -> None:
    rows = summarise(experiment(timed=0), run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment(timed=0)))
    assert all(row.live is None for row in rows)
    assert agreement(rows) is None
