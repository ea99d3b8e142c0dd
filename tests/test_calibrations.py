"""Files of calibrations: what was written is read, what is broken is refused, and a model finds its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.calibrations import DEFAULT, FORMAT, find_calibration, place_of, read_calibration, write_calibration
from laconic.errors import LaconicError
from laconic.prune.budget import PoolBudget
from laconic.prune.strategies.auto import Auto
from tests.prune.test_calibration import calibration, check_gains


def test_a_file_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "made.json"
    write_calibration(path, calibration())
    assert read_calibration(path) == calibration()
    assert json.loads(path.read_text())["format"] == FORMAT


def test_a_models_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path))
    assert find_calibration("f" * 16) is None
    assert find_calibration(None) is None
    write_calibration(place_of("f" * 16), calibration())
    assert find_calibration("f" * 16) == tmp_path / "calibrations" / f"{'f' * 16}.json"


def test_the_one_that_ships_can_be_read_and_every_budget_buys_something() -> None:
    shipped = read_calibration(DEFAULT)
    for traces in range(1, 65):
        assert Auto(64, shipped, f"{traces}x").chosen().name != "auto"
    # What it buys was right at least as often as the plain vote of as many traces.
    for row in shipped.rows:
        if row.gain is None:
            assert shipped.choose(PoolBudget(traces=row.traces)).accuracy >= row.accuracy


def test_the_gains_of_the_one_that_ships_are_to_its_own_plain_votes() -> None:
    check_gains(read_calibration(DEFAULT))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) // 2], "is no whole calibration"),
        (lambda text: "[]", "is no calibration of the format"),
        (lambda text: text.replace(FORMAT, "laconic.selector/1"), "is no calibration of the format"),
        (lambda text: text.replace('"rows"', '"rwos"'), "lacks what a calibration has"),
        (lambda text: text.replace('"accuracy"', '"acuracy"'), "lacks what a calibration has"),
        (lambda text: text.replace('"weights"', '"wieghts"'), "lacks what a calibration has"),
        (lambda text: text.replace('"problems": 60', '"problems": 6'), "has 6 problems, and at least 50 are needed"),
        (lambda text: text.replace('"traces": 1.0', '"traces": "one"'), "traces is 'one'"),
    ],
)
def test_what_is_no_calibration_is_one_sentence(tmp_path: Path, change: Any, says: str) -> None:
    path = tmp_path / "made.json"
    write_calibration(path, calibration())
    path.write_text(change(path.read_text()))
    with pytest.raises(LaconicError) as error:
        read_calibration(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="there is no calibration file"):
        read_calibration(tmp_path / "nothing.json")
