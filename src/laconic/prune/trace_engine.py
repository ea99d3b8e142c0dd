"""Where traces come from, as a strategy sees it: the part of `engines.base.Engine` that pruning needs, and no more."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

from torch import Tensor


class TraceView(Protocol):
    """A trace's record, live (`engines.base.Trace`)."""

    @property
    def id(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def confidences(self) -> list[float]: ...
    @property
    def state(self) -> str: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def thinking(self) -> bool: ...
    @property
    def kv_tokens(self) -> int: ...


class ChunkView(Protocol):
    """The next tokens of one trace (`engines.base.Chunk`)."""

    @property
    def trace_id(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def finish_reason(self) -> str | None: ...


class SamplingView(Protocol):
    """How tokens are drawn (`engines.base.Sampling`): a dataclass of the engine's own, of which strategies read these."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def confidence_top_k(self) -> int: ...


class TraceEngine(Protocol):
    """An engine: see `engines.base.Engine` for what each method promises. `submit` takes the engine's own kind of sampling."""

    def submit(self, prompt: Any, sampling: Any, n: int = 1, ids: Sequence[str] | None = None) -> list[str]: ...
    def stream(self) -> Generator[ChunkView | None, None, None]:
        """Chunks as they come. None: none of these traces has moved, and another run wants its turn (`engines.shared`)."""
        ...

    def stop(self, trace_id: str) -> None: ...
    def resume(self, trace_id: str) -> None: ...
    def trace(self, trace_id: str) -> TraceView: ...
    def forget(self, trace_ids: Sequence[str]) -> None: ...
    def render(self, question: str) -> Any: ...
    @property
    def stats(self) -> Any: ...

    # What only some engines can; the others raise InputError naming what is missing.
    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of generated tokens, special tokens left in."""
        ...

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """Hidden states of each trace's first `tokens` generated tokens [n, tokens, D], zeros beyond a trace's end."""
        ...

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """Fork each trace's cache, append `suffix`, decode `steps` tokens greedily: their distributions [n, steps, V]."""
        ...

    def kept(self, trace_id: str) -> list[int]:
        """Positions of the generated tokens that the trace's latest compression kept; all of them if there was none."""
        ...


class TextProbe(Protocol):
    """`Engine.probe_texts`, which strategies that probe look up by its name: engines of others' may lack it."""

    def __call__(self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False) -> list[str]:
        """What each trace would write after `suffix`, in at most `max_tokens` greedy tokens.

        until_closed: up to the brace that closes one `suffix` opened.
        """
        ...
