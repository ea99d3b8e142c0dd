"""Small tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`, without waiting for what the device is doing."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pageable memory the copy would wait; the pinned one is not used again before the copy is done (torch sees to it).
    return tensor.pin_memory().to(device, non_blocking=True)
