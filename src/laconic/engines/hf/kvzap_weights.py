"""KVzap's published networks, read from a folder or the Hub: config.json and model.safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file
from transformers.utils import cached_file

from laconic.compress.kvzap_networks import KVzapNetworks
from laconic.errors import InputError, LaconicError, reason

PUBLISHED = "nvidia/KVzap-mlp-"
"""And the model's name."""


def read_kvzap(place: str | None, model: str) -> KVzapNetworks:
    """The networks in a folder or under a Hub name; None: those published for a model of that name. Raises InputError for what
    is none."""
    name = os.path.basename(model.rstrip("/"))
    if place is None and not name:
        raise InputError(
            "policy kvzap names no networks and the model has no name; expected kvzap:FOLDER, or kvzap: and a name on the Hub "
            f"such as {PUBLISHED}Qwen3-8B"
        )
    source = PUBLISHED + name if place is None else place
    try:
        config, weights = (_file(source, file) for file in ("config.json", "model.safetensors"))
        return KVzapNetworks.of(json.loads(config.read_text(encoding="utf-8")), load_file(weights))
    except LaconicError as error:
        raise InputError(f"{source} holds no networks of KVzap: {error}") from error
    except Exception as error:  # of many kinds: the Hub's, safetensors', JSON's
        raise InputError(
            f"the networks of KVzap can't be read from {source} ({type(error).__name__}: {reason(error)}): expected a folder, "
            f"or a name on the Hub, with config.json and model.safetensors, such as {PUBLISHED}Qwen3-8B"
        ) from error


def _file(source: str, file: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / file).is_file():
            raise InputError(f"it has no {file}")
        return folder / file
    return Path(str(cached_file(source, file)))
