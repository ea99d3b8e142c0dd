"""The accuracy run: figures against a slow sum, pairs, resumption, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tests.reference.selectors import Files, random_selector

from laconic.engines.base import Sampling
from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.lab.accuracy.run import FORMAT, may_grow, run_accuracy, settings
from laconic.lab.shared.policies import compared_policies
from laconic.lab.shared.progress import Progress
from laconic.problems import is_correct
from laconic.problems.base import problem_seed
from laconic.selectors import write_selector
from laconic.statistics import mean_interval, paired_difference

SAMPLING = Sampling(max_new_tokens=440, seed=3)
SAMPLES = 3


def contenders():
    return compared_policies(["rpc", "h2o", "random"], [2, 8], interval=64, window=16)


def described(problems, samples=SAMPLES, sampling=SAMPLING, rows=None):
    return settings(
        model={"name": "fake"},
        problem_set="test",
        problems=problems,
        contenders=rows or contenders(),
        files=Files(),
        samples=samples,
        sampling=sampling,
    )


def figures(rows):
    """All but the speed, which no two runs share."""
    return [{k: v for k, v in row.to_json().items() if k != "tokens_per_second"} for row in rows]


def test_figures_are_those_of_a_slow_sum(problems, factory) -> None:
    rows = run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING)
    assert [row.label for row in rows] == [c.label for c in contenders()]
    by_label = {}
    for row, engine in zip(rows, factory.made, strict=True):
        right, lengths, peaks, means, silent, cut = [], [], [], [], 0, 0
        for problem in problems:
            mine = []
            for index in range(SAMPLES):
                # The same trace, made alone.
                seeded = Sampling(max_new_tokens=440, seed=problem_seed(3, problem))
                (*_, name) = engine.submit(problem.question, seeded, index + 1)
                length, text = engine.plan_of(engine.trace(name))
                if length >= 440:
                    length, text, cut = 440, "", cut + 1
                mine.append(float(is_correct(problem, text)))
                silent += "boxed" not in text
                lengths.append(length)
                peaks.append(engine.policy.schedule.peak(length, 11))
                means.append(engine.policy.schedule.mean(length, 11))
            right.append(mine)
        by_label[row.label] = right
        count = len(problems) * SAMPLES
        assert row.accuracy == mean_interval(right)
        assert row.mean_length == pytest.approx(sum(lengths) / count)
        assert row.peak_kv_tokens == max(peaks)
        assert row.mean_peak_kv_tokens == pytest.approx(sum(peaks) / count)
        assert row.mean_kv_tokens == pytest.approx(sum(means) / count)
        assert row.unanswered == silent / count
        assert row.truncated == cut / count
        assert row.policy == engine.policy.spec()
        assert row.tokens_per_second is not None
        assert row.tokens_per_second > 0
        if row.label == "full":
            assert row.difference is None
        else:
            assert row.difference == paired_difference(right, by_label["full"])
    for row in rows:
        beside = None if row.ratio is None else f"random c={row.ratio:g}"
        if beside is None or row.label == beside:
            assert row.to_random is None
        else:
            assert row.to_random == paired_difference(by_label[row.label], by_label[beside])
        others = [] if row.ratio is None else [r.label for r in rows if r.ratio == row.ratio and r.label != row.label]
        assert row.to_others == {label: paired_difference(by_label[row.label], by_label[label]) for label in others}
    assert rows[0].truncated > 0  # or the limit was never tested


def test_matched_budgets_hold_what_rpc_holds(problems, factory) -> None:
    rows = {row.label: row for row in run_accuracy(problems, contenders(), factory, sampling=SAMPLING)}
    for ratio in (2, 8):
        assert rows[f"h2o c={ratio}"].mean_kv_tokens == pytest.approx(rows[f"rpc c={ratio}"].mean_kv_tokens, rel=0.02)
        assert rows[f"random c={ratio}"].mean_kv_tokens == rows[f"rpc c={ratio}"].mean_kv_tokens


def test_problems_draw_independently_and_policies_alike(problems, factory) -> None:
    run_accuracy(problems, contenders()[:2], factory, samples=1, sampling=SAMPLING)
    assert len({problem_seed(3, problem) for problem in problems}) == len(problems)
    assert problem_seed(3, problems[0]) != problem_seed(4, problems[0])
    assert 0 <= problem_seed(3, problems[0]) < 2**31


@pytest.mark.parametrize("crash_after", [1, 16, 20, 55])
def test_a_run_cut_short_goes_on_and_ends_the_same(problems, factory, tmp_path: Path, crash_after: int) -> None:
    whole = run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING)
    tokens = factory.generated
    path = tmp_path / "traces.jsonl"
    factory.made.clear()
    factory.crash_after = crash_after
    crashes = 0
    while True:
        try:
            with Journal(path, FORMAT, described(problems)) as journal:
                rows = run_accuracy(
                    problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING, journal=journal
                )
            break
        except KeyboardInterrupt:
            crashes += 1
            done = [json.loads(line) for line in path.read_text().splitlines()]
            traces = [record for record in done if record["kind"] == "trace"]
            # Every finished trace was written, none twice.
            assert len(traces) == sum(engine.finished for engine in factory.made)
            assert len({(trace["row"], trace["problem"], trace["sample"]) for trace in traces}) == len(traces)
            if crashes == 3:
                factory.crash_after = None
    assert figures(rows) == figures(whole)
    # What was done was not done again: beyond the whole run's tokens there is only what was under way at each crash.
    assert factory.generated <= tokens + 3 * 5 * 450


def test_a_finished_run_asks_for_no_engine(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with Journal(path, FORMAT, described(problems)) as journal:
        first = run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING, journal=journal)
    factory.made.clear()
    with Journal(path, FORMAT, described(problems)) as journal:
        again = run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING, journal=journal)
    assert factory.made == []
    assert again == first  # the speed too: it is in the journal


def measured(path, factory, problems, samples=SAMPLES, rows=None, sampling=SAMPLING):
    """A run on a results file, as the command line does it."""
    rows = rows or contenders()
    described_now = described(problems, samples, sampling, rows)
    with Journal(path, FORMAT, described_now, may_grow=may_grow) as journal:
        return run_accuracy(problems, rows, factory, samples=samples, sampling=sampling, journal=journal)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sampling": Sampling(max_new_tokens=440, seed=4)}, r"sampling\.seed was 3, now 4"),
        ({"rows": compared_policies(["rpc", "h2o", "random"], [2, 8], interval=32, window=16)}, "interval=32"),
    ],
)
def test_results_of_other_settings_are_refused(problems, factory, tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "traces.jsonl"
    measured(path, factory, problems[:3], rows=contenders()[:2])
    before = path.read_bytes()
    with pytest.raises(LaconicError, match=says):
        measured(path, factory, problems[:3], **{"rows": contenders()[:2], **change})
    assert path.read_bytes() == before


def test_rows_of_a_selector_that_was_made_anew_are_refused(problems, factory, tmp_path: Path) -> None:
    """The file's name is the same; what it holds is not."""
    write_selector(tmp_path / "mine.safetensors", random_selector(hidden=8))
    rows = compared_policies([f"learned:{tmp_path / 'mine.safetensors'},interval=64,window=16"])
    measured(tmp_path / "traces.jsonl", factory, problems[:2], 1, rows)
    measured(tmp_path / "traces.jsonl", factory, problems[:3], 1, rows)
    write_selector(tmp_path / "mine.safetensors", random_selector(hidden=4))
    with pytest.raises(LaconicError, match=r"was .selector [0-9a-f]{12} in learned.*, now .selector [0-9a-f]{12} in "):
        measured(tmp_path / "traces.jsonl", factory, problems[:3], 1, rows)


