"""From a name or a path to a model and its tokenizer, with one sentence for everything that can be wrong on the way."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as hf_logging

from laconic import checks
from laconic.engines.hf.gguf import check_gguf, is_gguf, source_of, unpacking, without_bar
from laconic.engines.hf.models import check_decoder, check_model
from laconic.engines.hf.rotation import fix
from laconic.errors import InputError, LaconicError, LaconicWarning, reason
from laconic.jsonl import read_object

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
LARGE = 100_000_000
"""Parameters from which on a slow number format is worth a warning."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def load(
    name_or_path: str | os.PathLike[str], dtype: str = "auto", device: str = "auto", fix_rotation: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder and its tokenizer from a directory, the Hub or a GGUF file, whose weights are unpacked.

    dtype: "auto" (the checkpoint's own; of a GGUF file, bfloat16 on CUDA and else float32), "float32", "bfloat16", "float16".
    device: "auto" (CUDA where there is one), or what torch calls it. fix_rotation: `fixed_rotation`, for good: a model whose
    rotation changes with the length keeps those for long texts, as in vLLM; commands load so. Raises InputError for a path that
    does not exist, a directory without a model, a GGUF file that is cut off, no such file, or needs a package, an encoder or
    encoder-decoder model, weights that can't be read, an unknown dtype or device.
    """
    fixed = checks.flag("fix_rotation", fix_rotation)
    name = check_name(name_or_path)
    where = pick_device(device)
    kind: Any = DTYPES.get(checks.word("dtype", dtype, ("auto", *DTYPES)), "auto")
    place, settings = source_of(name)
    settings |= unpacking(where, kind) if settings else {"dtype": kind}
    with quiet(), without_bar():
        load_config(name)
        _check_generation_config(name)
        model, report = _try(
            name,
            "weights",
            AutoModelForCausalLM.from_pretrained,
            place,
            **settings,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by `_check_complete`, where transformers points to a table of its own
        )
        _check_complete(name, report)
        tokenizer = _tokenizer(name)
    check_model(model)
    model = model.to(where).eval()
    _warn_of_slow_numbers(name, model)
    if fixed:
        with contextlib.suppress(LaconicError):  # PhiMoE, which can't be: runs across the change will be refused
            fix(model)
    return model, tokenizer


def load_config(name: str) -> PretrainedConfig:
    """The configuration alone, also from a config.json or a GGUF file. Raises InputError for one that can't be read, or of no
    decoder."""
    if is_gguf(name) or not Path(name).expanduser().is_file():
        check_path(name)
    place, settings = source_of(name)
    with quiet():
        config: PretrainedConfig = _try(name, "configuration", AutoConfig.from_pretrained, place, **settings)
    check_decoder(config, name)
    return config


def load_tokenizer(name: str, **settings: Any) -> PreTrainedTokenizerBase:
    """The tokenizer alone; settings go to transformers. Raises InputError for one that can't be read."""
    with quiet():
        return _tokenizer(name, **settings)


def _tokenizer(name: str, **settings: Any) -> PreTrainedTokenizerBase:
    source, told = source_of(name)
    try:
        tokenizer: PreTrainedTokenizerBase = _try(
            name, "tokenizer", AutoTokenizer.from_pretrained, source, **told, **settings
        )
    except LaconicError as error:
        place = Path(name).expanduser()
        if place.is_dir() and not any((place / file).exists() for file in TOKENIZER_FILES):
            raise InputError(
                f"{name} has no tokenizer: it holds none of {', '.join(TOKENIZER_FILES)}; copy the tokenizer's files there"
            ) from error
        raise
    return tokenizer


def load_generation_config(name: str, **settings: Any) -> GenerationConfig:
    """How the model's makers sample from it; where they don't say, transformers' own defaults. Raises InputError for a file
    that can't be read."""
    _check_generation_config(name)
    with quiet(), contextlib.suppress(OSError):
        return GenerationConfig.from_pretrained(name, **settings)
    return GenerationConfig()


def _check_generation_config(name: str) -> None:
    """transformers passes over a file that it can't read, and a model would be sampled in another way than its makers say."""
    file = Path(name).expanduser() / GENERATION_CONFIG_NAME
    if file.is_file():
        read_object(file)
        _try(name, GENERATION_CONFIG_NAME, GenerationConfig.from_pretrained, file.parent)


def check_name(model: Any) -> str:
    """A model's directory, GGUF file or name on the Hub as a text. Raises InputError for none of them, and as `check_path`."""
    expected = "a directory, a GGUF file, or a name on the Hub such as org/model"
    name = os.fspath(checks.instance("model", model, (str, os.PathLike), expected))
    checks.text("model", name, expected, some=True)
    check_path(name)
    return name


def check_path(name: str) -> None:
    """InputError for what looks like a path and has no model in it, or is a GGUF file that can't be read."""
    if is_gguf(name):
        check_gguf(name)
        return
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(name)
    if not looks_like_path:
        return
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(
            f"there is no model at {name}: give a directory that holds one, or a name on the Hub such as org/model"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{name} is not a model directory: it has no config.json")


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is CUDA where there is one. Raises InputError for a device that can't compute here."""
    checks.instance("device", device, (str, torch.device), "auto, or what torch calls one, such as cpu or cuda:1")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.ones(1, device=where).sum().item()  # "meta" makes tensors without anything in them
    except Exception as error:  # of many kinds: one a backend
        raise InputError(f"The device {str(device)!r} can't be used here: {reason(error).partition('. ')[0]}") from None
    return where


def _warn_of_slow_numbers(name: str, model: PreTrainedModel) -> None:
    """A CPU without instructions for a number format goes through its matrices one number at a time: 4.9 to 5.9 times slower
    than in float32, prompts of 100 and 220 tokens through 0.5B parameters in bfloat16 on two AVX2 cores."""
    if model.device.type != "cpu" or model.dtype not in SHORT or model.num_parameters() < LARGE:
        return
    if not has_fast_matrices(model.dtype):
        kind = str(model.dtype).removeprefix("torch.")
        warnings.warn(
            f"{name} is in {kind}, which this CPU has no instructions for, so that it runs several times slower than in "
            "float32: give dtype float32 unless there is no memory for twice as much",
            LaconicWarning,
            stacklevel=3,
        )


def has_fast_matrices(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU multiplies matrices of bfloat16 or float16 as such; True where torch doesn't tell."""
    found = getattr(torch.ops.mkldnn, f"_is_mkldnn_{SHORT[dtype]}_supported", None)
    return True if found is None else bool(found())


def _try(name: str, what: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise InputError(f"the {what} of {name} can't be loaded: {type(error).__name__}: {reason(error)}") from error


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """transformers fills tensors that the files lack with random numbers and only warns; a wrong text would follow."""
    other = sorted((str(key), list(file), list(model)) for key, file, model in report.get("mismatched_keys", ()))
    if other:
        key, file, model = other[0]
        raise InputError(
            f"the weights of {name} do not fit its config.json: {_tensors(len(other))} of another shape, the first is {key}, "
            f"{file} in the file and {model} by the configuration; fetch the model again"
        )
    lost = sorted(map(str, report.get("missing_keys", ())))
    if lost:
        raise InputError(
            f"the weights of {name} are not complete: {_tensors(len(lost))} missing, the first is {lost[0]}; fetch the model "
            "again"
        )


def _tensors(count: int) -> str:
    return "1 tensor is" if count == 1 else f"{count} tensors are"


@contextlib.contextmanager
def quiet() -> Any:
    """Without transformers' progress bars and advice; warnings that matter come back as errors here."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
