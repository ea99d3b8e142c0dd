"""The script that measures an LLM judge runs on a small shape; what it measures at 4 B is for who has a GPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from laconic.engines.hf.shapes import parameter_count

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "llm_judge.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("llm_judge", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tiny(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tiny", "--tokens", "20", "--pairs", "3", "--batches", "1,2", "--repeats", "2", "--device", "cpu"]
    assert script.main([*arguments, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert [(row["batch"], row["shared"]) for row in record["rows"]] == [(1, False), (1, True), (2, False), (2, True)]
    assert all(len(row["samples"]) == 2 and row["judgements_a_second"] > 0 for row in record["rows"])
    alone, shared = (row["tokens_a_judgement"] for row in record["rows"][:2])
    assert (
        alone > 2 * 20 + script.QUESTION_TOKENS > shared
    )  # two excerpts and the question, or hardly more than one excerpt
    assert record["environment"]["command"].startswith("python benchmarks/llm_judge.py --tiny")
    assert str(tmp_path.parent) not in json.dumps(record)
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out


def test_the_shape_is_the_published_judge_s(script: Any) -> None:
    assert parameter_count(script.QWEN3_4B) == pytest.approx(4.02e9, rel=0.005)


def test_refuses(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--tiny", "--device", "nowhere", "--out", str(tmp_path)]) == 2
    assert "error: The device 'nowhere' can't be used here" in capsys.readouterr().err
    for wrong in (["--batches", "1,x"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            script.main(["--tiny", "--out", str(tmp_path), *wrong])
