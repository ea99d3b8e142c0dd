"""What every engine is: (prompt, sampling, n) in, a stream of chunks out, traces stopped and resumed on the way.

An engine knows nothing of answers, judges or votes, and no compression policy by name: it asks a policy *when* to compress
and *which* tokens stay, and moves memory. Every engine passes the same conformance tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, NoReturn

from laconic import checks
from laconic.answers.extraction import end_of_box
from laconic.errors import EngineError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from laconic.prune.needs import Needs

FinishReason = Literal["stop", "length", "stopped"]
Prompt = str | Sequence[int]
COLDEST = 1e-30


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Raises InputError for a value of another type or out of range."""

    max_new_tokens: int = 1024
    """Tokens that a trace generates at most; fewer where the model's context ends before."""
    temperature: float = 0.6
    """0 is greedy, and so is what is too small for float32 to divide logits by (below 1e-30, kept as 0)."""
    top_p: float = 0.95
    """In (0, 1]: draw from the fewest likeliest tokens that hold this share of the probability."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0 is off."""
    seed: int = 0
    """Trace i of a prompt draws from a stream of its own, keyed by (seed, i, position), so its text does not depend on which
    other traces run beside it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a trace, besides the model's own end tokens."""
    confidence_top_k: int = 0
    """Also return each token's confidence: minus the mean log-probability of this many likeliest tokens (DeepConf, arXiv
    2508.15260); 0 is off."""
    logprobs: int | None = None
    """Also return each token's log-probability, and those of this many likeliest tokens; 0: the drawn token's alone; None is
    off."""

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
        checks.whole("confidence_top_k", self.confidence_top_k, 0, meaning="0 is off")
        if self.logprobs is not None:
            checks.whole("logprobs", self.logprobs, 0, meaning="None is off")


class TokenLogprobs(NamedTuple):
    """Of a generated token, under the model's own distribution: before temperature, top-k and top-p."""

    logprob: float
    """The drawn token's log-probability."""
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the likeliest tokens, likeliest first, without those that are banned (-inf)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one trace."""

    trace_id: str
    token_ids: tuple[int, ...]
    """May be none in the last chunk of a trace that was stopped."""
    text: str
    """What they add to the trace's text; it may lag behind by an incomplete character."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One a token, as `Sampling.logprobs` asks; None: it doesn't."""
    finish_reason: FinishReason | None = None
    """Set on the trace's last chunk only."""
    confidences: tuple[float, ...] | None = None
    """One a token, as `Sampling.confidence_top_k` asks; None: it doesn't."""
    restarted: bool = False
    """The trace began anew, at a server that continues no text: what chunks before this one told is no part of it."""


@dataclass(slots=True)
class Trace:
    """One chain of thought as the engine holds it."""

    id: str
    """Its name in the engine."""
    index: int
    """Which of its prompt's traces it is, from 0."""
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    """Generated so far."""
    text: str = ""
    """Of the generated tokens, without the one that ended it."""
    confidences: list[float] = field(default_factory=list)
    """One a generated token, as `Sampling.confidence_top_k` asks; empty: it doesn't."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One a generated token, as `Sampling.logprobs` asks; empty: it doesn't."""
    state: Literal["waiting", "running", "stopped", "finished"] = "waiting"
    """waiting: not prefilled yet, or to be rebuilt. stopped: by `stop`; it can be resumed."""
    finish_reason: FinishReason | None = None
    """Why it has ended, or stopped; None: it hasn't."""
    kv_tokens: int = 0
    """Tokens of KV cache that it holds now, one layer."""
    peak_kv_tokens: int = 0
    """The most it ever held."""
    mean_kv_tokens: float = 0.0
    """What it held on average over its generated tokens."""
    thinking: bool = False
    """Whether the prompt left the thinking open, so that the text begins within it (`answers.answer_of` needs it)."""
    fed_tokens: int = 0
    """Of the generated tokens, those that a policy fed and nobody drew (`Policy.next_fed`)."""
    error: str = ""
    """Why the engine gave it up, a clause; it is stopped then, without anyone having asked for it."""
    error_status: int = 0
    """HTTP's, where that is a server's refusal; 0: it isn't."""


class GivenUpError(EngineError):
    """An engine gave traces up, each of which was told by a last chunk and `Trace.error`; raised when the others have ended."""


class UndrawnError(InputError):
    """The model gave no probabilities for a next token of some traces, which are stopped; raised when the others have ended."""


