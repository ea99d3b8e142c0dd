"""One forward pass of a model that is bound to laconic: which cache it feeds, who has attended, and the eviction at its end.

Eviction waits until the whole pass is over. Within a pass any layer may read any layer's keys and values again (KV-sharing
layers read another layer's, some models attend twice), and the pass that compresses attends to everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from torch import Tensor

from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.engines.hf.cache import CompressedCache
    from laconic.engines.hf.layer import CompressedLayer
    from laconic.engines.hf.ledger import Ledger

# The pass that runs now, in this thread. It travels with the call itself, so several models and threads do not meet.
_RUNNING: ContextVar[ForwardPass | None] = ContextVar("laconic_pass", default=None)


class ForwardPass:
    """One forward pass. cache: the compressed cache that the call names, if it names one."""

    __slots__ = ("cache", "last", "layers", "ledger", "masked", "model", "sighted")

    def __init__(self, model: str, cache: CompressedCache | None) -> None:
        self.model, self.cache = model, cache
        self.ledger: Ledger | None = None
        self.layers: list[CompressedLayer] = []
        self.sighted = 0  # of the layers, those whose attention was seen
        self.last: CompressedLayer | None = None  # wrote its keys and values, has not attended yet
        self.masked: Ledger | None = None  # was asked for the sizes of the mask that transformers makes next

    def write(self, layer: CompressedLayer, batch: int, q: int) -> None:
        """`layer` is about to append `q` tokens to each of `batch` rows."""
        ledger = layer.ledger
        if self.ledger is None:
            ledger.begin_pass(batch, q)
            self.ledger = ledger
        elif ledger is not self.ledger:
            raise InputError(f"one forward pass of {self.model} feeds two compressed caches; give it one")
        elif layer in self.layers:
            raise InputError(
                f"{self.model} writes the KV cache of layer {layer.index} twice in one forward pass, which can't be compressed"
            )
        self.layers.append(layer)
        self.last = layer

    def attended(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        """An attention call is over. It is the latest writer's if that hasn't attended yet; otherwise somebody reads again."""
        layer, self.last = self.last, None
        if layer is not None:
            self.sighted += 1
            layer.attended(query, key, scaling, mask)

    def finish(self) -> None:
        """All layers have read: evict what is due."""
        ledger = self.ledger
        if ledger is None:
            if self.cache is not None and not self.cache.ledger.rows:
                raise InputError(
                    f"{self.model} wrote nothing into its KV cache; laconic compresses decoders that keep one "
                    "(encoders such as BERT don't)"
                )
            return
        if self.sighted < len(self.layers) and any(layer.watches for layer in self.layers):
            raise InputError(
                f"{self.model} does not go through transformers' attention interface in every layer, so laconic can't see "
                "its queries; models written for transformers 5 do"
            )
        if ledger.eviction is not None:
            for layer in self.layers:
                layer.evict(ledger.eviction)
        ledger.end_pass()


def required_pass() -> ForwardPass:
    """The pass that runs now. Raises InputError where there is none: the model is not bound to laconic."""
    running = _RUNNING.get()
    if running is None:
        raise InputError(
            "this compressed KV cache is used outside of laconic, where nobody looks at the queries: it serves the generate "
            "call that made it, inside `with laconic.compress(...)`; leave past_key_values out, or call generate there anew"
        )
    return running


def running_pass() -> ForwardPass | None:
    """The pass that runs now, or None."""
    return _RUNNING.get()


@contextmanager
def forward_pass(model: str, cache: CompressedCache | None) -> Iterator[None]:
    """Around one forward pass. A pass inside another (a decoder called by its language model) is part of it."""
    if _RUNNING.get() is not None:
        yield
        return
    running = ForwardPass(model, cache)
    token = _RUNNING.set(running)
    try:
        yield
        running.finish()
    except BaseException:
        if running.ledger is not None:
            running.ledger.fail_pass()
        raise
    finally:
        _RUNNING.reset(token)
