"""How large a checkpoint's weights are, from the headers of its safetensors files: no tensor is read, nothing is fetched."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.engines.hf.gguf import is_gguf
from laconic.errors import InputError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class WeightsSize:
    """What a model's weights take."""

    bytes: int
    """Of all weights."""
    parameters: int | None
    """None where only the files' total is known."""
    source: str
    """`files`, or `config`: counted in its shapes, in `dtype`."""
    dtype: str = ""
    """Of the weights, where they were counted in the config's shapes."""
    quantized: bool = False
    """Whether the checkpoint is: it then holds fewer bytes than the config's shapes say."""


def stored_weights(name: str) -> WeightsSize | None:
    """Of the safetensors files in a directory, or of a Hub name in the local cache; None where none are there.

    Raises InputError for a file that is no safetensors file.
    """
    index = _find(name, INDEX)
    if index is not None:
        try:
            meta = json.loads(index.read_text(encoding="utf-8"))["metadata"]
            parameters = meta.get("total_parameters")
            return WeightsSize(int(meta["total_size"]), None if parameters is None else int(parameters), "files")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{index} says no total_size: it is no index of safetensors files") from error
    single = _find(name, SINGLE)
    if single is None:
        return None
    tensors = read_header(single)[0].values()
    counts = [_product(entry["shape"]) for entry in tensors]
    spans = [entry["data_offsets"] for entry in tensors]
    return WeightsSize(sum(end - start for start, end in spans), sum(counts), "files")


def _find(name: str, file: str) -> Path | None:
    place = Path(name).expanduser()
    if place.is_dir():
        return place / file if (place / file).is_file() else None
    if is_gguf(name):  # its weights are unpacked: they take what the config's shapes say
        return None
    if place.is_file():  # a config.json: its neighbours
        return place.parent / file if (place.parent / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, file)
    except ValueError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of each tensor (dtype, shape, data_offsets), and where its data begins.

    Raises InputError for a file that is none.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError
            found = json.loads(file.read(length))
    except (ValueError, struct.error) as error:
        raise InputError(f"{path} is no safetensors file; fetch the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no safetensors file; fetch the model again")
    return {key: entry for key, entry in found.items() if key != "__metadata__"}, 8 + length


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