def test_a_file_grows_by_problems_samples_and_policies(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    fixed = compared_policies(["rpc"], [2, 8], interval=64, window=16)  # nothing whose budget depends on the lengths
    whole = figures(run_accuracy(problems, fixed, factory, samples=SAMPLES, sampling=SAMPLING))
    few = figures(run_accuracy(problems[:10], fixed, factory, samples=1, sampling=SAMPLING))
    factory.made.clear()
    assert figures(measured(path, factory, problems[:10], 1, fixed[:2])) == few[:2]
    assert figures(measured(path, factory, problems[:10], 1, fixed)) == few
    measured(path, factory, problems, 1, fixed)
    assert figures(measured(path, factory, problems, SAMPLES, fixed)) == whole
    traces = [json.loads(line) for line in path.read_text().splitlines() if '"kind": "trace"' in line]
    keys = [(trace["row"], trace["problem"], trace["sample"]) for trace in traces]
    assert len(keys) == len(set(keys)) == len(fixed) * len(problems) * SAMPLES  # nothing was run twice
    factory.made.clear()
    assert figures(measured(path, factory, problems[:10], 1, fixed)) == few  # fewer are a part of what is there
    assert factory.made == []


def test_a_matched_budget_stays_as_the_file_grows(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    first = measured(path, factory, problems[:5], 1)
    grown = measured(path, factory, problems, SAMPLES)
    assert [row.policy for row in grown] == [row.policy for row in first]
    assert {row.problems for row in grown} == {40}
    fresh = run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING)
    assert [row.policy for row in fresh] != [row.policy for row in first]  # or nothing was tested


def test_a_budget_that_was_matched_on_fewer_problems_than_the_file_held_stays(
    problems, factory, tmp_path: Path
) -> None:
    """Full KV on all problems first, then a policy on some, then the same command again, and on all."""
    path = tmp_path / "traces.jsonl"
    measured(path, factory, problems, SAMPLES, contenders()[:1])
    first = measured(path, factory, problems[:5], 1)
    for some, samples in ((problems[:5], 1), (problems, SAMPLES)):
        assert [row.policy for row in measured(path, factory, some, samples)] == [row.policy for row in first]


def test_another_problem_under_a_known_id_is_refused(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    measured(path, factory, problems[:5], 1)
    before = path.read_bytes()
    other = dataclasses.replace(problems[2], answer="17")
    with pytest.raises(LaconicError, match="traces of another problem with the id p2; nothing was changed"):
        measured(path, factory, [*problems[:2], other, *problems[3:7]], 1)
    assert path.read_bytes() == before


def test_traces_of_another_budget_are_refused(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with Journal(path, FORMAT, described(problems)) as journal:
        run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING, journal=journal)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "policy" and line["row"] == "h2o c=2":
            line["policy"] = "h2o:budget=1,buffer=3"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (
        Journal(path, FORMAT, described(problems)) as journal,
        pytest.raises(LaconicError, match=r"h2o:budget=1,buffer=3 for the row h2o c=2"),
    ):
        run_accuracy(problems, contenders(), factory, samples=SAMPLES, sampling=SAMPLING, journal=journal)


def test_the_watcher_hears_of_every_trace(problems, factory) -> None:
    heard: list[Progress] = []
    run_accuracy(problems, contenders()[:2], factory, samples=2, sampling=SAMPLING, watch=heard.append)
    assert [event.done for event in heard] == list(range(1, 161))
    assert {event.total for event in heard} == {160}
    assert heard[-1].tokens == factory.generated
    assert [event.label for event in heard] == ["full"] * 80 + ["rpc c=2"] * 80


def test_token_ids_are_kept_when_asked_for(problems, factory, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    with Journal(path, FORMAT, described(problems)) as journal:
        run_accuracy(problems[:2], contenders()[:1], factory, journal=journal, keep_tokens=True)
        kept = [record for record in journal.records if record["kind"] == "trace"]
    assert [record["token_ids"] for record in kept] == [[5] * record["length"] for record in kept]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"problems": []}, "no problems"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": True}, "samples is True"),
        ({"contenders": []}, "no policies"),
        ({"contenders": compared_policies(["rpc"], [4])[1:] * 2}, "one label"),
        ({"contenders": compared_policies(["h2o"], [4])[1:]}, "run full before it"),
    ],
)
def test_bad_input_is_one_sentence(problems, factory, change: dict, word: str) -> None:
    arguments = {"problems": problems, "contenders": contenders(), "samples": 1, **change}
    with pytest.raises(LaconicError, match=word):
        run_accuracy(arguments["problems"], arguments["contenders"], factory, samples=arguments["samples"])


def test_two_problems_with_one_id_are_refused(problems, factory) -> None:
    with pytest.raises(LaconicError, match="'p0'"):
        run_accuracy([*problems, problems[0]], contenders(), factory)
