"""What a selector learns from: tokens of recorded traces, their keys and values as cached, and what later tokens paid them.

One teacher-forced pass of each trace under full KV, many rows at once. Tokens are drawn beforehand, so that memory is bounded
by how many are asked for, however long traces are. Each batch's are a file; a run that was cut off goes on behind the last.

Shapes: L layers, G KV heads, D head size, B rows, N tokens that were drawn, T slots.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import Rotation
from laconic.compress.future import BLOCK, even_starts, largest_attention, summed_attention
from laconic.engines.hf.observing import AttentionCall
from laconic.engines.hf.recording import observe_traces, query_blocks
from laconic.errors import InputError
from laconic.files import name_write_errors, replace_file
from laconic.traces import TraceRecord

ROWS, ROW_TOKENS = 64, 24_576
"""Traces that go through the model at once, at most; and with their prompts so many tokens, unless one alone has more."""
FEWEST = 1000
"""Tokens below which nothing is trained."""
STORED = torch.bfloat16  # a model's own rounding; float16 can't hold the outliers that some keys have


@dataclass(frozen=True, slots=True)
class DrawnTokens:
    """One trace, and which of its generated tokens are learned from."""

    trace: TraceRecord
    number: int
    """Of the trace, among all that are harvested."""
    positions: tuple[int, ...]
    """Ascending, among the generated tokens."""


def eligible(length: int, delay: int) -> int:
    """How many tokens of a trace, from its first on, are followed by a block of queries that begins `delay` or more later."""
    return max(0, (length - 1) // BLOCK * BLOCK - delay + 1)


def draw(traces: Sequence[TraceRecord], delay: int, most: int, seed: int) -> list[DrawnTokens]:
    """At most `most` tokens over all traces, the same share of each, evenly at random; traces that have none are left out.

    Raises InputError where there are fewer than FEWEST, or those of one trace only.
    """
    counts = [eligible(len(trace.token_ids), delay) for trace in traces]
    whole = sum(counts)
    drawn = []
    for number, (trace, count) in enumerate(zip(traces, counts, strict=True)):
        share = count if whole <= most else count * most // whole
        if share:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            at = torch.randperm(count, generator=generator)[:share].sort().values
            drawn.append(DrawnTokens(trace, number, tuple(at.tolist())))
    found = sum(len(each.positions) for each in drawn)
    if found < FEWEST or len(drawn) < 2:
        raise InputError(
            f"the traces hold {found:,} tokens to learn from, in {len(drawn):,} traces (a token counts where {delay} more "
            f"follow it); expected at least {FEWEST:,} in 2: give more traces, or longer ones"
        )
    return drawn


def batches(drawn: Sequence[DrawnTokens]) -> list[list[DrawnTokens]]:
    """Traces of about one length together, those of one prompt side by side."""
    found: list[list[DrawnTokens]] = []
    for each in sorted(drawn, key=lambda d: (len(d.trace.token_ids), d.number)):
        rows = [*(found[-1] if found else []), each]
        widest = max(len(d.trace.prompt_ids) + len(d.trace.token_ids) for d in rows)
        if found and len(rows) <= ROWS and len(rows) * widest <= ROW_TOKENS:
            found[-1] = rows
        else:
            found.append([each])
    return [sorted(rows, key=lambda d: (d.trace.prompt_ids, d.number)) for rows in found]


class Harvest:
    """The files of one harvest, in a directory of their own. layers: the model's indices, ascending."""

    def __init__(self, directory: Path, files: Sequence[Path], layers: Sequence[int]) -> None:
        self.directory, self.files, self.layers = directory, tuple(files), tuple(layers)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def traces(self) -> Tensor:
        """long [N]: each token's trace."""
        return torch.cat([self._read(file, "trace") for file in self.files]).long()

    def layer(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """keys before RoPE and values, fp32 [G, N, D], and what later tokens paid, fp32 [G, N]. index: the model's."""
        at = self.layers.index(index)
        parts = [[self._read(file, name, at) for file in self.files] for name in ("keys", "values", "paid")]
        keys, values, paid = (torch.cat(part, dim=1).float() for part in parts)
        return keys, values, paid

    @staticmethod
    def _read(file: Path, name: str, at: int | None = None) -> Tensor:
        with safe_open(file, framework="pt") as parts:
            found: Tensor = parts.get_tensor(name) if at is None else parts.get_slice(name)[at]
            return found


def harvest(
    model: PreTrainedModel,
    drawn: Sequence[DrawnTokens],
    layers: Sequence[int],
    rotation: Rotation | None,
    target: Literal["largest", "mean"],
    delay: int,
    directory: Path,
    watch: Callable[[int, int], None] | None = None,
) -> Harvest:
    """What `drawn` tokens hold and were paid, in files of `directory`; those that are there already are not made again.

    target: of the attention that tokens `delay` or more behind a token pay it, the largest that a KV head's queries pay, or the
    mean; counted from the first block of queries that begins so late. watch: told how many traces are done, of how many.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files, done = [], 0
    for number, rows in enumerate(batches(drawn)):
        file = directory / f"part-{number:04}.safetensors"
        if not _whole(file):
            observer = TokenObserver(rows, rotation, target, delay)
            observe_traces(model, [d.trace.prompt_ids for d in rows], [d.trace.token_ids for d in rows], observer)
            tensors = observer.tensors(layers)
            with name_write_errors(file, SafetensorError):
                replace_file(file, lambda new, held=tensors: save_file(held, new))  # type: ignore[misc]
        files.append(file)
        done += len(rows)
        if watch is not None:
            watch(done, len(drawn))
    return Harvest(directory, files, layers)


def digest(model: str, drawn: Sequence[DrawnTokens], target: str, delay: int, rotation: Rotation | None) -> str:
    """12 hex digits of all that a harvest depends on. model: the weights' fingerprint and their number format."""
    turned = None if rotation is None else [rotation.halves, rotation.frequencies.tolist()]
    found = hashlib.blake2b(json.dumps([model, target, delay, turned, BLOCK]).encode(), digest_size=6)
    for each in drawn:
        found.update(json.dumps([each.trace.prompt_ids, each.trace.token_ids, each.positions]).encode())
    return found.hexdigest()


class TokenObserver:
    """An `Observer` that keeps of drawn tokens what each layer's cache holds of them, and what later ones pay them."""

    def __init__(
        self, rows: Sequence[DrawnTokens], rotation: Rotation | None, target: Literal["largest", "mean"], delay: int
    ) -> None:
        self.rotation, self.target, self.delay = rotation, target, delay
        self.lengths = [len(row.trace.token_ids) for row in rows]
        self.starts = even_starts(max(self.lengths), BLOCK)
        self.prompts = torch.tensor([len(row.trace.prompt_ids) for row in rows])
        self.numbers = torch.tensor([row.number for row in rows])
        most = max(len(row.positions) for row in rows)
        padded = [[*row.positions, *[-1] * (most - len(row.positions))] for row in rows]
        self.positions = torch.tensor(padded)  # [B, most], -1 behind a row's last
        self.paid: dict[int, Tensor] = {}  # by layer, [B, G, most]
        self.held: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, keys before RoPE and values, [B, G, most, D]

    def __call__(self, call: AttentionCall) -> None:
        """See Observer."""
        device, G = call.key.device, call.key.shape[1]
        if call.layer not in self.paid:
            self.paid[call.layer] = torch.zeros(len(self.lengths), G, self.positions.shape[1], device=device)
        paid, at = self.paid[call.layer], self.positions.to(device)
        reduce = largest_attention if self.target == "largest" else summed_attention
        for part in query_blocks(call, self.lengths, self.starts):
            counts = (at >= 0) & (at + self.delay <= part.low // BLOCK * BLOCK)
            counts &= torch.tensor([length >= part.high for length in self.lengths], device=device)[:, None]
            if not bool(counts.any()):
                continue
            found = reduce(part.query, part.key, call.scaling, part.valid)[:, :, -part.high :]
            found = found.gather(-1, at.clamp(0, part.high - 1)[:, None].expand(-1, G, -1))
            found = found.masked_fill(~counts[:, None], 0.0)
            if self.target == "largest":
                torch.maximum(paid, found, out=paid)
            else:
                paid += found
        if call.generated[0] == max(self.lengths):  # all tokens are in the cache now
            self.held[call.layer] = self._read(call, at)

    def _read(self, call: AttentionCall, at: Tensor) -> tuple[Tensor, Tensor]:
        slots = call.key.shape[2] - call.generated[0] + at.clamp(min=0)
        found = []
        for cached in (call.key, call.value):
            index = slots[:, None, :, None].expand(-1, cached.shape[1], -1, cached.shape[3])
            found.append(cached.gather(2, index))
        keys, values = found
        if self.rotation is not None:
            positions = self.prompts.to(at.device)[:, None] + at
            keys = self.rotation.undo(keys, positions[:, None])
        return keys.to("cpu", STORED), values.to("cpu", STORED)

    def tensors(self, layers: Sequence[int]) -> dict[str, Tensor]:
        """What a file holds of this batch: keys, values [L, G, N, D], paid [L, G, N], trace [N]."""
        real = self.positions >= 0
        found: dict[str, list[Tensor]] = {"keys": [], "values": [], "paid": []}
        for layer in layers:
            keys, values = self.held[layer]
            found["keys"].append(keys.transpose(1, 2)[real].transpose(0, 1))
            found["values"].append(values.transpose(1, 2)[real].transpose(0, 1))
            paid = self.paid[layer].cpu().transpose(1, 2)[real]
            found["paid"].append((paid if self.target == "largest" else paid / self._later()[:, None]).transpose(0, 1))
        stacked = {name: torch.stack(parts).contiguous() for name, parts in found.items()}
        return {**stacked, "trace": self.numbers[:, None].expand_as(real)[real]}

    def _later(self) -> Tensor:
        """How many queries count for each drawn token, fp32 [N]."""
        real = self.positions >= 0
        first = -(-(self.positions + self.delay) // BLOCK) * BLOCK
        return (torch.tensor(self.lengths)[:, None] - first)[real].float()


def _whole(file: Path) -> bool:
    """Whether a part's file is there, and can be read."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as parts:
            return set(parts.keys()) == {"keys", "values", "paid", "trace"}
    except SafetensorError:
        return False
