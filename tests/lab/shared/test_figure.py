"""What all plots share: the file that they go to, and matplotlib, which may be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.lab.conftest import is_picture

from laconic.errors import LaconicError
from laconic.lab.shared import figure as module
from laconic.lab.shared.figure import count_of, figure, policy_name


def draw(path: Path) -> None:
    with figure(path, 4, 3) as (axes,):
        axes.plot([1, 2], [3, 4])


def test_a_figure_has_its_panels_and_makes_its_directory(tmp_path: Path) -> None:
    with figure(tmp_path / "new" / "plot.png", 6, 3, columns=2) as panels:
        panels[1].plot([1, 2], [3, 4])
    assert len(panels) == 2
    assert is_picture(tmp_path / "new" / "plot.png")


@pytest.mark.parametrize("name", ["plot.xyz", "plot"])
def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaconicError, match="can't be written"):
        draw(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_error_while_drawing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "plot.png", 4, 3):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.available()
    for name in [name for name in sys.modules if name == "matplotlib" or name.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LaconicError, match=r"laconic-llm\[plots\]"):
        draw(tmp_path / "plot.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not module.available()


def test_names_for_people() -> None:
    assert [policy_name(name) for name in ("full", "rpc:ratio=4,window=8", "own")] == [
        "full KV",
        "RPC ratio=4, window=8",
        "own",
    ]
    assert [count_of(number, "sample") for number in (1, 2)] == ["1 sample", "2 samples"]
