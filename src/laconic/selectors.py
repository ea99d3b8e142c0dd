"""Files of learned selectors: reading, writing, and finding the one that was made for a model's weights.

One safetensors file each, kept in the user's cache folder under the weights' fingerprint. The bundled reasoner's ships with
laconic.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from laconic import checks
from laconic.compress.learned import Learned
from laconic.compress.policy import Policy, SelectorFiles
from laconic.compress.selector import WEIGHTS, Rotation, Selector
from laconic.errors import InputError, LaconicError
from laconic.files import name_write_errors, replace_file

FORMAT = "laconic.selector/1"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent / "assets" / "selectors"


def cache_folder() -> Path:
    """Where selectors are kept: $LACONIC_CACHE/selectors, else laconic/selectors in $XDG_CACHE_HOME or ~/.cache."""
    own, general = os.environ.get("LACONIC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else Path(general or "~/.cache") / "laconic"
    return base.expanduser() / "selectors"


def place_of(fingerprint: str) -> Path:
    """Where `laconic learn` keeps the selector of these weights unless it is told a file."""
    return cache_folder() / f"{fingerprint}{SUFFIX}"


def working_folder(fingerprint: str) -> Path:
    """Where `laconic learn` keeps traces of these weights and what it read of them, unless it is told a directory."""
    return cache_folder().parent / "learning" / fingerprint


def find_selector(fingerprint: str | None) -> Path:
    """The file of the selector made for these weights: the user's own, else one that ships. Raises InputError for none."""
    if fingerprint is None:
        raise InputError(
            "policy learned names no selector and the weights can't be told here; expected learned:FILE, which "
            "laconic learn writes"
        )
    for folder in (cache_folder(), SHIPPED):
        if (folder / f"{fingerprint}{SUFFIX}").is_file():
            return folder / f"{fingerprint}{SUFFIX}"
    raise InputError(
        f"there is no selector for this model yet (its fingerprint is {fingerprint}); make one with: laconic learn MODEL, or "
        "name one: learned:FILE"
    )


def look_up(fingerprint_of: Callable[[], str]) -> Path:
    """As `find_selector`, of weights whose fingerprint is still to be told, which may fail with an InputError."""
    try:
        fingerprint = fingerprint_of()
    except InputError as error:
        raise InputError(
            f"policy learned names no selector, and which weights these are can't be told: {error}; name one: learned:FILE, "
            "which laconic learn writes"
        ) from None
    return find_selector(fingerprint)


def digest_of(policy: Policy, files: SelectorFiles) -> str | None:
    """`Selector.digest` of the policy's selector, whatever its file is called; None for a policy without one. files: finds that
    of a policy that names none.

    Raises InputError as `read_selector`, or where there is none.
    """
    return read_selector(files.selector_file(policy.file)).digest() if isinstance(policy, Learned) else None


def check_named_file(policy: Policy) -> None:
    """For commands, before a model is loaded: as `read_selector`, where the policy names a file."""
    if isinstance(policy, Learned) and policy.file is not None:
        read_selector(policy.file)


def read_selector(path: str | Path) -> Selector:
    """The selector in a file. Raises InputError for a file that isn't there, was cut off, or holds none."""
    from safetensors import SafetensorError, safe_open

    place = Path(checks.path("path", path)).expanduser()
    if not place.is_file():
        raise InputError(f"there is no selector file {place}; expected one that laconic learn wrote")
    try:
        with safe_open(place, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("laconic", "{}"))
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{place} is no whole selector file ({str(error).strip('.')}); expected one that laconic learn wrote: make it again"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{place} is no selector of the format {FORMAT}; expected one that laconic learn wrote")
    try:
        return _made(about, tensors)
    except LaconicError as error:
        raise InputError(f"{place} holds no selector that fits together: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{place} lacks {error}; expected a selector that laconic learn wrote: make it again"
        ) from error


def _made(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Selector:
    frequencies = tensors.pop("frequencies", None)
    return Selector(
        features=tuple(about["features"]),
        layers=tuple(about["layers"]),
        kv_heads=about["kv_heads"],
        head_size=about["head_size"],
        per_head=about["per_head"],
        rotation=None if frequencies is None else Rotation(frequencies, about["halves"]),
        weights=tensors,
        fingerprint=about["fingerprint"],
        recipe=about["recipe"],
    )


def write_selector(path: str | Path, selector: Selector) -> None:
    """Write a selector; what stood there is replaced whole. Raises InputError for a full disk, or a path that is no file's."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    checks.instance("selector", selector, Selector, "a Selector, as laconic learn makes them")

    about = {
        "format": FORMAT,
        "features": list(selector.features),
        "layers": list(selector.layers),
        "kv_heads": selector.kv_heads,
        "head_size": selector.head_size,
        "per_head": selector.per_head,
        "halves": selector.rotation is None or selector.rotation.halves,
        "fingerprint": selector.fingerprint,
        "recipe": dict(selector.recipe),
    }
    tensors = {name: selector.weights[name].float().contiguous() for name in WEIGHTS}
    if selector.rotation is not None:
        tensors["frequencies"] = selector.rotation.frequencies.float().contiguous()
    target = Path(checks.path("path", path)).expanduser()
    with name_write_errors(target, SafetensorError):
        replace_file(target, lambda new: save_file(tensors, new, metadata={"laconic": json.dumps(about)}))
