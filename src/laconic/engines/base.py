"""What every engine is: (prompt, sampling, n) in, a stream of chunks out, traces stopped and resumed on the way.

An engine knows nothing of answers, judges or votes, and no compression policy by name: it asks a policy *when* to compress
and *which* tokens stay, and moves memory. Every engine passes the same conformance tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from laconic import checks
from laconic.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length", "stopped"]
Prompt = str | Sequence[int]
COLDEST = 1e-30


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    temperature: 0 is greedy, and so is what is too small for float32 to divide logits by (below 1e-30, kept as 0). top_p in
    (0, 1]; top_k 0 is off. seed: trace i of a prompt draws from a stream of its own, keyed by (seed, i, position), so its
    text does not depend on which other traces run beside it.
    stop_token_ids: added to the model's own end tokens. logprobs: also return this many top candidates' mean
    log-probability a token (0 is off). Raises InputError for a value of another type or out of range.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int = 0

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("max_new_tokens", self.max_new_tokens, 1)
        checks.number("temperature", self.temperature, 0, 100, "0 is greedy")
        if self.temperature < COLDEST:
            object.__setattr__(self, "temperature", 0.0)
        checks.number("top_p", self.top_p, 0, 1, above=True)
        checks.whole("top_k", self.top_k, 0, meaning="0 is off")
        checks.seed("seed", self.seed)
        stops = checks.wholes("stop_token_ids", self.stop_token_ids, 0, meaning="ids of tokens")
        object.__setattr__(self, "stop_token_ids", tuple(stops))
        checks.whole("logprobs", self.logprobs, 0, meaning="0 is off")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one trace. `finish_reason` is set on the trace's last chunk only."""

    trace_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Trace:
    """One chain of thought as the engine holds it.

    state: waiting (not prefilled yet), running, stopped (by `stop`, can be resumed), finished.
    thinking: whether the prompt left the thinking open, so that the text begins within it (`answers.answer_of` needs it).
    kv_tokens: tokens of KV cache the trace holds now, a layer; peak_kv_tokens: the most it ever held;
    mean_kv_tokens: mean over its generated tokens.
    """

    id: str
    index: int
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    state: Literal["waiting", "running", "stopped", "finished"] = "waiting"
    finish_reason: FinishReason | None = None
    kv_tokens: int = 0
    peak_kv_tokens: int = 0
    mean_kv_tokens: float = 0.0
    thinking: bool = False


@dataclass(slots=True)
class EngineStats:
    """What a run cost. Tokens of KV are summed over the rows in the batch, one layer; bytes over all layers.

    evicted, kept: tokens summed over rows and compressions (one layer); compressions: row-compressions;
    live_kv_bytes: held now by tokens that can be attended, compressible layers; reserved_kv_bytes: what the buffers take;
    generated_tokens: drawn by the engine; under `laconic.compress`, those whose KV was computed, all but each row's last;
    kv_token_steps: sum over steps and rows of tokens attended, the work that a KV-bound step does; side_tokens: run through
    the model beside decoding, for `states` and `probe`; preemptions: times that a trace's cache was given up for others
    and had to be computed again (vLLM).
    """

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    compressions: int = 0
    evicted: int = 0
    kept: int = 0
    live_kv_tokens: int = 0
    peak_kv_tokens: int = 0
    live_kv_bytes: int = 0
    peak_kv_bytes: int = 0
    reserved_kv_bytes: int = 0
    kv_token_steps: int = 0
    side_tokens: int = 0
    preemptions: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    left_alone: dict[str, list[int]] = field(default_factory=dict)


_CANNOT = {
    "decode": "has no tokenizer: make it with one",
    "states": "gives no hidden states: use a judge that reads text",
    "probe": "can't probe a trace: use a judge that reads text",
    "kept": "does not tell what compression kept: use another excerpt",
    "held": "does not tell which tokens each layer held: use the hf engine for a page that shows them",
}


def refuse(engine: str, method: str) -> NoReturn:
    """Say that an engine lacks one of the methods that only some have."""
    raise InputError(f"the {engine} engine {_CANNOT[method]}")


class Engine(ABC):
    """The interface. Not thread-safe: one thread drives an engine."""

    name: str

    @abstractmethod
    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """Queue n traces of one prompt (text, or token ids); they share one prefill. Returns their ids, in order.

        Raises InputError for a prompt that is empty, holds what is no token id or is beyond the model's context, n < 1, an
        id already in use, or what is no Sampling.
        """

    @abstractmethod
    def stream(self) -> Generator[Chunk, None, None]:
        """Run until no trace is waiting or running, yielding chunks as they come.

        `submit`, `stop` and `resume` may be called between two chunks. Closing the generator leaves the traces as they are;
        a new `stream` goes on. Where the model gives no distribution for a trace's next token (NaN or infinite logits), the
        trace is stopped with the tokens it has; the others run on, then LaconicError names it (vLLM's ends at once).
        """

    @abstractmethod
    def stop(self, trace_id: str) -> None:
        """Stop a trace; its memory is free at the next step. No effect on one that has finished."""

    @abstractmethod
    def resume(self, trace_id: str) -> None:
        """Continue a stopped trace from its tokens, as if it had never been stopped."""

    @abstractmethod
    def trace(self, trace_id: str) -> Trace:
        """The trace's record, live. Raises UnknownNameError, which is a KeyError as well, if there is none."""

    @abstractmethod
    def forget(self, trace_ids: Sequence[str]) -> None:
        """Drop the records of traces that are finished or stopped."""

    @property
    @abstractmethod
    def stats(self) -> EngineStats:
        """What has been done since the engine was made."""

    @abstractmethod
    def render(self, question: str) -> str:
        """The prompt text for a user's question: through the chat template where the model has one."""

    # ---- what only some engines can: reading a trace beside its decoding ------------------------------------------

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of generated tokens, special tokens left in. Raises InputError in an engine without a tokenizer."""
        refuse(self.name, "decode")

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """Hidden states at each trace's first `tokens` generated tokens, float32 [n, tokens, D], on the CPU.

        Row j is the model's state at generated token j, once that token has been fed: a running trace's newest token has
        none yet. Zeros beyond what there is. What the engine recorded while decoding costs nothing; for the rest the tokens
        are run again and counted in `stats.side_tokens`. Raises InputError in an engine that can't.
        """
        refuse(self.name, "states")

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """What each trace would answer now: its cache is copied, `suffix` appended, `steps` tokens decoded greedily.

        Returns the distributions of those tokens, float32 [n, steps, V], on the CPU. Running and stopped traces go on as if
        nothing had happened. Counted in `stats.side_tokens`. Raises InputError in an engine that can't.
        """
        refuse(self.name, "probe")

    def kept(self, trace_id: str) -> list[int]:
        """Which generated tokens the latest compression kept, by position, in order: those that at least half of the layers
        hold. All tokens so far where there was no compression. Raises InputError in an engine that can't tell.
        """
        refuse(self.name, "kept")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, n: int = 1) -> list[list[Trace]]:
        """Run all to the end; result [prompt][trace]. The records stay in the engine until `forget`."""
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise checks.input_error("prompts", prompts, "several prompts, such as [prompt]")
        ids = [self.submit(prompt, sampling, n) for prompt in prompts]
        for _ in self.stream():
            pass
        return [[self.trace(i) for i in row] for row in ids]
