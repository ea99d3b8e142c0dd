"""The tables of an analysis have every figure in its place."""

from __future__ import annotations

import json

import pytest

from laconic.lab.analyze.reading import WrittenTrace
from laconic.lab.analyze.run import analyse
from laconic.lab.analyze.table import analysis_tables


def test_analysis_tables_read_what_json_made_of_them() -> None:
    groups = json.loads(json.dumps(analyse([WrittenTrace(tuple([1, 2] * 60))], lengths=[64])))
    entropy, redundancy = analysis_tables({"groups": groups})
    assert list(entropy.rows[0][:3]) == ["all", "64", "1"]
    assert entropy.rows[0][3] == "1.00 / 6.00"
    assert redundancy.rows[0][:4] == ["all", "1", "120", "5.0"]
    assert redundancy.rows[0][4].startswith("80.0 [")
    assert "not with published" in redundancy.notes[0]


@pytest.mark.parametrize(
    ("problems", "said"),
    [
        ([1], ["over problems (1).", "One problem tells nothing of others: its interval is all that is possible."]),
        ([4, 4], ["over problems (4)."]),
        ([4, 9], ["over problems (4 to 9)."]),
        ([4, None], ["over traces: what names no problem counts as one of its own."]),
        (["old"], ["over traces."]),
    ],
)
def test_a_redundancy_says_what_its_interval_is_over(problems: list, said: list[str]) -> None:
    (group,) = analyse([WrittenTrace(tuple([1, 2] * 60))], lengths=[64])
    groups = [group | {"problems": count} for count in problems]
    if problems == ["old"]:
        del groups[0]["problems"]
    found = analysis_tables({"groups": groups})[1].notes[1:]
    assert list(found) == [f"In brackets: 95 % intervals {said[0]}", *said[1:]]


def test_no_length_reached_is_said() -> None:
    groups = analyse([WrittenTrace((1, 2, 3))], lengths=[64])
    entropy, redundancy = analysis_tables({"groups": groups})
    assert entropy.rows == []
    assert "No trace" in entropy.notes[0]
    assert redundancy.rows[0][4] == "–"
