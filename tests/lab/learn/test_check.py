"""The check: figures are those of the fidelity run, and nothing is claimed that they don't show."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines.hf.families import family
from tests.lab.learn.made import made_traces
from tests.reference.selectors import selector_for

from laconic.lab.fidelity.contenders import contenders
from laconic.lab.fidelity.run import run_fidelity
from laconic.lab.fidelity.traces import ForcedTrace
from laconic.lab.learn import check as checking
from laconic.lab.learn.check import CheckCell, SelectorCheck, check_on
from laconic.lab.learn.table import check_table
from laconic.selectors import write_selector
from laconic.statistics import Interval

CELL = CheckCell(16, 8)
POLICIES = ("learned", "rpc", "rkv", "random", "hindsight")


@pytest.mark.parametrize(
    ("lengths", "interval", "window"),
    [([300] * 5, 64, 16), ([100, 490, 500], 64, 32 // 2), ([520] * 3, 128, 32), ([30], 32, 8), ([32768] * 2, 4096, 32)],
)
def test_a_schedule_that_compresses_a_median_trace_about_four_times(
    lengths: list[int], interval: int, window: int
) -> None:
    assert CheckCell.of(lengths) == CheckCell(interval, window)


def test_which_traces_are_compressed() -> None:
    assert [length for length in range(20, 30) if CELL.compresses(length)] == [26, 27, 28, 29]


@pytest.mark.parametrize("per_head", [False, True])
def test_figures_are_those_of_the_fidelity_run(per_head: bool, tmp_path: Path) -> None:
    model, traces = family("llama"), made_traces([60, 20, 75, 44], problems=4)
    path = tmp_path / "one, with a comma.safetensors"
    write_selector(path, selector_for(model, per_head))
    found = check_on(model, path, traces, tmp_path / "check", CELL)
    assert found is not None
    assert tuple(found.rows) == POLICIES
    assert found.traces == 3  # one ends before anything is compressed
    forced = [ForcedTrace(f"{t.problem}/0", t.problem, t.prompt_ids, t.token_ids) for t in traces if t.problem != "p1"]
    names = ["rpc", "rkv", "random", "hindsight:aggregation=group" if per_head else "hindsight"]
    wanted = run_fidelity(model, forced, contenders(names, [4], [16], [8]))
    for name, row in zip(names, wanted, strict=True):
        assert found.rows[name.partition(":")[0]].kl == row.kl
    assert set(found.differences) == {"rpc", "rkv", "random"}
    for name, difference in found.differences.items():
        gap = found.rows["learned"].kl["mean"].mean - found.rows[name].kl["mean"].mean
        assert difference.mean == pytest.approx(gap, abs=1e-5)
    again = check_on(model, path, traces, tmp_path / "check", CELL)
    assert again is not None
    assert again.to_json() == found.to_json()


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, traces = family("llama"), made_traces([60, 75])
    write_selector(tmp_path / "one.safetensors", selector_for(model))
    found = check_on(model, tmp_path / "one.safetensors", traces, tmp_path, CELL)
    monkeypatch.setattr("laconic.lab.fidelity.run.measure", lambda *given: pytest.fail("fed again"))
    again = check_on(model, tmp_path / "one.safetensors", traces, tmp_path, CELL)
    assert found is not None
    assert again is not None
    assert again.to_json() == found.to_json()


def test_no_trace_is_long_enough(tmp_path: Path) -> None:
    write_selector(tmp_path / "one.safetensors", selector_for(family("llama")))
    assert check_on(family("llama"), tmp_path / "one.safetensors", made_traces([25, 20]), tmp_path, CELL) is None


def claimed(rkv: Interval, random: Interval | None = None) -> SelectorCheck:
    lower = Interval(-0.3, -0.4, -0.2)
    return SelectorCheck(CELL, 16, {}, {"rpc": lower, "rkv": rkv, "random": random or lower})


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (claimed(Interval(-0.1, -0.15, -0.01)), "closer to full KV than rpc, rkv and random on 16 traces it has not"),
        (claimed(Interval(-0.1, -0.21, 0.0)), "NOT shown to be better than rkv on 16 traces it has not learned from"),
        (claimed(Interval(0.1, 0.05, 0.2)), "NOT shown to be better than rkv on 16 traces"),
        (claimed(Interval(-0.1, float("-inf"), float("inf"))), "NOT shown to be better than rkv on"),
        (claimed(Interval(-0.1, float("nan"), float("nan"))), "NOT shown to be better than rkv on"),
        (claimed(Interval(0.1, 0, 0.2), Interval(0, -1, 1)), "NOT shown to be better than rkv and random on"),
    ],
)
def test_nothing_is_claimed_that_the_figures_do_not_show(check: SelectorCheck, said: str) -> None:
    assert said in check.sentence()
    assert check.to_json()["better"] == ("NOT" not in said)


def test_the_table_has_the_best_first(tmp_path: Path) -> None:
    model, traces = family("llama"), made_traces([60, 75, 90])
    write_selector(tmp_path / "one.safetensors", selector_for(model))
    found = check_on(model, tmp_path / "one.safetensors", traces, tmp_path, CELL)
    assert found is not None
    table = check_table(found)
    assert "3 traces, ratio 4, interval 16, window 8" in table.title
    names = [row[0] for row in table.rows]
    assert sorted(names) == sorted(POLICIES)
    kl = [found.rows[name].kl["mean"].mean for name in names]
    assert kl == sorted(kl)
    assert checking.RIVALS == ("rpc", "rkv", "random")
