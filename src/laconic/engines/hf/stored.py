"""The fingerprints that a checkpoint's weights would have once loaded, from its safetensors files alone.

The model is built on torch's meta device, where tensors have a name and a shape and no memory: so a tied table counts once,
whether or not the files hold it twice. Of each tensor only the sampled values are read.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import cached_file

from laconic.engines.hf.checkpoint import INDEX, SINGLE, read_header
from laconic.engines.hf.loading import quiet
from laconic.errors import InputError
from laconic.errors import reason as reason_of
from laconic.fingerprint import digest_in_any_format, digest_in_one_format

FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number formats of safetensors files whose values compare."""


def checkpoint_fingerprint(
    name: str, dtype: torch.dtype | None = None, revision: str | None = None, cache_dir: str | None = None
) -> str:
    """The `weights_fingerprint` of a model in a directory or on the Hub (fetched into the cache where it may be, as loading it
    would); with a dtype, the `fingerprint` that it has once loaded in that.

    Raises InputError with the reason where the files don't tell it: they are no safetensors files, are quantized, were cut
    off, or hold tensors under other names than transformers' model has (experts, say, that are merged on loading).
    """
    where = {"revision": revision, "cache_dir": cache_dir}
    built = _build(name, where, dtype)
    wanted = sorted((key, tuple(value.shape), value.dtype) for key, value in built.named_parameters())
    if dtype is not None and any(one != dtype for _, _, one in wanted):
        raise InputError(f"some of the weights of {name} are kept in a number format of their own")
    prefix = f"{built.base_model_prefix}."
    files = _StoredTensors(name, where)
    if dtype is None:
        return digest_in_any_format((key, files.read(key, prefix, shape)) for key, shape, _ in wanted)
    return digest_in_one_format((key, files.read(key, prefix, shape), dtype) for key, shape, _ in wanted)


def _build(name: str, where: dict[str, Any], dtype: torch.dtype | None) -> Any:
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(name, **where)
            built = AutoModelForCausalLM.from_config(config, **({} if dtype is None else {"dtype": dtype}))
    except Exception as error:  # transformers and the models' own code raise many kinds
        raise InputError(f"{name} can't be built from its config: {reason_of(error)}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"the weights of {name} are quantized")
    apart = getattr(built, "_keep_in_fp32_modules", None) or getattr(built, "_keep_in_fp32_modules_strict", None)
    if dtype is not None and apart:
        raise InputError(f"some of the weights of {name} are kept in a number format of their own")
    return built


class _StoredTensors:
    """A checkpoint's tensors, as they lie in its files."""

    def __init__(self, name: str, where: dict[str, Any]) -> None:
        self._name, self._where = name, where
        self._opened: dict[str, tuple[dict[str, Any], int, mmap.mmap]] = {}
        index = self._find(INDEX)
        if index is not None:
            self._places = dict(_weight_map(index))
            return
        if self._find(SINGLE) is None:
            raise InputError(f"{name} has no safetensors files")
        self._places = dict.fromkeys(self._open(SINGLE)[0], SINGLE)

    def read(self, key: str, prefix: str, shape: tuple[int, ...]) -> Tensor:
        """A parameter by its name in the model, looked for also without the prefix that a model saved alone has not."""
        found = next((one for one in (key, key.removeprefix(prefix)) if one in self._places), None)
        if found is None:
            raise InputError(f"{self._name} holds no tensor {key}, as transformers calls it")
        file = self._places[found]
        header, start, memory = self._open(file)
        try:
            entry = header[found]
            kind, stored, (first, last) = FORMATS.get(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file} of {self._name} says nothing of {found}") from None
        if kind is None or stored != shape:
            raise InputError(
                f"{found} of {self._name} is {entry['dtype']} of shape {stored}, and transformers' model has {shape}"
            )
        if start + last > len(memory) or last - first != torch.Size(shape).numel() * kind.itemsize:
            raise InputError(f"{file} of {self._name} was cut off")
        if first == last:
            return torch.empty(shape, dtype=kind)
        return torch.frombuffer(memory, dtype=kind, offset=start + first, count=(last - first) // kind.itemsize).view(
            shape
        )

    def _open(self, file: str) -> tuple[dict[str, Any], int, mmap.mmap]:
        """A file's header, where its tensors begin, and its bytes."""
        if file not in self._opened:
            path = self._find(file)
            if path is None:
                raise InputError(f"{self._name} lacks {file}")
            header, start = read_header(path)
            with open(path, "rb") as opened:
                # Private, as torch wants memory that it may write to; the file is never changed.
                memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
            if hasattr(mmap, "MADV_RANDOM"):  # without it the system reads ahead, nearly all of the file
                memory.madvise(mmap.MADV_RANDOM)
            self._opened[file] = header, start, memory
        return self._opened[file]

    def _find(self, file: str) -> Path | None:
        try:
            with quiet():
                found = cached_file(self._name, file, **self._where, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{file} of {self._name} can't be read: {reason_of(error)}") from error
        return None if found is None else Path(found)


def _weight_map(index: Path) -> Iterator[tuple[str, str]]:
    """Tensor and file of an index."""
    try:
        yield from json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of safetensors files; fetch the model again") from error
