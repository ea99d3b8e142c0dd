"""docs/pruning.md says what is so: its examples run, its table has every strategy, setting and default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from laconic.prune import excerpts
from laconic.prune.strategies import registry
from laconic.prune.strategies.run import MOST_TRACES

PAGE = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")


def test_its_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {"__name__": "pruning_page"}
    for block in blocks:
        exec(compile(block, "pruning.md", "exec", dont_inherit=True), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 11
    assert lines[9].startswith("PricedVote(n=16, ")
    assert lines[10].startswith("chosen for 6 traces a problem: priced-vote:")
    del lines[9:11]
    assert set(lines[9:-1]) <= {f"a trace of problem {p} has ended" for p in (0, 1)}
    assert lines[-1].startswith("[(")
    assert [line.split()[0] for line in lines[:8]] == list("01234567")
    assert "Tokens(generated=" in lines[8]


def test_its_table_names_every_strategy_and_setting() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (.*) \|$", PAGE, flags=re.MULTILINE))
    assert list(rows)[: len(registry._CLASSES)] == list(registry._CLASSES)
    for name in registry._CLASSES:
        said = dict(re.findall(r"`(\w+)` ([^,]+)", rows[name]))
        for setting in registry.settings(name):
            assert said.pop(setting.field).split()[0] == setting.default, (name, setting.field)
        assert not said


def test_it_names_the_limits_and_kinds() -> None:
    assert f"n is 1 to {MOST_TRACES:,}." in PAGE
    for kind in ("tokens:K", "words:K", "words:K:SPAN", "kept", "kept:K"):
        assert kind in excerpts.KINDS
        assert f"`{kind}`" in PAGE
    listed = PAGE[PAGE.index("turns (") : PAGE.index("takes another list")]
    for words in re.findall(r"\(([a-z, \n]+)\)", listed):
        assert {word.strip() for word in words.split(",")} <= excerpts.REASONING_WORDS
