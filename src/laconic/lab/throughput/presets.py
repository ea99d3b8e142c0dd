"""Named throughput runs: the paper's table, and small ones that tell something on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from laconic.engines.hf.shapes import get_shape
from laconic.errors import InputError
from laconic.lab.throughput.decoding import GENERATE, DecodingCase
from laconic.lab.throughput.run import FULL

PAPER_LENGTHS = (4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Preset:
    """One named run. about: a line for people. gpu: whether it makes sense on a GPU only.

    lengths: of whole runs whose speed is estimated from the windows; empty: none.
    """

    name: str
    about: str
    cells: tuple[DecodingCase, ...]
    methods: tuple[str, ...]
    repeats: int
    gpu: bool = False
    lengths: tuple[int, ...] = ()

    def only(self, shapes: Sequence[str]) -> Preset:
        """The same run on these of its shapes; none given: itself. Raises InputError for a shape that it hasn't."""
        have = list(dict.fromkeys(cell.shape for cell in self.cells))
        for shape in shapes:
            if shape not in have:
                raise InputError(f"The preset {self.name} has no shape {shape!r}; its shapes: {', '.join(have)}")
        return replace(self, cells=tuple(c for c in self.cells if c.shape in shapes)) if shapes else self


def _windows(
    shape: str, batches: tuple[int, ...], lengths: tuple[int, ...], prompt: int, steps: int
) -> tuple[DecodingCase, ...]:
    return tuple(DecodingCase(shape, batch, prompt, length, "at", steps) for batch in batches for length in lengths)


def _paper(shape: str, batches: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[DecodingCase, ...]:
    # Each window ends where RPC's sawtooth is highest and takes in one compression: 32 steps past a multiple of the
    # interval, the window of recent tokens being 32. The first window, of a short cache, anchors the curve.
    return _windows(shape, batches, (128, *(length + 32 - 48 for length in lengths)), 128, 64)


_ALL = (
    Preset(
        "rpc-paper",
        "RPC's table (arXiv 2505.13866): 7B at batch 8, 16, 32 and 32B at batch 16, to 32K tokens; one large GPU",
        (
            *_paper("r1-distill-qwen-7b", (8, 16, 32), PAPER_LENGTHS),
            *_paper("qwq-32b", (16,), (4096, 8192, 16384)),
        ),
        (GENERATE, FULL, "rpc:interval=4096,ratio=4,window=32", "rpc:interval=1024,ratio=4,window=32"),
        repeats=5,
        gpu=True,
        lengths=PAPER_LENGTHS,
    ),
    Preset(
        "cpu-kv",
        "where KV is most of what a step reads: 8 rows of tiny-kv at 8,192 generated tokens, one whole interval",
        _windows("tiny-kv", (8,), (8192,), 64, 512),
        (FULL, "rpc:interval=512,ratio=4,window=32", "rpc:interval=512,ratio=8,window=32"),
        repeats=5,
    ),
    Preset(
        "cpu-policies",
        "what policies cost besides bytes: 4 rows of tiny-kv at 2,048 generated tokens, caches of about 600",
        _windows("tiny-kv", (4,), (2048,), 64, 128),
        (
            FULL,
            "rpc:interval=128,ratio=4,window=32",
            "rkv:budget=512,buffer=128",
            "h2o:budget=512,buffer=128",
            "tova:budget=512,buffer=128",
            "streamingllm:budget=512,buffer=128",
            "h2o:budget=512,buffer=1",
            "tova:budget=512,buffer=1",
            "streamingllm:budget=512,buffer=1",
        ),
        repeats=5,
    ),
    Preset(
        "cpu-weights",
        "where weights are most of it, so that compression can only cost: 1 row of tiny-weights at 512 tokens",
        _windows("tiny-weights", (1,), (512,), 64, 64),
        (GENERATE, FULL, "rpc:interval=64,ratio=4,window=16"),
        repeats=15,
    ),
    Preset(
        "cpu-parity",
        "no eviction against plain generate, at 4,096 and 8,192 generated tokens",
        (
            *_windows("tiny-kv", (4,), (4096, 8192), 64, 24),
            *_windows("tiny-weights", (1,), (4096,), 64, 24),
        ),
        (GENERATE, FULL),
        repeats=7,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def cells_of(
    shapes: Sequence[str],
    batches: Sequence[int],
    prompt: int,
    lengths: Sequence[int],
    at: Sequence[int],
    steps: int,
) -> tuple[DecodingCase, ...]:
    """Every shape at every batch size, run whole to `lengths` and in windows of `steps` steps from `at` on.

    Raises InputError for an unknown shape, numbers out of range, or nothing to run.
    """
    for name in shapes:
        get_shape(name)
    if not batches or not (lengths or at):
        raise InputError("There is nothing to run: give batch sizes, and lengths to run to or to measure at")
    cells = []
    for name in shapes:
        for batch in batches:
            cells += [DecodingCase(name, batch, prompt, length) for length in lengths]
            cells += [DecodingCase(name, batch, prompt, length, "at", steps) for length in at]
    return tuple(cells)


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises InputError that lists the known ones."""
    if name not in PRESETS:
        raise InputError(f"The preset {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
