"""n > 1 at temperature 0: every command that asks for several traces says so, on one line, and runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.messages import print_warnings
from laconic.errors import LaconicWarning

LINE = "warning: temperature is 0, at which all traces of a problem are the same; expected temperature above 0, or one trace"


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{a} plus b ?", "answer": a}) + "\n" for a in "12"))
    return path


def told(result: Any) -> list[str]:
    assert result.exit_code in (0, 1), result.output
    return [line for line in result.stderr.splitlines() if "warning" in line.lower()]


@pytest.mark.parametrize(("temperature", "n", "lines"), [(0, 2, [LINE]), (0, 1, []), (1, 2, [])])
def test_solve_and_collect(
    invoke: Any, tiny: Path, problem_file: Path, tmp_path: Path, temperature: int, n: int, lines: list[str]
) -> None:
    common = ["-m", tiny, "-n", n, "--temperature", temperature, "--max-new-tokens", 4]
    assert told(invoke("solve", "1 plus 2 ?", "-s", "self-consistency", *common)) == lines
    assert told(invoke("collect", "--source", problem_file, "-o", tmp_path / "t.jsonl", *common)) == lines


def test_both_benchmarks(invoke: Any, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    common = ["-m", tiny, "--source", problem_file, "--temperature", 0, "--max-new-tokens", 4, "--no-plot"]
    result = invoke("bench", "accuracy", *common, "--n", 2, "-p", "full", "-o", tmp_path / "a")
    assert told(result) == [LINE]
    few = ["--n", "2,3", "--few", "2", "--policies", "none", "--strategies", "deepconf:low,window=2", "--timed", 1]
    assert told(invoke("bench", "parallel", *common, *few, "-o", tmp_path / "p")) == [LINE]


def test_others_warnings_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        with print_warnings():
            warnings.warn("theirs", DeprecationWarning, stacklevel=1)
            warnings.warn("ours", LaconicWarning, stacklevel=1)
            warnings.warn("ours", LaconicWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="theirs"):
        warn()
    assert capsys.readouterr().err == "warning: ours\n"
