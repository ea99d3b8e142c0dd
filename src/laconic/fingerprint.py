"""Which weights a result is of, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SAMPLED = 256


def weights_fingerprint(model: nn.Module) -> str:
    """As `fingerprint`, but the same in whatever number format the weights were loaded: values are compared in bfloat16.

    What was made for a checkpoint is found again by it.
    """
    return digest_in_any_format(sorted(model.named_parameters()))


def digest_in_any_format(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """`weights_fingerprint` of parameters by name, in the names' order; each is let go before the next is asked for."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in parameters:
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(_sample(parameter).to("cpu", torch.bfloat16).to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """16 hex digits from every parameter's name, shape, number format and up to 256 evenly spaced values.

    Cheap on models of any size, and independent of the path or name they were loaded by. Two checkpoints of one
    training run differ in nearly every value, so a sample tells them apart.
    """
    return digest_in_one_format((name, value, value.dtype) for name, value in sorted(model.named_parameters()))


def digest_in_one_format(parameters: Iterable[tuple[str, Tensor, torch.dtype]]) -> str:
    """`fingerprint` of parameters by name, in the names' order, as if each had been loaded in the number format beside it."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter, dtype in parameters:
        digest.update(f"{name}{tuple(parameter.shape)}{dtype}".encode())
        digest.update(_sample(parameter).to("cpu", dtype).to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _sample(parameter: Tensor) -> Tensor:
    """Up to 256 evenly spaced values."""
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED]