@dataclass(slots=True)
class EngineStats:
    """What a run cost. Tokens of KV are summed over the rows in the batch, one layer; bytes over compressible layers."""

    steps: int = 0
    """Forward passes that fed generated tokens; in vLLM those of prompts as well."""
    prompt_tokens: int = 0
    """Tokens of prompts that were computed: once for all traces that share a prefill, again for a trace that resumes."""
    generated_tokens: int = 0
    """Drawn by the engine or fed by a policy; under `laconic.compress`, those whose KV was computed: all but each row's
    last."""
    compressions: int = 0
    """Row-compressions: one for each row that a compression was due for and evicted from."""
    evicted: int = 0
    """Tokens evicted, summed over rows and compressions, one layer."""
    kept: int = 0
    """Generated tokens that stayed at a compression, window included, summed over rows and compressions, one layer."""
    live_kv_tokens: int = 0
    """Tokens held now that can be attended."""
    peak_kv_tokens: int = 0
    """The most that were ever held at once."""
    live_kv_bytes: int = 0
    """What `live_kv_tokens` take."""
    peak_kv_bytes: int = 0
    """What `peak_kv_tokens` took."""
    reserved_kv_bytes: int = 0
    """What the buffers take now, tokens in them or not."""
    kv_token_steps: int = 0
    """Tokens attended, summed over steps and rows: the work that a KV-bound step does."""
    side_tokens: int = 0
    """Tokens run through the model beside decoding, for `states` and `probe`."""
    preemptions: int = 0
    """Times that a trace's cache was given up for others and had to be computed again (vLLM)."""
    prefill_seconds: float = 0.0
    """Spent on letting traces join: prompts, and caches that were rebuilt."""
    decode_seconds: float = 0.0
    """Spent on steps, drawing included."""
    left_alone: dict[str, list[int]] = field(default_factory=dict)
    """Layers that are not compressed, by kind: their indices."""


_CANNOT = {
    "decode": "has no tokenizer: make it with one",
    "states": "gives no hidden states: use a judge that reads text",
    "probe": "can't probe a trace: use the hf engine, or a strategy or judge that reads text",
    "kept": "does not tell what compression kept: use another excerpt",
    "token_ids": "tells neither the model's own token ids nor the prompt's: use a judge that reads text (facts, llm:NAME, "
    "embedding:NAME), or jaccard",
    "held": "does not tell which tokens each layer held: use the hf engine for a page that shows them",
}


NOTHING = Chunk("", (), "")
"""Of no trace: nothing has come (`Engine.longest_wait`)."""


def up_to_brace(text: str) -> str:
    """A text that follows an open brace, up to the one that closes it; the whole where none does."""
    end = end_of_box(text)
    return text if end is None else text[: end + 1]


def refuse(engine: str, method: str) -> NoReturn:
    """Say that an engine lacks one of the methods that only some have."""
    raise InputError(f"the {engine} engine {_CANNOT[method]}")


class Engine(ABC):
    """The interface. Not thread-safe: one thread drives an engine."""

    name: str
    own_token_ids: ClassVar[bool] = True
    """Whether a trace's token ids, and its prompt's, are the model's own; else they are some numbering of pieces of text."""
    longest_wait: float | None = None
    """Seconds after which `stream` yields NOTHING where it waits for a server that is silent; None: it goes on waiting."""

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
        trace is stopped with the tokens it has; the others run on, then a LaconicError names it.
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

    @property
    def live_kv_bytes(self) -> int:
        """`stats.live_kv_bytes`, which is asked for at every step: an engine that can tell it more cheaply does."""
        return self.stats.live_kv_bytes

    @abstractmethod
    def render(self, question: str) -> str:
        """The prompt text for a user's question: through the chat template where the model has one."""

    # ---- what will be read of traces -----------------------------------------------------------------------------

    @classmethod
    def check_needs(cls, needs: Needs) -> None:
        """Raises InputError for what engines of this class can't give at all; can be asked before there is one."""
        for method, needed in (("states", needs.state_tokens > 0), ("probe", needs.probe), ("kept", needs.kept)):
            if needed and getattr(cls, method) is getattr(Engine, method):
                refuse(cls.name, method)
        if needs.token_ids and not cls.own_token_ids:
            refuse(cls.name, "token_ids")

    def prepare(self, needs: Needs) -> None:
        """Traces submitted from here on will be read like this: an engine that can note it on the way does so.

        A strategy's run calls it before it submits. Raises InputError for what this engine can't give.
        """
        self.check_needs(needs)

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

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """What each trace would write now after `suffix`, in at most `max_tokens` greedy tokens; otherwise as `probe`.

        until_closed: `suffix` opens a brace, and a text ends with the one that closes it. An engine that can end a text there,
        or with the model's end token, runs no tokens beyond; the others cut it.
        """
        checks.flag("until_closed", until_closed)
        greedy = self.probe(trace_ids, suffix, max_tokens).argmax(dim=-1).tolist()
        texts = [self.decode(tokens) for tokens in greedy]
        return [up_to_brace(text) for text in texts] if until_closed else texts

    def kept(self, trace_id: str) -> list[int]:
        """Which generated tokens the latest compression kept, by position, in order: those that at least half of the layers
        hold. All tokens so far where there was no compression. Raises InputError in an engine that can't tell.
        """
        refuse(self.name, "kept")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, n: int = 1) -> list[list[Trace]]:
        """Run all to the end; `result[prompt][trace]`. The records stay in the engine until `forget`."""
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise checks.input_error("prompts", prompts, "several prompts, such as [prompt]")
        ids = [self.submit(prompt, sampling, n) for prompt in prompts]
        for _ in self.stream():
            pass
        return [[self.trace(i) for i in row] for row in ids]
