"""An experiment is one folder: `laconic bench` finds what has a command, and nothing else lists it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import laconic.lab
from laconic.lab.command import experiments

BLINK = '''
"""`laconic bench blink`: a throw-away experiment."""

import typer


def bench(times: int = 2) -> None:
    """Blink."""
    typer.echo("blink " * times)
'''


def test_the_experiments_that_compare() -> None:
    assert list(experiments()) == ["accuracy", "fidelity", "paper", "parallel", "throughput", "vllm"]


def test_a_new_experiment_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in (("blink", BLINK), ("helper", "bench = None")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "command.py").write_text(source)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "__init__.py").touch()
    monkeypatch.setattr(laconic.lab, "__path__", [*laconic.lab.__path__, str(tmp_path)])
    found = experiments()
    assert list(found) == ["accuracy", "fidelity", "paper", "parallel", "throughput", "vllm", "blink"]
    app = typer.Typer()
    app.command("blink")(found["blink"])
    result = CliRunner().invoke(app, ["--times", "3"])
    assert result.stdout.split() == ["blink"] * 3
