"""What a pair encoder was trained to read, and whether that is what it is now used with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from laconic import checks
from laconic.errors import InputError
from laconic.traces import tokenizer_fingerprint

SAMPLED = 64


@dataclass(frozen=True, slots=True)
class EncoderInputSpec:
    """What a pair encoder was trained to read."""

    excerpt: str
    """The kind of excerpts, such as "tokens:64"."""
    vectors: str = "none"
    """"none", "states" (the reasoner's hidden states) or "model:NAME" (another decoder's)."""
    layers: tuple[int, ...] = ()
    """Which layers' hidden states, side by side; empty unless `vectors` is "states"."""
    tokenizer: str = ""
    """`tokenizer_fingerprint` of the reasoner's tokenizer; "" where the encoder reads no token ids."""
    model: str = ""
    """`sign_fingerprint` of the reasoner; "" where the encoder doesn't read its hidden states."""

    def __post_init__(self) -> None:
        for name in ("excerpt", "vectors", "tokenizer", "model"):
            checks.text(name, getattr(self, name))
        object.__setattr__(self, "layers", tuple(checks.wholes("layers", self.layers, -checks.MOST)))
        if self.vectors not in ("none", "states") and not self.vectors.startswith("model:"):
            raise InputError(f"vectors is {self.vectors!r}; expected none, states or model:NAME_OR_PATH")
        if self.vectors == "states" and self.excerpt.split(":")[0] == "kept":
            raise InputError(
                f"an encoder of hidden states needs excerpts that begin where a trace begins, and {self.excerpt} does not; "
                "use tokens:K or words:K, or vectors none"
            )
        if bool(self.layers) != (self.vectors == "states"):
            raise InputError(f"layers is {list(self.layers)} for vectors {self.vectors}; hidden states alone have them")


def check_trained_for(input_spec: EncoderInputSpec, where: object, model: Any = None, tokenizer: Any = None) -> None:
    """Raises InputError, naming both, where an encoder was made for another tokenizer or model than these."""
    for what, theirs, given, find in (
        ("tokenizer", input_spec.tokenizer, tokenizer, tokenizer_fingerprint),
        ("model", input_spec.model, model, sign_fingerprint),
    ):
        if not theirs or given is None:
            continue
        mine = find(given)
        if mine != theirs:
            raise InputError(
                f"the judge at {where} was trained for the {what} {theirs}, this reasoner's is {mine}; use it with the "
                "reasoner that it was trained for, or train one for this"
            )


def sign_fingerprint(model: nn.Module) -> str:
    """16 hex digits that tell one set of weights from another, in whatever number format they were loaded.

    Of the name, the shape and the signs of up to 64 evenly spaced values of every parameter: rounding never turns a sign,
    and training turns many.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLED)
        signs = torch.signbit(flat[::step][:SAMPLED]).cpu().tolist()
        digest.update(f"{name}{tuple(parameter.shape)}{signs}".encode())
    return digest.hexdigest()
