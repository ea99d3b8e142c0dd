"""docs/learning.md says what is so: its recipe table has every setting and default, its Python block runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from laconic.assets import reasoner_path
from laconic.compress.selector import FEATURES
from laconic.engines.hf import HFEngine, load
from laconic.lab.learn.check import RATIO
from laconic.lab.learn.recipe import SelectorRecipe
from laconic.lab.learn.traces import CHECKED
from laconic.settings import typed

PAGE = (Path(__file__).parents[3] / "docs" / "learning.md").read_text(encoding="utf-8")


def test_its_table_has_every_setting_and_default() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    told: dict[str, str] = {}
    for names, defaults, _ in rows:
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.replace("`", "").split(","), strict=True):
            told[name] = default.strip()
    settings = {f.name: typed(f.default) for f in dataclasses.fields(SelectorRecipe) if f.init and f.name != "name"}
    assert told == settings
    assert all(f"`{name}`" in PAGE for name in (*FEATURES, "group", "layer"))
    assert f"({CHECKED}, or `--check FILE`): KL to full KV at ratio {RATIO}" in PAGE


def test_its_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = dict(zip(("model", "tokenizer"), load(reasoner_path()), strict=True))
    exec(compile(code, "learning.md", "exec"), names)
    assert isinstance(names["engine"], HFEngine)
