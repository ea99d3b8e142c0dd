"""docs/collect.md says what is so: its Python runs on a file that the command wrote, its table has every field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laconic.engines.base import Sampling
from laconic.lab.collect.run import TraceProvenance
from laconic.traces import read_traces

PAGE = (Path(__file__).parents[3] / "docs" / "collect.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke) -> Path:
    monkeypatch.chdir(tmp_path)
    result = invoke(
        "collect", "-o", "traces.jsonl", "-n", 4, "--problems", 2, "--max-new-tokens", 40, "--confidence-top-k", 2
    )
    assert result.exit_code == 0, result.output
    return tmp_path / "traces.jsonl"


def test_its_python_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "collect.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "no broken lines"
    assert len(said) == 4
    lengths = json.loads(said[-1].rpartition(" ")[0])
    records = read_traces(here).records
    assert lengths[:3] == [len(record.token_ids) for record in records[:3]]
    assert lengths[3] in (20, 21)


def test_its_table_names_every_field_and_setting(here: Path) -> None:
    record = json.loads(here.read_text().splitlines()[1])
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `")]
    assert [name for names, _ in rows for name in re.findall(r"`(\w+)`", names)] == list(record)
    said = {names.strip(" `"): meaning for names, meaning in rows}
    settings = TraceProvenance("m", "w", "d", "t", "p", "s").line(Sampling())
    assert list(record["settings"]) == list(settings) == re.findall(r"`(\w+)`", said["settings"])
    assert list(record["kv"]) == re.findall(r"`(\w+)`", said["kv"])
