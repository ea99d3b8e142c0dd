"""The run: every entry on the same traces, replayed and live, resumed at every level, refused where settings differ."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from tests.lab.parallel.fakes import CUT, PROBLEMS, PROMPT, RPC8, FakeBench, experiment, record, run

from laconic.errors import LaconicError
from laconic.lab.parallel.lineup import compressions, lineup
from laconic.lab.parallel.outcomes import in_orders, live_rounds, results_of
from laconic.lab.parallel.rows import summarise
from laconic.lab.shared.progress import Progress


def untimed(records):
    """Everything but the order in which live runs came to be written."""
    return [{k: v for k, v in r.items() if k != "sitting"} for r in records]


def test_every_entry_runs_on_every_problem_and_live_on_the_timed_ones(tmp_path: Path) -> None:
    bench, todo = FakeBench(PROBLEMS, 6), experiment()
    records = run(tmp_path / "r.jsonl", bench, todo)
    kinds = Counter(r["kind"] for r in records)
    assert len(todo.entries) == 2 * (1 + 2 * 4)
    assert kinds == {"entry": 18, "result": 18 * 6, "live": 18 * 2}
    assert len({(r["entry"], r["problem"]) for r in records if r["kind"] == "result"}) == 18 * 6
    assert bench.generated == ["none", "rpc"]  # once each
    assert bench.judges == ["oracle"]
    assert bench.replays == ["none"] * 7 * 6 + ["rpc"] * 7 * 6  # pass@1 needs none
    assert len(bench.lives) == 18 * 2 + 8  # each live run, and each kind's warm-up
    assert len(bench.seeds) == len(bench.replays) + len(bench.lives)
    assert set(bench.seeds) == {40}  # the records', not the run's


def test_results_are_those_of_a_slow_count(tmp_path: Path) -> None:
    todo = experiment(timed=0)
    records = run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), todo)
    seen = set()
    for compression in todo.compress:
        for problem in PROBLEMS:
            traces = [record(problem, index, compression) for index in range(6)]
            for entry in (e for e in todo.entries if e.compress == compression.label):
                (found,) = [r for r in records if r.get("problem") == problem.id and r["entry"] == entry.label]
                mine = traces[: entry.n]
                lengths = [len(t.token_ids) for t in mine]
                if entry.judge:
                    same = [t.index > 0 and t.answer is not None and t.answer == mine[0].answer for t in mine]
                    lengths = [CUT if s else full for s, full in zip(same, lengths, strict=True)]
                    assert found["fates"] == "".join("p" if s else "f" for s in same)
                    assert found["judged"] == 3 * 2 * (len(mine) - 1)
                    seen.add(sum(same))
                else:
                    assert found["fates"] == "f" * entry.n
                    assert found["judged"] == 0
                assert found["lengths"] == lengths
                if entry.single:
                    assert found["right"] == [float(t.answer == problem.answer) for t in mine]
                    assert found["generated"] == pytest.approx(sum(lengths) / entry.n)
                    assert found["unanswered"] == sum(t.answer is None for t in mine) / entry.n
                    assert found["answer"] == mine[0].answer
                    steps = []
                    for length in lengths:  # what a step attends to, before it evicts
                        held, total = 0, 0
                        for computed in range(1, length):
                            held += 1
                            total += len(PROMPT) + held
                            held -= held - compression.policy.schedule.physical(computed)
                        steps.append(total)
                    assert found["kv_token_steps"] == pytest.approx(sum(steps) / entry.n)
                    assert found["steps"] == pytest.approx(sum(lengths) / entry.n - 1)  # the last token is never fed
                else:
                    votes = Counter(t.answer for t in mine if t.answer is not None)
                    best = votes.most_common(1)[0][0] if votes else None
                    assert found["answer"] == best
                    assert found["right"] == [float(best == problem.answer)]
                    assert found["generated"] == sum(lengths)
                    attended = sum(len(PROMPT) + place for n in lengths for place in range(1, n))
                    assert found["kv_token_steps"] == attended
                    assert found["steps"] == max(lengths) - 1
    assert len(seen) > 2  # or hardly anything was pruned


@pytest.mark.parametrize("crash_after", [1, 30, 86, 100])
def test_a_run_cut_short_goes_on_and_ends_the_same(tmp_path: Path, crash_after: int) -> None:
    whole = FakeBench(PROBLEMS, 6)
    expected = run(tmp_path / "whole.jsonl", whole, experiment())
    path = tmp_path / "r.jsonl"
    bench = FakeBench(PROBLEMS, 6)
    bench.crash_after = crash_after
    with pytest.raises(KeyboardInterrupt):
        run(path, bench, experiment())
    done = [json.loads(line) for line in path.read_text().splitlines()]
    replayed = [r for r in done if r["kind"] == "result" and not r["entry"].startswith("pass@1")]
    assert len(replayed) == min(crash_after, 14 * 6)  # each was written before the next began
    assert not [r for r in done if r["kind"] == "live"]  # a sitting is written whole
    bench.crash_after = None
    records = run(path, bench, experiment())
    key = lambda r: (r["kind"], r["entry"], r.get("problem", ""))  # noqa: E731
    assert sorted(untimed(records), key=key) == sorted(untimed(expected), key=key)
    # Nothing was done twice but the sitting that was cut short, and what warmed it up.
    assert len(bench.seeds) == len(whole.seeds) + max(0, crash_after - 14 * 6)


def test_a_trace_has_the_same_id_replayed_and_live(tmp_path: Path) -> None:
    bench = FakeBench(PROBLEMS, 6)
    run(tmp_path / "r.jsonl", bench, experiment())
    assert len(bench.names) == len(bench.seeds)
    for names in bench.names:
        assert names == [f"{names[0].partition('/')[0]}/{index}" for index in range(len(names))]
    assert {names[0] for names in bench.names} == {f"{problem.id}/0" for problem in PROBLEMS}


def test_several_orders_are_the_mean_of_each(tmp_path: Path) -> None:
    """Each order by itself, its traces numbered anew, against one run over all of them."""
    orders = 5
    records = run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment(timed=0, orders=orders))
    entry = next(r["settings"] for r in records if r["kind"] == "entry" and r["entry"] == "prune, oracle n=6 none")
    assert entry["orders"] == orders
    full = compressions([RPC8])[0]
    for problem in PROBLEMS:
        recorded = [record(problem, index, full) for index in range(6)]
        mixed = in_orders(recorded, orders)
        assert mixed[0] == recorded
        assert [[r.index for r in each] for each in mixed] == [list(range(6))] * orders
        assert all(sorted(r.token_ids for r in each) == sorted(r.token_ids for r in recorded) for each in mixed)
        assert len({tuple(len(r.token_ids) for r in each) for each in mixed}) > 1
        for name in ("prune, oracle n=6 none", "cons n=2 none"):
            mine = next(
                r for r in records if r["kind"] == "result" and (r["entry"], r["problem"]) == (name, problem.id)
            )
            assert len(mine["right"]) == orders
        cons = [sum(len(r.token_ids) for r in each[:2]) for each in mixed]
        assert mine["generated"] == pytest.approx(sum(cons) / orders)
        assert mine["lengths"] == [len(r.token_ids) for r in recorded[:2]]
    (single,) = {len(r["right"]) for r in records if r["kind"] == "result" and r["entry"] == "pass@1 n=6 none"}
    assert single == 6  # every trace for itself, in whatever order


def results(records, most: int):
    """What the tables are made of."""
    found = results_of(records, most)
    return {(entry, name): r for entry, each in found.items() for name, r in each.items()}


def test_traces_beyond_the_most_are_not_drawn(tmp_path: Path) -> None:
    """Or a strategy in several orders would have other traces than the plain votes that it is compared with."""
    todo = experiment(timed=0, orders=4)
    six, ten = (run(tmp_path / f"{n}.jsonl", FakeBench(PROBLEMS, n), todo) for n in (6, 10))
    assert ten == six


def test_in_several_orders_single_traces_are_those_that_votes_draw_from(tmp_path: Path) -> None:
    records = results(run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment(timed=0, orders=2)), 6)
    for problem in PROBLEMS:
        assert records["pass@1 n=4 none", problem.id]["right"] == records["pass@1 n=6 none", problem.id]["right"]
    records = results(run(tmp_path / "one.jsonl", FakeBench(PROBLEMS, 6), experiment(timed=0)), 6)
    assert all(len(records["pass@1 n=4 none", problem.id]["right"]) == 4 for problem in PROBLEMS)


@pytest.mark.parametrize("orders", [1, 3])
def test_more_traces_change_what_the_mode_and_the_orders_are_of(tmp_path: Path, orders: int) -> None:
    """A directory of few traces that grows has the figures of one that had all from the start, and the other way round."""
    path, few, both = tmp_path / "r.jsonl", *(experiment(timed=0, ns=ns, orders=orders) for ns in ((2,), (2, 6)))
    first = run(path, FakeBench(PROBLEMS, 6), few)
    whole = FakeBench(PROBLEMS, 6)
    expected = run(tmp_path / "whole.jsonl", whole, both)
    bench = FakeBench(PROBLEMS, 6)
    grown = run(path, bench, both)
    assert results(grown, 6) == results(expected, 6)
    assert summarise(both, grown) == summarise(both, expected)
    before, after = results(first, 2), results(grown, 6)
    assert any(before[key]["agrees"] != after[key]["agrees"] for key in before)  # or the mode was never put to the test
    # In the recorded order only the mode is another one, so nothing is played back for it.
    replayed = 2 * 3 * 6 if orders == 1 else len(whole.seeds)
    assert len(bench.seeds) == replayed
    bench = FakeBench(PROBLEMS, 6)
    assert summarise(few, run(path, bench, few)) == summarise(few, first)
    assert bench.seeds == []


@pytest.mark.parametrize("orders", [1, 3])
def test_results_that_do_not_say_of_how_many_traces_are_told_anew(tmp_path: Path, orders: int) -> None:
    path, todo = tmp_path / "r.jsonl", experiment(timed=0, orders=orders)
    first = run(path, FakeBench(PROBLEMS, 6), todo)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k != "most"} | {"agrees": [0.5]} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    bench = FakeBench(PROBLEMS, 6)
    assert summarise(todo, run(path, bench, todo)) == summarise(todo, first)
    assert (bench.seeds == []) == (orders == 1)


def test_a_finished_run_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = run(path, FakeBench(PROBLEMS, 6), experiment())
    bench = FakeBench(PROBLEMS, 6)
    assert run(path, bench, experiment()) == first
    assert bench.seeds == []


def test_another_judge_may_be_added_and_live_runs_are_then_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(path, FakeBench(PROBLEMS, 6), experiment())
    bench, more = FakeBench(PROBLEMS, 6), experiment(judges=("oracle", "second"))
    records = run(path, bench, more)
    assert len(bench.seeds) == 4 * 6 + 22 + 22 + 10  # the second judge's only, two live rounds, a warm-up
    groups = live_rounds(records, "q0")
    assert [len(group) for group in groups] == [18, 22]
    assert {r["entry"] for r in groups[1]} == {entry.label for entry in more.entries}
    # Fewer again: an older or larger sitting still holds them all.
    bench = FakeBench(PROBLEMS, 6)
    run(path, bench, experiment())
    assert bench.seeds == []


def test_who_goes_first_changes_from_problem_to_problem(tmp_path: Path) -> None:
    records = run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment(timed=3))
    orders = [[r["entry"] for r in live_rounds(records, f"q{index}")[0]] for index in range(3)]
    assert orders[1] == orders[0][1:] + orders[0][:1]
    assert orders[2] == orders[0][2:] + orders[0][:2]


def test_the_watcher_hears_of_every_run(tmp_path: Path) -> None:
    heard: list[Progress] = []
    run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 6), experiment(), heard.append)
    replays = [event for event in heard if event.phase == "replay"]
    lives = [event for event in heard if event.phase == "live"]
    assert [event.done for event in replays] == list(range(1, 109))
    assert {event.total for event in replays} == {108}
    assert [event.done for event in lives] == list(range(1, 37))
    assert {event.total for event in lives} == {36}


def test_an_entry_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(path, FakeBench(PROBLEMS, 6), experiment())
    before = path.read_bytes()
    bench = FakeBench(PROBLEMS, 6)
    bench.cut = 7
    with pytest.raises(LaconicError, match=r"cons n=2 none with other settings \(cut was 5, now 7\)"):
        run(path, bench, experiment())
    assert path.read_bytes() == before


def test_too_few_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="problem q0 has 5 traces under none; expected 6"):
        run(tmp_path / "r.jsonl", FakeBench(PROBLEMS, 5), experiment())


def test_a_pool_is_played_back_only() -> None:
    found = experiment(timed=0)
    entries = lineup([4], found.compress, [], [], lambda spec: False, pools=["4x"])
    assert [entry.label for entry in entries if entry.pooled] == ["pool 4x n=4 none", "pool 4x n=4 rpc"]
    assert dataclasses.replace(found, entries=entries).timed == 0
    with pytest.raises(LaconicError, match="timed is 2, but a pool runs on all problems at once"):
        dataclasses.replace(found, entries=entries, timed=2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problems": []}, "no problems"),
        ({"problems": [*PROBLEMS, PROBLEMS[0]]}, "two problems have the id 'q0'"),
        ({"timed": -1}, "timed is -1"),
        ({"timed": 7}, "expected 0 to 6"),
        ({"orders": 0}, "orders is 0"),
        ({"orders": 3}, "orders is 3 and timed is 2, but live runs"),
    ],
)
def test_bad_input_is_one_sentence(change: dict, says: str) -> None:
    with pytest.raises(LaconicError, match=f"(?i){says}"):
        experiment(**change)
