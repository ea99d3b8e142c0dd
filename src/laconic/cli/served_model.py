"""The model behind `laconic serve`: what requests ask for, made of the same parts as `laconic solve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laconic.cli.common import (
    choose_calibration,
    choose_judge,
    choose_policy,
    choose_sampling,
    choose_strategy,
    one_thread,
    strategy_or_default,
)
from laconic.cli.engines import EngineChoice, open_reasoner
from laconic.engines.requests import check_goes_by_counts
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Engine, Sampling
    from laconic.server.asks import Ask, Method
    from laconic.server.jobs import Chosen

NONE = "none"


@dataclass
class ServingModel:
    """See `laconic.server.jobs.ModelToServe`. policy: of requests that name none; method: the same of strategies."""

    choice: EngineChoice
    name: str
    policy: Policy
    method: Method
    batch: int
    dtype: str = "auto"
    device: str = "auto"
    sampling_options: dict[str, Any] = field(default_factory=dict)
    """Of requests that say nothing."""

    def __post_init__(self) -> None:
        self._judges: dict[tuple[str, str | None], Any] = {}
        self._stack = ExitStack()
        self._only: Engine | None = None  # where there is one for all policies: a vLLM, or servers that are others'
        self._reasoner: Any = None

    def open(self) -> None:
        if self.choice.small:
            one_thread()
        self._reasoner = open_reasoner(self.choice, self.dtype, self.device)
        if self.choice.name != "hf":
            self._only = self._stack.enter_context(self._reasoner.engine(self.policy, self.batch))

    def close(self) -> None:
        self._stack.close()

    def dead(self) -> bool:
        client = getattr(self._only, "_client", None)
        return client is not None and client.closed

    @property
    def per_request(self) -> bool:
        return self.choice.name == "vllm"

    def engine(self, policy: Policy) -> Engine:
        if self.choice.name == "vllm":
            assert self._only is not None
            try:
                self._only.check_served(policy)  # type: ignore[attr-defined]
            except InputError as error:
                raise InputError(f"compress is {policy.spec()}: {error} (laconic serve --policy)") from None
            return self._only
        if self._only is not None:
            if policy != self.policy:
                raise InputError(
                    f"compress is {policy.spec()}, and this server only passes requests on to others, whose caches are theirs; "
                    "leave it out, and compress there"
                )
            return self._only
        check_goes_by_counts(policy, "the server")
        engine: Engine = self._reasoner.engine(policy, self.batch).__enter__()
        if policy.schedule.compresses:
            engine.record_held = True  # type: ignore[attr-defined]  # the page shows what was kept
        return engine

    def choose(self, method: Method) -> Chosen:
        from laconic.judges.registry import open_judge
        from laconic.server.jobs import Chosen

        small, given = self.choice.small, method.compress
        self._refuse_places(method)
        policy = self.policy if given is None else choose_policy(given, small)
        spec, n = method.strategy, method.n or self.method.n or 16
        judged = {"judge": method.judge, "budget": method.budget}
        if spec is None and all(value is None for value in judged.values()):
            spec = self.method.strategy or NONE
        if spec == NONE:
            return Chosen(policy, None, 1, None)
        spec = strategy_or_default(spec, {"judge": method.judge}, {"budget": method.budget})
        own = self.method.judge if method.judge is None and spec == self.method.strategy else method.judge
        judge_spec = choose_judge(own, spec, small)
        judge = None
        if judge_spec is not None:
            judge = self._judges.get((judge_spec, None))
            if judge is None:
                judge = open_judge(
                    judge_spec,
                    model=self._reasoner.weights,
                    tokenizer=self._reasoner.tokenizer,
                    excerpt=None,
                    device=self.device,
                )
                self._judges[judge_spec, None] = judge
        calibration = choose_calibration(None, spec, self._reasoner)
        options = {} if method.budget is None else {"spend": method.budget}
        strategy = choose_strategy(spec, n, judge, small, calibration, **options)
        return Chosen(policy, strategy, n, judge_spec, spec)

    def _refuse_places(self, method: Method) -> None:
        """A client names no files of this machine, and no addresses that it would call. Raises InputError."""
        from laconic.compress.registry import named_file
        from laconic.judges.registry import has_place

        policy, judge = method.compress, method.judge
        if policy not in (None, NONE, self.policy.spec()) and named_file(str(policy)) is not None:
            raise InputError(
                f"a request can't name what a policy is loaded from, and compress is {policy}; the server can: laconic serve "
                "--policy"
            )
        if judge not in (None, self.method.judge) and has_place(str(judge)):
            raise InputError(
                f"a request can't name what a judge is loaded from, and judge is {judge}; the server can: laconic serve --judge"
            )

    def sampling(self, given: dict[str, Any]) -> Sampling:
        return choose_sampling(self._reasoner, **{**self.sampling_options, **given})

    def prompt(self, ask: Ask) -> Any:
        from laconic.engines.chat import Chat, apply_template
        from laconic.engines.text import render

        tokenizer, messages = self._reasoner.tokenizer, list(ask.messages)
        if self.choice.small:
            self._check_small(messages)
        if self.choice.name != "openai" and not getattr(tokenizer, "chat_template", None):
            if len(messages) > 1:
                raise InputError("the model has no chat template; send one message of a user, or use /v1/completions")
            return render(tokenizer, messages[0]["content"])
        if not any(message["content"].strip() for message in messages if message["role"] == "user"):
            raise InputError("the user's message is empty; expected a question")
        if self.choice.name == "openai":  # the template is applied there
            from laconic.engines.openai.protocol import Conversation

            return Conversation(tuple(messages), ask.template_arguments)
        chat = Chat(arguments=ask.template_arguments)
        chat.check(tokenizer)
        if not ask.continues:
            return apply_template(tokenizer, messages, **chat.arguments)
        return continued(apply_template(tokenizer, messages[:-1], **chat.arguments), messages[-1])

    def plain_prompt(self, given: str | Sequence[int]) -> Any:
        if self.choice.name == "openai" and isinstance(given, str):
            from laconic.engines.openai.protocol import PlainText

            return PlainText(given)
        return given

    def thinks(self, ask: Ask) -> bool:
        from laconic.answers import ends_in_thinking
        from laconic.engines.chat import apply_template

        if not getattr(self._reasoner.tokenizer, "chat_template", None):
            return False
        return ends_in_thinking(
            apply_template(self._reasoner.tokenizer, list(ask.messages[:-1]), **ask.template_arguments)
        )

    @property
    def context(self) -> int | None:
        if self._only is not None:
            facts = getattr(self._only, "_facts", self._only)
            context = getattr(facts, "context", None)
            return None if context is None else int(context)
        from laconic.engines.hf.models import context_length

        return context_length(self._reasoner.weights)

    def _check_small(self, messages: Sequence[dict[str, str]]) -> None:
        from laconic.cli.questions import Question, check_vocabulary

        for message in messages:
            if message["role"] == "system":
                raise InputError(
                    "the bundled reasoner was trained without system messages; leave that out, or serve another model"
                )
            if message["role"] == "user":
                check_vocabulary(self._reasoner.tokenizer, Question(message["content"]))

    def decode(self, token_ids: Sequence[int]) -> str:
        from laconic.engines.text import decode

        if self._reasoner.tokenizer is None and self._only is not None:
            return self._only.decode(token_ids)
        return decode(self._reasoner.tokenizer, token_ids)

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        from laconic.engines.text import Detokenizer

        if self._reasoner.tokenizer is None:
            return [self.decode([token]) for token in token_ids]
        stream = Detokenizer(self._reasoner.tokenizer)
        found = [stream.add(token) for token in token_ids]
        rest = stream.finish(token_ids) if token_ids else ""
        return [*found[:-1], found[-1] + rest] if found else []

    def count(self, text: str) -> int | None:
        tokenizer = self._reasoner.tokenizer
        if tokenizer is None:
            return None
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def continued(before: str, last: Mapping[str, str]) -> str:
    """A prompt that ends in the assistant's message, which is gone on with. before: what the template makes of those before it.

    Thoughts (`reasoning_content`) stand between the marks of thinking. Where the template opens the thinking and the message
    has an answer alone, the thinking is closed first. Marks in the content are the message's own.
    """
    from laconic.answers import known_markers

    text, signs = last["content"], [marker.sign for marker in known_markers()]
    opens = {sign: sign.replace("/", "") for sign in signs}
    opened = next((sign for sign in signs if before.rstrip().endswith(opens[sign])), "")
    close = opened or signs[0]
    if "reasoning_content" in last:
        thoughts = ("" if opened else opens[close] + "\n") + last["reasoning_content"]
        return before + thoughts + (f"\n{close}\n\n{text}" if text else "")
    begun = next((opens[sign] for sign in signs if text.startswith(opens[sign])), "")
    if opened and begun == opens[opened]:  # the template has opened it already
        return before + text.removeprefix(begun)
    if opened and text.strip() and not any(mark in text for mark in (*signs, *opens.values())):
        return f"{before}\n{close}\n\n{text}"
    return before + text
