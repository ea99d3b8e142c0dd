"""One word, one thing: class names are unique over the package, and the glossary of docs/design.md stays short."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Names that two classes share, and why. May only shrink: an entry that is no longer needed fails.
SHARED: dict[str, str] = {}
MOST_WORDS = 30


def public_classes() -> dict[str, list[str]]:
    """Where each public class name is defined at a module's top level."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src" / "laconic").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    return found


def glossary() -> list[str]:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = page.split("## Glossary\n")[1].split("\n## ")[0]
    return re.findall(r"^\| ([a-z -]+) \| [^|]+ \|$", section, re.MULTILINE)[1:]  # without the head


def test_one_name_is_one_class() -> None:
    classes = public_classes()
    assert len(classes) > 100
    shared = {name: places for name, places in classes.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED} == {}
    assert set(SHARED) - set(shared) == set(), "no longer shared: take these off the list"


def test_the_glossary_names_each_word_once_and_is_short() -> None:
    words = glossary()
    assert "policy" in words
    assert "journal" in words
    assert len(words) == len(set(words))
    assert len(words) <= MOST_WORDS
