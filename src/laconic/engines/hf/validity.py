"""Which slots of a batch hold a token that may be attended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from laconic.engines.hf.slots import RowSlots

SPARE = 64  # slots that a mask is built too wide by, so that the next steps only take a longer slice of it


class ValidityMask:
    """Hides what is no token: the junk before a shorter row's first slot, and padding inside prompts.

    Prompts that are padded keep their padding for good (prompts are never evicted, and moving every prompt would cost a copy of
    it), so it has to be remembered where it lies.
    """

    def __init__(self) -> None:
        self.prompt: Tensor | None = None  # bool [B, prompt slots], False at padding; None: no prompt is padded
        self._built: dict[torch.device, Tensor] = {}  # layers may lie on several devices, and each needs the mask there

    def clear(self) -> None:
        """Rows or lengths have changed: build anew when the mask is asked for next."""
        self._built = {}  # a new dictionary, not an emptied one: a fork of the ledger shares the old

    def set_prompt(self, mask: Tensor) -> list[int]:
        """mask: bool [B, prompt slots], False at padding. Returns how many of each row's slots are padding."""
        self.prompt = mask
        self.clear()
        pads: list[int] = (~mask).sum(-1).tolist()
        return pads

    def take_rows(self, indices: Sequence[int]) -> None:
        """Rows `indices`, in that order, stay."""
        if self.prompt is not None:
            self.prompt = self.prompt[list(indices)]

    def of(self, rows: Sequence[RowSlots], length: int, q: int, device: torch.device) -> Tensor | None:
        """bool [B, length + q] on `device`; None if every slot may be attended.

        length: slots in use, at the last of which all rows end. q: tokens that the running pass is about to write behind them.
        """
        valid = self._built.get(device)
        if valid is None:
            valid = self._built[device] = self._build(rows, length, device)
        if valid.numel() == 0:
            return None
        width = length + q
        if valid.shape[1] < width:
            more = torch.ones((len(rows), width), dtype=torch.bool, device=device)
            valid = self._built[device] = torch.cat((valid, more), dim=1)
        return valid[:, :width]

    def _build(self, rows: Sequence[RowSlots], length: int, device: torch.device) -> Tensor:
        """As wide as there is something to hide, and SPARE more; empty if there is nothing."""
        if self.prompt is None and all(row.slots == length for row in rows):
            return torch.empty(0, dtype=torch.bool, device=device)
        starts = torch.tensor([length - row.slots for row in rows], device=device)
        prompt_slots = 0 if self.prompt is None else self.prompt.shape[1]
        valid = torch.arange(max(length, prompt_slots) + SPARE, device=device) >= starts[:, None]
        if self.prompt is not None:
            valid.scatter_(1, starts[:, None] + torch.arange(prompt_slots, device=device), self.prompt.to(device))
        return valid
