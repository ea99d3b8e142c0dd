"""What mkdocs needs to show a repository whose pages are read as plain files too.

Links in the pages are relative to where they stand in the repository. The site has README.md as its first page, docs/ at its
top, and everything that a page links to elsewhere (a table, a picture, a script) under its own path. So the files that are
linked to are added to the site, those that are pages with what they link to in turn, and links are rewritten from one tree to
the other.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FIRST = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "training/README.md")
"""Pages outside of docs/ that the site has whether or not they are linked to."""


def place_on_site(path: str) -> str:
    """Where a file of the repository is on the site: docs/ is its top, README.md its first page."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/")


def targets(path: str, text: str) -> dict[str, str]:
    """The relative links of a page to files that exist: as written -> path in the repository."""
    found = {}
    for _, link, _ in LINK.findall(_without_code(text)):
        if ":" in link or link.startswith("/"):
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if (ROOT / target).is_file():
            found[link] = target
    return found


def rewritten(path: str, text: str) -> str:
    """The page's text with its links as they have to be on the site."""
    known = targets(path, text)
    here = posixpath.dirname(place_on_site(path)) or "."

    def moved(match: re.Match[str]) -> str:
        link = match[2]
        new = posixpath.relpath(place_on_site(known[link]), here) if link in known else link
        return f"{match[1]}{new}{match[3]}"

    return LINK.sub(moved, text)


def linked_files() -> list[str]:
    """Paths in the repository, outside of docs/, of all that the site has to hold."""
    todo = [*FIRST, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
    found: dict[str, None] = {}
    while todo:
        path = todo.pop(0)
        if path in found:
            continue
        found[path] = None
        if path.endswith(".md"):
            todo += targets(path, (ROOT / path).read_text(encoding="utf-8")).values()
    return [path for path in found if not path.startswith("docs/")]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def on_files(files: Any, *, config: Any) -> Any:
    """Add what is linked to, to mkdocs' Files."""
    from mkdocs.structure.files import File, InclusionLevel  # not installed where the tests look at the rest

    for path in linked_files():
        added = File.generated(config, place_on_site(path), abs_src_path=str(ROOT / path))
        # Said by hand, or names that begin with a dot would be left out, and every table would have to be in the menu.
        added.inclusion = InclusionLevel.INCLUDED if path in FIRST else InclusionLevel.NOT_IN_NAV
        files.append(added)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite the links of one page."""
    source = Path(page.file.abs_src_path).resolve().relative_to(ROOT).as_posix()
    return rewritten(source, markdown)
