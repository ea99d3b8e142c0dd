"""Files that ship with the library: the tiny reasoner."""

from __future__ import annotations

from pathlib import Path


def reasoner_path() -> Path:
    """The directory of the bundled reasoning model, for ``from_pretrained``."""
    return Path(__file__).parent / "reasoner"
