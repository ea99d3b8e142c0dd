"""GGUF files (llama.cpp's): checked before anything is made of them, and how transformers is asked for them.

transformers reads a file with the package `gguf`, and unpacks its weights to the number format that is asked for.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from laconic.errors import InputError

SUFFIX, MAGIC = ".gguf", b"GGUF"
NEEDED = ("gguf", "accelerate")
"""What transformers needs beside itself."""
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's types of values, as `struct` writes them; text and lists besides."""
TEXT, LIST = 8, 9


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file, which need not be there."""
    return name.lower().endswith(SUFFIX) and not os.path.isdir(name)


def source_of(name: str) -> tuple[str, dict[str, Any]]:
    """Where transformers finds a model, and what else it has to be told: of a GGUF file, the directory and the file's name."""
    if not is_gguf(name):
        return name, {}
    path = Path(name).expanduser()
    return str(path.parent), {"gguf_file": path.name}


def unpacking(device: torch.device, dtype: Any) -> dict[str, Any]:
    """What `from_pretrained` is told of a file's weights. dtype: "auto", of which files say nothing, is bfloat16 on CUDA, else
    float32."""
    if dtype == "auto":
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        from transformers import GgufConfig
    except ImportError:  # older than 5.20 or so: it always unpacks
        return {"dtype": dtype}
    return {"dtype": dtype, "quantization_config": GgufConfig(dequantize=True)}


def check_gguf(name: str) -> None:
    """InputError for what is no GGUF file, a part of one, or can't be read here."""
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(
            f"there is no file {name}: give a GGUF file, a directory or a name on the Hub such as org/model"
        )
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(f"{name} is no GGUF file: it does not begin with the letters GGUF; fetch it again")
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{name} is a GGUF file, which needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            parts, end = _Header(data).read()
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise InputError(f"{name} is cut off in its header, or damaged: fetch it again") from error
        if end > len(data):
            raise InputError(
                f"{name} is cut off: it has {len(data):,} bytes, its header tells of {end:,}; fetch it again"
            )
    if parts > 1:
        raise InputError(
            f"{name} is one of {parts} parts of a model: join them to one file, with llama.cpp's llama-gguf-split --merge"
        )


@contextmanager
def without_bar() -> Iterator[None]:
    """Without the progress bar of transformers' unpacking, which its own switch for bars leaves on."""
    from transformers import modeling_gguf_pytorch_utils

    module: Any = modeling_gguf_pytorch_utils
    stock = module.tqdm
    module.tqdm = partial(stock, disable=True)
    try:
        yield
    finally:
        module.tqdm = stock


class _Header:
    """What is read of a file's header: numbers in little-endian order, lengths before texts and lists."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, len(MAGIC)

    def read(self) -> tuple[int, int]:
        """In how many parts the model is, and where the last tensor of this one ends, in bytes."""
        from gguf import GGML_QUANT_SIZES

        _, tensors, settings = self.numbers("IQQ")
        found = {}
        for _ in range(settings):
            name = self.text()
            found[name] = self.value(self.numbers("I")[0])
        end = 0
        for _ in range(tensors):
            self.text()
            (sides,) = self.numbers("I")
            shape = self.numbers(f"{sides}Q")
            kind, offset = self.numbers("IQ")
            block, size = GGML_QUANT_SIZES.get(
                kind, (1, 0)
            )  # a type that is not known here takes no room, for all we know
            count = 1
            for side in shape:
                count *= side
            end = max(end, offset + count // block * size)
        unit = int(found.get("general.alignment") or 32)
        return int(found.get("split.count") or 1), -(-self.at // unit) * unit + end

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{kinds}", self.data, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return values

    def text(self) -> str:
        (length,) = self.numbers("Q")
        if self.at + length > len(self.data):
            raise struct.error("a text goes beyond the file's end")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        """A number; the rest is passed over."""
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            return self.numbers(NUMBERS[kind])[0]
        of, count = self.numbers("IQ")
        if of in NUMBERS:
            self.at += count * struct.calcsize(NUMBERS[of])
            return None
        for _ in range(count):
            self.value(of)
        return None
