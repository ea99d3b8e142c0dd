"""A fingerprint goes by the weights: not by where they lie, but by any change that training would make."""

from __future__ import annotations

import copy

import torch
from torch import nn

from laconic.fingerprint import SAMPLED, fingerprint, weights_fingerprint


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 200), nn.Linear(200, 40))


def test_the_same_weights_have_the_same_one() -> None:
    assert fingerprint(model()) == fingerprint(copy.deepcopy(model()))
    assert len(fingerprint(model())) == 16


def test_other_weights_shapes_formats_and_names_have_another() -> None:
    original = model()
    changed = model()
    with torch.no_grad():
        changed.get_parameter("1.weight")[0, 0] += 1e-3
    half = model().to(torch.bfloat16)
    first = nn.Linear(8, 200)
    turned = nn.Sequential(first, nn.Linear(200, 40))
    turned.load_state_dict(original.state_dict())
    first.weight = nn.Parameter(original.get_parameter("0.weight").detach().reshape(100, 16))
    named = nn.ModuleDict({"a": original[0], "b": original[1]})
    assert len({fingerprint(m) for m in (original, changed, half, turned, named, model(1))}) == 6


def test_a_small_training_step_is_seen_in_a_large_matrix() -> None:
    first, second = nn.Linear(1000, 100), nn.Linear(1000, 100)
    second.load_state_dict(first.state_dict())
    assert first.weight.numel() > 100 * SAMPLED
    with torch.no_grad():
        second.weight += 1e-6
    assert fingerprint(first) != fingerprint(second)


def test_the_weights_own_is_the_same_in_every_format_they_are_loaded_in() -> None:
    stored = model().to(torch.bfloat16)  # as a checkpoint's files hold them
    wanted = weights_fingerprint(stored)
    assert weights_fingerprint(copy.deepcopy(stored).float()) == wanted
    assert weights_fingerprint(copy.deepcopy(stored).double()) == wanted
    assert len(wanted) == 16
    assert fingerprint(copy.deepcopy(stored).float()) != fingerprint(stored)


def test_the_weights_own_tells_weights_shapes_and_names_apart() -> None:
    original, changed, other = model(), model(), model(1)
    with torch.no_grad():
        changed.get_parameter("1.weight")[0, 0] *= 1.02  # more than bfloat16 rounds away
    named = nn.ModuleDict({"a": original[0], "b": original[1]})
    wide = nn.Sequential(nn.Linear(8, 200), nn.Linear(200, 41))
    assert len({weights_fingerprint(m) for m in (original, changed, other, named, wide)}) == 5
    assert weights_fingerprint(model()) == weights_fingerprint(original)
