"""docs/draw_methods.py reads off what the policies' own arithmetic says, and its pictures are there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from laconic.compress import RPC

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_methods", DOCS / "draw_methods.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_drawn_is_what_the_schedules_say(drawing: ModuleType, tmp_path: Path) -> None:
    shares = drawing.held_over_time(most=100)
    assert list(shares) == ["full", *drawing.POLICIES]
    assert all(held.shape == (101, 100) and held[0].sum() == 0 for held in shares.values())
    assert torch.equal(shares["full"], torch.ones(101, 100).tril(-1))
    schedule = RPC(interval=drawing.INTERVAL, ratio=drawing.RATIO, window=drawing.WINDOW).schedule
    sizes = [schedule.physical(count, prompt=0) for count in range(101)]
    assert sizes[80] < sizes[79]  # 64 + 16: the first compression
    for name in ("rpc", "learned", "random"):
        assert shares[name].sum(1).round().int().tolist() == sizes, name
    streaming = shares["streamingllm"][100].bool().nonzero().flatten().tolist()
    assert streaming[:4] == [0, 1, 2, 3]
    assert streaming[4:] == list(range(100 - len(streaming) + 4, 100))
    drawing.draw_held(shares, tmp_path / "held.png")
    drawing.draw_size(shares, tmp_path / "size.png")
    assert (tmp_path / "held.png").stat().st_size > 10_000


def test_the_pictures_are_there_and_shown(drawing: ModuleType) -> None:
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert {path.name for path in drawing.FOLDER.iterdir()} == set(drawing.PICTURES)
    for name in drawing.PICTURES:
        assert f"](pictures/{name})" in page
        assert (drawing.FOLDER / name).stat().st_size < 100_000
