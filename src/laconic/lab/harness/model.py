"""The model that a harness evaluates, opened from its arguments by the parts of `laconic solve`."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from laconic.cli.chat import choose_chat
from laconic.cli.common import (
    choose_calibration,
    choose_judge,
    choose_policy,
    choose_sampling,
    choose_strategy,
    one_thread,
)
from laconic.cli.engines import check_device, choose_engine, open_reasoner
from laconic.cli.questions import Question, check_vocabulary
from laconic.engines.chat import Chat
from laconic.engines.requests import check_length
from laconic.errors import InputError, LaconicError, LaconicWarning, reason
from laconic.lab.harness.arguments import ModelArguments
from laconic.lab.harness.generation import TaskGeneration
from laconic.lab.harness.run import HarnessAnswer, HarnessRequest, HarnessTotals, answer_requests, request_seeds

Message = Mapping[str, str]
_MESSAGES = "laconic.messages "
"""Before a conversation in JSON that a server is to put into its own chat template."""


@dataclass(frozen=True)
class HarnessPrompt:
    """What a harness asks. text: as it stands, with the chat template in it where `templated`."""

    text: str
    generation: TaskGeneration = field(default_factory=TaskGeneration)
    templated: bool = False


class HarnessModel:
    """Opens the model at once. Raises InputError for arguments that don't go together or that the model can't take."""

    def __init__(self, arguments: ModelArguments) -> None:
        self.arguments = arguments
        choice = choose_engine(arguments.engine, arguments.pretrained, arguments.engine_settings)
        self.small, self.remote = choice.small, choice.name == "openai"
        self.name = choice.shown
        self.policy = choose_policy(arguments.policy, self.small)
        judge_spec = None
        if arguments.strategy is not None:
            judge_spec = choose_judge(arguments.judge, arguments.strategy, self.small)
        if judge_spec is None:
            check_device(choice, arguments.device)
        self._check_strategy(judge_spec)
        if self.small:
            one_thread()
        self.chat = self._choose_chat(choice.model)
        self._reasoner: Any = open_reasoner(choice, arguments.dtype, arguments.device, self.chat)
        self.tokenizer: Any = self._reasoner.tokenizer
        self.strategy = None if arguments.strategy is None else self._open_strategy(arguments.strategy, judge_spec)
        needs = None if self.strategy is None else self.strategy.needs()
        stack = ExitStack()
        self._engine = stack.enter_context(self._reasoner.engine(self.policy, arguments.batch, needs))
        self.close: Callable[[], Any] = weakref.finalize(self, stack.close)
        self.totals = HarnessTotals()
        choose_sampling(self._reasoner, **arguments.sampling)  # what is wrong with the model's own is said at once

    def _choose_chat(self, model: str | None) -> Chat:
        given = self.arguments.chat_template_args
        assert isinstance(given, Mapping)  # it was read when the arguments were
        if not self.remote:
            written = [f"{name}={json.dumps(value)}" for name, value in given.items()]
            return choose_chat(model, None, self.arguments.thinking, written)
        if self.arguments.thinking is not None:
            raise InputError(
                "thinking is switched by an argument of the chat template, and that is the server's; give it as "
                'chat_template_args, such as {"enable_thinking": false}'
            )
        return Chat(None, given)

    def _check_strategy(self, judge_spec: str | None) -> None:
        """With a stand-in for the judge: what is wrong with it is refused before a model is loaded."""
        from laconic.judges.baselines import RandomJudge

        given = self.arguments
        if given.strategy is not None:
            calibration = choose_calibration(None, given.strategy)
            judge = RandomJudge() if judge_spec else None
            choose_strategy(given.strategy, given.n or 1, judge, self.small, calibration, spend=given.spend)

    def _open_strategy(self, spec: str, judge_spec: str | None) -> Any:
        from laconic.judges.registry import open_judge

        judge = None
        if judge_spec is not None:
            judge = open_judge(
                judge_spec,
                model=self._reasoner.weights,
                tokenizer=self.tokenizer,
                excerpt=None,
                device=self.arguments.device,
            )
        calibration = choose_calibration(None, spec, self._reasoner)
        return choose_strategy(spec, self.arguments.n or 1, judge, self.small, calibration, spend=self.arguments.spend)

    # ---- prompts --------------------------------------------------------------------------------------------------

    @property
    def template(self) -> str | None:
        """The chat template's text; None without one, "" where it is a server's."""
        if self.remote:
            return ""
        found = getattr(self.tokenizer, "chat_template", None)
        return json.dumps(found, sort_keys=True) if isinstance(found, dict) else found

    def render(self, messages: Sequence[Message], name: str | None = None, goes_on: bool = False) -> str:
        """A conversation as a prompt. name: of one of several chat templates. goes_on: its last message, the assistant's, is
        continued. Raises InputError where there is no such template, or it can't be applied."""
        if self.remote:
            if name is not None:
                raise InputError(
                    f"chat template {name!r} is named, but the template is the server's; leave the name out"
                )
            return _MESSAGES + json.dumps([dict(message) for message in messages])
        templates = getattr(self.tokenizer, "chat_template", None)
        if not templates:
            raise InputError(f"{self.name} has no chat template; leave --apply_chat_template out")
        if name is not None and not isinstance(templates, dict):
            raise InputError(f"{self.name} has one chat template, which has no name; leave {name!r} out")
        if name is not None and name not in templates:
            raise InputError(
                f"{self.name} has no chat template {name!r}; expected one of {', '.join(sorted(templates))}"
            )
        chosen = {} if name is None else {"chat_template": name}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tokenize=False,
                    add_generation_prompt=not goes_on,
                    continue_final_message=goes_on,
                    **chosen,
                    **self.chat.arguments,
                )
            )
        except Exception as error:  # jinja's, or what the template itself raises
            raise InputError(
                f"the chat template of {self.name} can't be applied ({type(error).__name__}: {reason(error)}); mend it, or "
                "leave --apply_chat_template out"
            ) from error

    def encode(self, prompt: HarnessPrompt) -> Any:
        """What the engine takes. Special tokens are the template's affair where there is one, else the tokenizer's."""
        text = prompt.text
        if self.remote:
            from laconic.engines.openai.protocol import Conversation, PlainText

            if not text.startswith(_MESSAGES):
                return PlainText(text)
            return Conversation(tuple(json.loads(text.removeprefix(_MESSAGES))))
        begin = getattr(self.tokenizer, "bos_token", None)
        special = not prompt.templated and not (begin and text.startswith(begin))
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its answer at most; None: not known."""
        if self._reasoner.weights is not None:
            from laconic.engines.hf.models import context_length

            return context_length(self._reasoner.weights)
        facts = getattr(self._engine, "_facts", self._engine)
        return getattr(facts, "context", None)

    # ---- answers --------------------------------------------------------------------------------------------------

    def answer(
        self,
        prompts: Sequence[HarnessPrompt],
        on_done: Callable[[int, HarnessAnswer], None] = lambda place, answer: None,
    ) -> list[HarnessAnswer]:
        """The answers, in order; all prompts are checked before anything runs. on_done: told of each as it comes.

        Raises InputError for a prompt that is empty or longer than the context, or generation arguments that can't be.
        """
        seeds = request_seeds(self.arguments.seed, [prompt.text for prompt in prompts])
        requests = [self._request(i, prompt, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]

        def done(place: int, answer: HarnessAnswer) -> None:
            self.totals.add(answer)
            on_done(place, answer)

        given = self.arguments
        return answer_requests(self._engine, requests, self.strategy, given.batch, given.unclosed, done)

    def _request(self, place: int, prompt: HarnessPrompt, seed: int) -> HarnessRequest:
        try:
            if not prompt.text.strip():
                raise InputError("the prompt is empty: give a question")
            encoded = self.encode(prompt)
            if isinstance(encoded, tuple):
                check_length(len(encoded), self.context)
            if self.small:
                check_vocabulary(self.tokenizer, Question(prompt.text))
            options = prompt.generation.options(self.arguments.sampling, votes=self.strategy is not None)
            sampling = choose_sampling(self._reasoner, **options, seed=seed)
        except LaconicError as error:
            raise InputError(f"request {place}: {error}") from None
        return HarnessRequest(encoded, _question(prompt.text), sampling, prompt.generation.until)

    def warn(self) -> None:
        """LaconicWarning for how a task asks its answers to be drawn, where a vote can't heed it."""
        if self.strategy is not None and "temperature" not in self.arguments.sampling:
            own = choose_sampling(self._reasoner)
            warnings.warn(
                f"a vote draws its traces at the model's own temperature {own.temperature:g} and top_p {own.top_p:g}, whatever "
                "the task says of sampling; give temperature, top_p, top_k as model arguments for others",
                LaconicWarning,
                stacklevel=2,
            )

    def describe(self) -> dict[str, Any]:
        """For a harness's file of results: what ran, and what it took so far."""
        from laconic.environment import hide_directories
        from laconic.version import __version__

        given = {
            key: hide_directories(value) if isinstance(value, str) else value
            for key, value in self.arguments.to_json().items()
        }
        weights, dtype = self._reasoner.identity(self._engine)
        return {
            "version": __version__,
            "arguments": given,
            "policy": self.policy.spec(),
            "strategy": None if self.strategy is None else self.strategy.name,
            "weights": weights,
            "dtype": dtype,
            "totals": self.totals.to_json(),
        }


def _question(text: str) -> str:
    """What the user said last, where the prompt is a conversation."""
    if not text.startswith(_MESSAGES):
        return text
    said = [message["content"] for message in json.loads(text.removeprefix(_MESSAGES)) if message["role"] == "user"]
    return str(said[-1]) if said else text
