"""From a name or a path to a model and its tokenizer, with one sentence for everything that can be wrong on the way."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from laconic.engines.hf.generation import check_model
from laconic.errors import LaconicError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name_or_path: str | os.PathLike[str], dtype: str = "auto", device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder and its tokenizer from a directory or the Hub.

    dtype: "auto" (the checkpoint's own; float32 on a CPU without bfloat16), "float32", "bfloat16", "float16". device: "auto"
    (CUDA where there is one), or what torch calls it. Raises LaconicError for a path that does not exist, a directory without
    a model, an encoder or encoder-decoder model, weights that can't be read, an unknown dtype or device.
    """
    name = os.fspath(name_or_path)
    check_path(name)
    where = _device(device)
    kind: Any = "auto" if dtype == "auto" else DTYPES.get(dtype)
    if kind is None:
        raise LaconicError(f"dtype is {dtype!r}; expected auto, {', '.join(DTYPES)}")
    with _quiet():
        config = _try(name, "configuration", AutoConfig.from_pretrained, name)
        if config.is_encoder_decoder:
            raise LaconicError(f"{name} is an encoder-decoder ({config.model_type}); laconic runs decoder-only models")
        if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
            # BERT and its like would load as causal models of a kind, but were trained to see both ways.
            raise LaconicError(
                f"{name} is an encoder ({config.model_type}); laconic runs decoder-only models that generate text"
            )
        model, report = _try(
            name, "weights", AutoModelForCausalLM.from_pretrained, name, dtype=kind, output_loading_info=True
        )
        _check_complete(name, report)
        tokenizer = _try(name, "tokenizer", AutoTokenizer.from_pretrained, name)
    check_model(model)
    return model.to(where).eval(), tokenizer


def load_tokenizer(name: str, **settings: Any) -> PreTrainedTokenizerBase:
    """The tokenizer alone; settings go to transformers. Raises LaconicError for one that can't be read."""
    with _quiet():
        tokenizer: PreTrainedTokenizerBase = _try(name, "tokenizer", AutoTokenizer.from_pretrained, name, **settings)
    return tokenizer


def load_generation_config(name: str, **settings: Any) -> GenerationConfig:
    """How the model's makers sample from it; where they don't say, transformers' own defaults."""
    with _quiet(), contextlib.suppress(OSError):
        return GenerationConfig.from_pretrained(name, **settings)
    return GenerationConfig()


def check_path(name: str) -> None:
    """LaconicError for what looks like a path and has no model in it."""
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(name)
    if not looks_like_path:
        return
    path = Path(name).expanduser()
    if not path.exists():
        raise LaconicError(
            f"there is no model at {name}: give a directory that holds one, or a name on the Hub such as org/model"
        )
    if not (path / "config.json").is_file():
        raise LaconicError(f"{name} is not a model directory: it has no config.json")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise LaconicError(f"device is {device!r}, which can't be used here: {_first_line(error)}") from None
    return where


def _try(name: str, what: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise LaconicError(
            f"the {what} of {name} can't be loaded: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """transformers fills tensors that the files lack with random numbers and only warns; a wrong text would follow."""
    lost = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, ()))
    if lost:
        raise LaconicError(
            f"the weights of {name} are not complete: {len(lost)} tensors are missing or of another shape, the first is "
            f"{lost[0]}; fetch the model again"
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else "no reason given"


@contextlib.contextmanager
def _quiet() -> Any:
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
