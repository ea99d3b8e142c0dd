"""docs/policies.md says what is so: its examples run, its table has every policy and default."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from laconic.compress import registry

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")


def test_its_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 6
    page = types.ModuleType("policies_page")
    monkeypatch.setitem(sys.modules, "policies_page", page)
    exec(compile("\n".join(blocks), "policies.md", "exec", dont_inherit=True), page.__dict__)
    assert "use interval 1000 or 1004" in capsys.readouterr().out
    scorer = registry.get("shortkeys")().scorer
    assert scorer is not None


def test_its_table_names_every_policy_and_setting() -> None:
    rows = {
        row[0].strip(" `"): row[-1]
        for row in (line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `"))
    }
    assert set(rows) == set(list(registry._registered)[:17])
    for name, said in rows.items():
        for setting in registry.settings_of(name):
            assert f"`{setting.field}`" in said, (name, setting.field)
            if name not in ("random", "oracle") and setting.default:  # those two say "as rpc"
                after = said.split(f"`{setting.field}`")[1].split("`")[0]
                assert setting.default in after, (name, setting.field)
