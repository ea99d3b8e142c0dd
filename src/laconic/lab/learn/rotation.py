"""Which features of a key can be read, by the rotation that was found."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.engines.hf.found_rotation import FoundRotation


def names_of(features: Sequence[str], found: FoundRotation) -> tuple[str, ...]:
    """The features that can be read: without `key` where no rotation fits; its size, at least, needs none."""
    return tuple(features) if found.fits else tuple(name for name in features if name != "key") or ("value", "size")
