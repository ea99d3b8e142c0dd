"""What the engine's thread works on: a job is one request, of traces that are told as they come (`plain`), or of a vote over
them (`votes`)."""

from __future__ import annotations

import itertools
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from laconic.compress import Policy
from laconic.engines.base import Engine, Sampling, TokenLogprobs
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import EngineError, LaconicError
from laconic.server.asks import Ask, Method
from laconic.server.events import Event, Failed, Mailbox, TokenTold

if TYPE_CHECKING:
    from laconic.prune import Strategy

DRAWN_SEED = 1 << 53  # below what a number of JavaScript's holds exactly


class Chosen:
    """How a request is carried out: its method, with what the server adds. strategy: None is plain decoding; spec: as it is
    written."""

    __slots__ = ("judge", "n", "policy", "spec", "strategy")

    def __init__(
        self, policy: Policy, strategy: Strategy | None, n: int, judge: str | None, spec: str | None = None
    ) -> None:
        self.policy, self.strategy, self.n, self.judge, self.spec = policy, strategy, n, judge, spec


class ModelToServe(Protocol):
    """The model behind a server, opened and used in the engine's thread only."""

    name: str

    def open(self) -> None:
        """Load it. Raises LaconicError."""

    def close(self) -> None: ...

    def engine(self, policy: Policy) -> Engine:
        """An engine under a policy. Raises InputError where that can't be."""

    @property
    def per_request(self) -> bool:
        """Whether `engine` gives the same one under all policies, and each request brings its own."""

    def choose(self, method: Method) -> Chosen:
        """What a method means for this model. Raises InputError."""

    def sampling(self, given: dict[str, Any]) -> Sampling:
        """With the model's own settings where nothing is given. Raises InputError."""

    def prompt(self, ask: Ask) -> Any:
        """A conversation as the engine takes it: through the model's chat template, where that is here. Raises InputError."""

    def plain_prompt(self, given: str | Sequence[int]) -> Any:
        """What /v1/completions goes on from, as the engine takes it."""

    def thinks(self, ask: Ask) -> bool:
        """Whether the prompt of a conversation ends in thinking that it has opened."""

    @property
    def context(self) -> int | None:
        """Tokens, once it is open; None: not known."""

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text."""

    def count(self, text: str) -> int | None:
        """The tokens of a text; None: its tokenizer isn't here."""

    def dead(self) -> bool:
        """Whether what runs it has died, so that no engine can be made any more."""


class Job(ABC):
    """One request. All but `mailbox` belongs to the engine's thread."""

    _numbers = itertools.count(1)

    def __init__(self, ask: Ask, mailbox: Mailbox, seconds: float) -> None:
        self.ask, self.mailbox = ask, mailbox
        self.number = next(self._numbers)
        self.id = f"{secrets.token_hex(12)}"
        self.created = time.time()
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.first_token: float | None = None
        """Seconds to it."""
        self.view: EngineView | None = None
        """Once it has begun."""
        self.over = self.settled = False
        self.generated = 0
        self.prompt_tokens = 0
        self.seed = 0
        self.error = ""
        """Why it failed."""
        self.took: float | None = None
        """Seconds, once it is over."""

    @abstractmethod
    def begin(self, model: ModelToServe, chosen: Chosen, shared: SharedEngine) -> None:
        """Submit. Raises LaconicError for what the model can't take."""

    @abstractmethod
    def advance(self) -> None:
        """There are chunks."""

    @abstractmethod
    def end_early(self, reason: str) -> None:
        """Its time is up: tell what there is."""

    def fail(self, error: BaseException) -> None:
        """Tell that it can't go on, and let go of its traces."""
        if not isinstance(error, LaconicError):
            error = EngineError(f"the request failed inside the server ({type(error).__name__}); its log has more")
        if not self.over:
            self.error = str(error)
            self.finish(Failed(error))

    def finish(self, *events: Event) -> None:
        """The last events."""
        self.over = True
        self.mailbox.put(*events)
        self.release()

    def release(self) -> None:
        """Its traces stop and are forgotten."""
        self.over = True
        self.took = self.seconds
        if self.view is not None:
            self.view.close()

    def open_view(self, model: ModelToServe, chosen: Chosen, shared: SharedEngine, prompt: Any = None) -> EngineView:
        """A user of the engine, for traces under the request's policy."""
        self.view = shared.view(prompt, chosen.policy if model.per_request else None)
        return self.view

    def choose_sampling(self, model: ModelToServe, **more: Any) -> Sampling:
        """The request's."""
        self.seed = secrets.randbelow(DRAWN_SEED) if self.ask.seed is None else self.ask.seed
        return model.sampling({**self.ask.sampling, "seed": self.seed, **more})

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def note_first_token(self) -> None:
        if self.first_token is None:
            self.first_token = self.seconds


def tell_token(model: ModelToServe, token: int, told: TokenLogprobs, text: str | None = None) -> TokenTold:
    """A token with its log-probabilities, as clients see it. text: what it added to its trace's; None: its own alone."""
    return TokenTold(
        text or model.decode([token]), told.logprob, tuple((model.decode([other]), value) for other, value in told.top)
    )
