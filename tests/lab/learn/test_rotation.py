"""Which features of a key are read."""

from __future__ import annotations

import torch

from laconic.compress import Rotation
from laconic.engines.hf.found_rotation import FoundRotation
from laconic.lab.learn.rotation import names_of


def test_keys_are_not_read_where_no_rotation_fits() -> None:
    found = FoundRotation(None, False)
    assert names_of(("key", "value"), found) == ("value",)
    assert names_of(("key",), found) == ("value", "size")


def test_what_is_read_otherwise_is_what_was_asked_for() -> None:
    for found in (FoundRotation(Rotation(torch.tensor([1.0])), True), FoundRotation(None, True)):
        assert names_of(("size", "key"), found) == ("size", "key")
