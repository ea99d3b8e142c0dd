"""The site from the repository's pages: every page is in its menu, every link leads somewhere on it. `make site` builds it."""

from __future__ import annotations

import importlib
import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import laconic

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def menu(entries: list[Any]) -> list[str]:
    """The pages of a nav, in order."""
    found: list[str] = []
    for entry in entries:
        (value,) = entry.values()
        found += menu(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_in_the_menu_once(hooks: ModuleType) -> None:
    pages = menu(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(pages) == len(set(pages))
    assert set(pages) == {path.name for path in DOCS} | {hooks.place_on_site(path) for path in hooks.FIRST}


def test_nothing_is_taken_from_elsewhere() -> None:
    """No fonts, no scripts of other hosts."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert "http" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "text", "site"),
    [
        ("README.md", "[a](docs/policies.md#x)", "[a](policies.md#x)"),
        ("README.md", "![a](benchmarks/cpu-kv/plot.png)", "![a](benchmarks/cpu-kv/plot.png)"),
        ("docs/serve.md", "[a](../deploy/Dockerfile)", "[a](deploy/Dockerfile)"),
        ("docs/serve.md", "[a](scale.md)", "[a](scale.md)"),
        ("docs/benchmarks.md", "[a](../README.md)", "[a](index.md)"),
        ("benchmarks/README.md", "[a](../docs/benchmarks.md#fidelity)", "[a](../benchmarks.md#fidelity)"),
        ("training/README.md", "[a](../CONTRIBUTING.md)", "[a](../CONTRIBUTING.md)"),
        ("docs/serve.md", "[a](https://a.org/x.md) [b](#c)", "[a](https://a.org/x.md) [b](#c)"),
        ("docs/serve.md", "[a](no-such.md)", "[a](no-such.md)"),
    ],
)
def test_links_move_from_the_repository_to_the_site(hooks: ModuleType, page: str, text: str, site: str) -> None:
    assert hooks.rewritten(page, text) == site


def test_every_rewritten_link_leads_to_a_file_of_the_site(hooks: ModuleType) -> None:
    outside = hooks.linked_files()
    assert {"README.md", "benchmarks/README.md", "examples/own_policy.py", "benchmarks/cpu-kv/table.md"} <= set(outside)
    held = {hooks.place_on_site(path) for path in outside}
    held |= {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    seen = 0
    for path in [*(f"docs/{page.name}" for page in DOCS), *(path for path in outside if path.endswith(".md"))]:
        here = posixpath.dirname(hooks.place_on_site(path))
        text = hooks.rewritten(path, (ROOT / path).read_text(encoding="utf-8"))
        for _, link, _ in hooks.LINK.findall(hooks._without_code(text)):
            if ":" not in link:
                seen += 1
                assert posixpath.normpath(posixpath.join(here, link)) in held, f"{path}: {link}"
    assert seen > 100


def test_the_interfaces_page_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {path.rpartition(".")[2] for path in named} >= set(laconic.__all__) - {"__version__"} | {"VLLMEngine"}
    for path in named:
        module, _, name = path.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert (found.__module__, found.__qualname__) == (module, name), f"{path} is defined elsewhere"
        assert found.__doc__, path
