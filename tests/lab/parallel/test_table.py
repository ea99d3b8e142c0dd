"""Tables and the plot of parallel thinking: the cells against the rows they came from, the figure's own artists."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from laconic.cli.tables import MISSING
from laconic.errors import LaconicError
from laconic.lab.parallel.plot import parallel_plot
from laconic.lab.parallel.table import compression_name, name_of, parallel_tables

POLICIES = ("none", "rpc:ratio=2", "rpc:ratio=4")
VOTE = "self-consistency:early_end=false"
FAMILIES = {  # (strategy, judge, share of cons@n's tokens, accuracy)
    "pass@1": (VOTE, None, 0.016, 0.66),
    "cons": (VOTE, None, 1.0, 0.90),
    "cons, early end": ("self-consistency:early_end=true", None, 0.98, 0.90),
    "deepconf:low": ("deepconf:low", None, 0.30, 0.87),
    "deepconf:high": ("deepconf:high", None, 0.8, 0.89),
    "deepprune, probe": ("deepprune", "probe", 0.21, 0.86),
    "deepprune, jaccard": ("deepprune", "jaccard", 0.21, 0.86),
    "deepprune, random": ("deepprune", "random", 0.2, 0.85),
    "deepprune, perfect": ("deepprune", "perfect", 0.22, 0.87),
}


def row(block: int, family: str, n: int, policy: int, live: bool = True) -> dict:
    strategy, judge, share, accuracy = FAMILIES[family]
    share, accuracy = share * n / block, accuracy - 0.03 * policy
    agreement = {"runs": 8, "answers": 7, "traces": 8 * n, "lengths": 8 * n - 3, "fates": 8 * n}
    return {
        "block": block,
        "label": f"{family} n={n} {POLICIES[policy]}",
        "family": family,
        "n": n,
        "compress": POLICIES[policy],
        "strategy": strategy,
        "judge": judge,
        "problems": 100,
        "accuracy": {"mean": accuracy, "low": accuracy - 0.06, "high": accuracy + 0.05},
        "difference": None if family == "cons" and policy == 0 else {"mean": -0.012, "low": -0.034, "high": 0.01},
        "equal_cost": None if family in ("pass@1", "cons") else {"mean": 0.011, "low": -0.004, "high": 0.026},
        "trace_tokens": 30000 * share,
        "judge_tokens": 123.0 if judge == "probe" else 0.0,
        "total_tokens": 30000 * share + (123.0 if judge == "probe" else 0.0),
        "token_share": share,
        "kv_token_steps": 9e6 * share,
        "kv_share": share / 2,
        "steps": 480 / share,
        "step_share": 1 / share,
        "live": {
            "problems": 8,
            "seconds": {"explore": 1.25, "finish": 2.0, "total": 3.25},
            "ratio": share,
            "peak_kv_bytes": 3 * 2**20,
            "agreement": agreement | {"tokens": 990.0, "replayed_tokens": 1000.0},
        }
        if live
        else None,
    }


def report(live: bool = True, blocks=(16, 64)) -> dict:
    rows = [
        row(block, family, n, policy, live)
        for block in blocks
        for policy in range(3)
        for family, n in [("cons", 4), ("cons", 8), *((family, block) for family in FAMILIES)]
    ]
    return {
        "rows": rows,
        "settings": {"model": {"name": "bundled"}},
        "machine": {"cpu": "A CPU", "threads": 1},
        "agreement": rows[0]["live"]["agreement"] if live else None,
    }


def test_two_tables_for_each_number_of_traces() -> None:
    tables = parallel_tables(report())
    assert [table.title.partition(":")[0] for table in tables] == [
        "n = 16, replayed", "n = 16, live", "n = 64, replayed", "n = 64, live",
    ]  # fmt: skip
    assert all(len(table.rows) == 33 for table in tables)
    cells = {tuple(row[:2]): row[2:] for row in tables[2].rows}
    assert cells["DeepPrune, probe", "RPC c=2"] == [
        "83.0 [77.0, 88.0]", "-1.2 [-3.4, +1.0]", "+1.1 [-0.4, +2.6]", "6,300", "123", "6,423", "21.0", "1,890,000", "10.5",
        "2,286", "476.2",
    ]  # fmt: skip
    assert cells["cons@64", "full KV"][1] == "–"
    assert cells["cons@64", "full KV"][2] == cells["pass@1", "RPC c=2"][2] == "–"
    assert cells["cons@4", "full KV"][6] == "6.2"  # 4 of 64
    assert "of cons@64, %" in tables[2].titles
    timed = {tuple(row[:2]): row[2:] for row in tables[3].rows}
    assert timed["DeepConf low", "RPC c=4"] == [
        "1.25", "–", "2.00", "–", "3.25", "0.30x", "3.00 MiB", "7/8", "509/512",
    ]  # fmt: skip
    assert "tokens 0.990 of the replayed ones" in " ".join(tables[3].notes)


def test_how_often_the_answer_is_that_of_all() -> None:
    with_it = report(live=False, blocks=(16,))
    for each in with_it["rows"]:
        each["agrees"] = {"mean": 0.875, "low": 0.8, "high": 0.9}
        each["agrees_equal_cost"] = each["equal_cost"]
    table = parallel_tables(with_it)[0]
    column = [name[0] for name in table.columns].index("agrees with all 16, %")
    assert {told[column] for told in table.rows} == {"87.5 [80.0, 90.0]"}
    assert {told[column + 1] for told in table.rows} == {MISSING, "+1.1 [-0.4, +2.6]"}
    assert any("Agrees with all 16" in note for note in table.notes)
    assert "ties by confidence" not in table.titles
    for each in with_it["rows"]:
        each["agrees_equal_cost_by_confidence"] = each["equal_cost"] and {"mean": -0.02, "low": -0.03, "high": -0.01}
    table = parallel_tables(with_it)[0]
    assert table.titles[column + 1 : column + 3] == ["to the vote of equal cost", "ties by confidence"]
    assert {told[column + 2] for told in table.rows} == {MISSING, "-2.0 [-3.0, -1.0]"}
    assert all(len(told) == len(table.columns) for told in table.rows)
    before = parallel_tables(report(live=False, blocks=(16,)))[0]
    assert not any("agrees" in name[0] for name in before.columns)


def test_rows_of_before_the_vote_of_equal_cost() -> None:
    old = report()
    for row in old["rows"]:
        del row["equal_cost"]
    assert {row[4] for row in parallel_tables(old)[0].rows} == {"–"}


def test_without_live_runs_there_is_no_live_table() -> None:
    assert len(parallel_tables(report(live=False))) == 2


def test_names_for_people() -> None:
    assert name_of({"family": "cons, early end", "n": 16}) == "cons@16, early end"
    assert name_of({"family": "pass@1", "n": 16}) == "pass@1"
    assert name_of({"family": "deepprune:K2=4, random:p=0.5,seed=0", "n": 4}) == "DeepPrune K2=4, random:p=0.5,seed=0"
    assert compression_name("none") == "full KV"
    assert compression_name("rkv:budget=96,buffer=32") == "R-KV budget=96, buffer=32"
    assert compression_name("rpc") == "RPC"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The figure of a report, as it was saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *args: Any) -> None:
        saved.append(self)
        save(self, *args)

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(of: dict) -> Figure:
        parallel_plot(of, tmp_path / "plot.png")
        assert imread(tmp_path / "plot.png").std() > 0.01
        return saved[-1]

    return draw


def test_the_plot_has_a_point_a_row_and_a_panel_an_n(drawn) -> None:
    of = report()
    panels = drawn(of).axes
    assert len(panels) == 2
    for axes, block in zip(panels, (16, 64), strict=True):
        points = [c.lines[0] for c in axes.containers]
        rows = [r for r in of["rows"] if r["block"] == block]
        assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [
            (pytest.approx(100 * r["token_share"]), pytest.approx(100 * r["accuracy"]["mean"])) for r in rows
        ]
        markers = {r["compress"]: p.get_marker() for r, p in zip(rows, points, strict=True)}
        assert len(set(markers.values())) == 3
        assert {p.get_marker() for r, p in zip(rows, points, strict=True) if r["compress"] == "none"} == {
            markers["none"]
        }
        colours: dict[str, set] = {}
        for r, p in zip(rows, points, strict=True):
            key = r["judge"] or r["strategy"].partition(":")[0]
            colours.setdefault(key, set()).add(p.get_color())
        assert all(len(found) == 1 for found in colours.values())
        assert len({next(iter(found)) for found in colours.values()}) == len(colours) == 6
        assert axes.get_xscale() == "log"
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["full KV", "RPC c=2", "RPC c=4"]


def test_the_plain_votes_are_a_curve_in_each_panel(drawn) -> None:
    curve = [
        {"tokens": 500.0 * k, "accuracy": 0.5 + 0.001 * k, "by_confidence": 0.52 + 0.001 * k} for k in range(1, 65)
    ]
    panels = drawn({**report(), "plain": curve}).axes
    for axes, block in zip(panels, (16, 64), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        whole = next(r for r in report()["rows"] if (r["family"], r["n"], r["block"]) == ("cons", block, block))
        for name, key in (("cons@k", "accuracy"), ("cons@k, ties by confidence", "by_confidence")):
            assert list(lines[name].get_ydata()) == pytest.approx([100 * vote[key] for vote in curve[:block]])
            assert list(lines[name].get_xdata()) == pytest.approx(
                [100 * vote["tokens"] / whole["total_tokens"] for vote in curve[:block]]
            )
    without = drawn({**report(), "plain": [{**vote, "by_confidence": None} for vote in curve]}).axes[0]
    assert "cons@k, ties by confidence" not in {line.get_label() for line in without.get_lines()}


def test_names_stand_beside_their_points_and_cover_nothing(drawn) -> None:
    figure = drawn(report())
    for axes, n in zip(figure.axes, (16, 64), strict=True):
        names = {text.get_text(): text for text in axes.texts}
        assert set(names) == {
            "pass@1", "cons@4", "cons@8", f"cons@{n}", f"cons@{n}, early end", "DeepConf low", "DeepConf high",
            "DeepPrune, probe", "DeepPrune, jaccard", "DeepPrune, random", "DeepPrune, perfect",
        }  # fmt: skip
        # Of the text alone: an annotation's own box reaches to the mark where a line leads there.
        boxes = {name: Text.get_window_extent(text) for name, text in names.items()}
        for (one, a), (other, b) in combinations(boxes.items(), 2):
            assert not a.overlaps(b), (one, other)
        marks = [axes.transData.transform(c.lines[0].get_xydata()[0]) for c in axes.containers]
        for name, box in boxes.items():
            assert not any(box.contains(*mark) for mark in marks), name
            assert axes.bbox.contains(box.x0, box.y0), name
            assert axes.bbox.contains(box.x1, box.y1), name


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="no rows"):
        parallel_plot({"rows": []}, tmp_path / "plot.png")
