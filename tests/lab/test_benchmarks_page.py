"""docs/benchmarks.md and benchmarks/README.md say what is true: their Python runs, their commands parse, their names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from laconic.engines.hf.shapes import SHAPES
from laconic.lab.throughput.presets import PRESETS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (code,) = blocks(PAGES[0], "python")
        exec(compile(code, "benchmarks.md", "exec"), {})
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" Interval")[0] for line in lines] == ["full", "rpc c=4", "random c=4"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_presets_shapes_and_policies_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"--preset ([\w-]+)", text)
    assert named
    assert set(named) <= set(PRESETS)
    for block in blocks(page, "bash"):
        for command in block.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            for option in {"--shape", "--shapes"} & set(words):
                assert words[words.index(option) + 1] in SHAPES
    if page == PAGES[0]:
        assert all(f"`{name}`" in text for name in SHAPES)
        assert all(name in text for name in PRESETS)


def test_every_recorded_directory_has_its_command_in_the_script() -> None:
    table = re.findall(r"^\| `([\w-]+)/` \|[^|]+\| `([^`]+)`", PAGES[1].read_text(encoding="utf-8"), re.MULTILINE)
    script = (ROOT / "benchmarks" / "record.sh").read_text(encoding="utf-8")
    assert len(table) >= 6
    for name, command in table:
        if "--preset" in command:
            assert command == f"bench throughput --preset {name}"
            assert name in script
        else:
            assert f"{name}) laconic {command} --out benchmarks/{name} ;;" in script
