"""`laconic plan`: the memory that a run will take, from a model's config and a policy's schedule."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.options import (
    AsJson,
    Batch,
    BlockSize,
    KVDtype,
    Length,
    Memory,
    PlannedModel,
    Policies,
    PromptTokens,
)

if TYPE_CHECKING:
    from laconic.cli.tables import Table
    from laconic.engines.hf.planning import MemoryPlan

_PREFIXES = {prefix: place for place, prefix in enumerate("kmgt", 1)}
LENGTH, SMALL_LENGTH = 32768, 512


def plan(
    model: PlannedModel,
    policies: Policies = "full;rpc",
    prompt: PromptTokens = 128,
    length: Length = None,
    batch: Batch = 1,
    dtype: KVDtype = "auto",
    memory: Memory = None,
    block_size: BlockSize = 1,
    as_json: AsJson = False,
) -> None:
    """How much memory weights and KV cache will take, and how many traces fit: before a run, without weights.

    What layers keep is read from the model's config; how many tokens, from the policy's schedule. Activations and what the
    allocator keeps are not counted. --length starts from 32,768, for the bundled reasoner from 512; --json has bytes as whole
    numbers.
    """
    from laconic.cli.common import choose_policy, is_bundled, model_path
    from laconic.cli.lists import split_specs
    from laconic.cli.tables import print_tables
    from laconic.engines.hf.planning import plan as planned

    small = is_bundled(model)
    chosen = [choose_policy(spec, small) for spec in split_specs(policies)]
    room = None if memory is None else parse_size(memory)
    found = planned(
        _shape(model) or model_path(model),
        chosen,
        prompt=prompt,
        length=length if length is not None else SMALL_LENGTH if small else LENGTH,
        batch=batch,
        dtype=dtype,
        memory=room,
        block_size=block_size,
    )
    name = "bundled reasoner" if small else model
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "model": name}))
        return
    for key, value in facts(found, name):
        typer.echo(f"{key:<9}{value}")
    typer.echo()
    print_tables([layer_table(found), policy_table(found)], "--json has them.")


def _shape(model: str) -> Any:
    """The config of a published shape; None for another name."""
    from laconic.engines.hf.shapes import SHAPES

    if model not in SHAPES:
        return None
    import torch

    config = SHAPES[model].config()
    config.name_or_path, config.dtype = model, torch.bfloat16
    return config


def parse_size(text: str) -> int:
    """Bytes of `80GB` (1000s) or `75GiB` (1024s). Raises InputError for anything else."""
    from laconic.errors import InputError

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", text.lower())
    if found is None or (found[3] and not found[2]):
        raise InputError(f"--memory is {text!r}; expected a size such as 80GB or 75GiB")
    value = int(float(found[1]) * (1024 if found[3] else 1000) ** _PREFIXES.get(found[2], 0))
    if value < 1:
        raise InputError(f"--memory is {text!r}; expected more than nothing, such as 80GB")
    return value


def facts(found: MemoryPlan, name: str) -> list[tuple[str, str]]:
    """What holds for all policies, for people."""
    from laconic.cli.tables import size

    weights = found.weights
    told = []
    if weights.parameters is not None:
        billions = weights.parameters / 1e9
        told.append(
            f"{billions:,.2f} billion parameters" if billions >= 1 else f"{1000 * billions:,.1f} million parameters"
        )
    told.append("from the files" if weights.source == "files" else f"counted in the config's shapes, {weights.dtype}")
    if weights.quantized:
        told.append("less where the checkpoint is loaded quantized")
    traces = "1 trace" if found.batch == 1 else f"{found.batch:,} traces"
    lines = [
        ("model", name),
        ("weights", f"{size(weights.bytes)} ({', '.join(told)})"),
        ("KV", f"{found.dtype}, {found.bytes_per_token:,} bytes a token"),
        ("run", f"{traces}, each {found.prompt:,} prompt + {found.length:,} generated tokens"),
    ]
    if found.block_size > 1:
        lines.append(("blocks", f"of {found.block_size} tokens"))
    if found.memory is not None:
        left = found.memory - found.weights.bytes
        beside = f"{size(left)} beside the weights" if left > 0 else "less than the weights"
        lines.append(("memory", f"{size(found.memory)}, {beside}"))
    return lines


def layer_table(found: MemoryPlan) -> Table:
    """What each kind of layer keeps of one trace."""
    from laconic.cli.tables import Table, size

    rows = [
        [
            group.kind,
            f"{group.count}",
            f"{group.bytes_per_token:,}" if group.bytes_per_token else "",
            "" if group.window is None else f"{group.window:,}",
            size(group.state_bytes) if group.state_bytes else "",
            "yes" if group.compressible else "no",
        ]
        for group in found.layers
    ]
    columns: list[Any] = [("layers", "left"), ("number", "right"), ("bytes a token", "right")]
    columns += [("tokens at most", "right", 1), ("state", "right", 2), ("compressed", "left", 3)]
    return Table("Layers, and what all of a kind keep for one trace", columns, rows)


def policy_table(found: MemoryPlan) -> Table:
    """What the batch takes under each policy."""
    from laconic.cli.tables import Table, size

    columns: list[Any] = [("policy", "left"), ("KV, peak", "right"), ("at the end", "right", 1), ("mean", "right", 2)]
    columns += [("with weights", "right", 3), ("scoring", "right", 4)]
    rows = []
    for one in found.policies:
        row = [one.policy, size(one.peak), size(one.end), size(one.mean)]
        row += [size(found.weights.bytes + one.peak + one.scoring), size(one.scoring) if one.scoring else ""]
        rows.append(row)
        if one.fits is not None:
            row.insert(1, f"{one.fits:,}")
    if found.memory is not None:
        columns.insert(1, ("traces that fit", "right"))
    scoring = "scoring: the latest queries, and the attention, that the policy reads"
    notes = [scoring] if any(one.scoring for one in found.policies) else []
    return Table("KV of the batch", columns, rows, notes)
