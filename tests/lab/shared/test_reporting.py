"""Where results go: files first, then the terminal; and the bar's column of the time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from laconic.cli import tables
from laconic.cli.progress import ProgressBar
from laconic.cli.tables import Table
from laconic.errors import LaconicError
from laconic.lab.shared import reporting


@pytest.mark.parametrize("as_json", [False, True])
def test_results_are_on_disk_before_anything_is_printed(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise UnicodeEncodeError("ascii", "Δ", 0, 1, "a narrow terminal")

    monkeypatch.setattr(typer, "echo", broken)
    monkeypatch.setattr(tables, "print_tables", broken)
    table = Table("A table", (("a", "left"), ("Δ", "right")), (("1", "2"),))
    with pytest.raises(UnicodeEncodeError):
        reporting.write_report({"Δ": 1}, [table], None, tmp_path / "new" / "out", False, as_json)
    assert json.loads((tmp_path / "new" / "out" / "results.json").read_text(encoding="utf-8")) == {"Δ": 1}
    assert "Δ" in (tmp_path / "new" / "out" / "table.md").read_text(encoding="utf-8")


def test_json_on_a_terminal_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    reporting.write_report({"Δ": "é"}, [], None, None, False, True)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"Δ": "é"}


def test_results_never_go_into_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(LaconicError, match="is a directory"):
        reporting.write_report({}, [], None, tmp_path, False, True)


def test_a_full_bar_tells_what_it_took_and_not_that_it_is_left() -> None:
    bar = ProgressBar()
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar.update("traces", 1, 2)
    screen.print(bar.progress.get_renderable())
    assert " left " in screen.file.getvalue()  # type: ignore[attr-defined]
    bar.update("traces", 2, 2)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    screen.print(bar.progress.get_renderable())
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert " took " in said
    assert "left" not in said
