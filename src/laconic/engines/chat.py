"""How a question is put to a model: through its chat template, with a system message and arguments of the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from laconic import checks
from laconic.errors import InputError, LaconicError, reason

THINKING = ("enable_thinking", "thinking")
"""What templates call the switch for thinking; the first that a template reads is taken."""
_OURS = frozenset(
    (
        *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs"),
    )
)
_QUESTION = "What is 1 + 1?"


@dataclass(frozen=True)
class Chat:
    """What a chat template gets beside the question; false if nothing.

    system: a message before it; None: what the template writes by itself. arguments: of the template, by name, such as
    {"enable_thinking": False}. Raises InputError for another type, or an argument that isn't the template's own.
    """

    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.system is not None:
            checks.instance("system", self.system, str, "a text, or None for none")
            checks.text("system", self.system)
        if not isinstance(self.arguments, Mapping) or not all(isinstance(name, str) for name in self.arguments):
            raise checks.input_error("arguments", self.arguments, "a mapping of names to values")
        for name in self.arguments:
            if name in _OURS or not name.isidentifier():
                raise InputError(
                    f"{name!r} is no argument of a chat template's own; expected one that the model's template reads, such as "
                    "enable_thinking"
                )
        object.__setattr__(self, "arguments", dict(self.arguments))

    def __bool__(self) -> bool:
        return self.system is not None or bool(self.arguments)

    def to_json(self) -> dict[str, Any]:
        """What was given, for headers of recorded files: nothing where nothing was."""
        system = {} if self.system is None else {"system": self.system}
        return system | ({"arguments": dict(self.arguments)} if self.arguments else {})

    def render(self, tokenizer: Any, question: str) -> str:
        """The prompt of a question, by a tokenizer that has a chat template."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [*system, {"role": "user", "content": question}]
        return apply_template(tokenizer, messages, **self.arguments)

    def check(self, tokenizer: Any) -> None:
        """InputError unless the template takes all this: what it writes must depend on each."""
        if not self:
            return
        if tokenizer is None or not getattr(tokenizer, "chat_template", None):
            what = "a system message" if self.system is not None else f"an argument {next(iter(self.arguments))}"
            raise InputError(f"the model has no chat template that could take {what}; leave it out")
        try:
            text = self.render(tokenizer, _QUESTION)
        except LaconicError as error:
            given = ", ".join([*(["a system message"] if self.system is not None else []), *self.arguments])
            raise InputError(f"the model's chat template does not take {given}: {error.__cause__}") from None
        if self.system is not None and text == replace(self, system=None).render(tokenizer, _QUESTION):
            raise InputError(
                "the model's chat template takes no system message: the prompt is the same without it; put it into the question"
            )
        for name, value in self.arguments.items():
            other = (not value) if isinstance(value, bool) else f"not {value}"
            if text == self._tried(tokenizer, name, other):
                raise InputError(
                    f"the model's chat template takes no argument {name}: the prompt is the same whatever it is; leave it out"
                )

    def _tried(self, tokenizer: Any, name: str, value: Any) -> str | None:
        """The prompt with another value of an argument; None where the template refuses that, so it does read it."""
        try:
            return Chat(self.system, {**self.arguments, name: value}).render(tokenizer, _QUESTION)
        except LaconicError:
            return None


def apply_template(tokenizer: Any, messages: list[dict[str, str]], **arguments: Any) -> str:
    """A conversation as the tokenizer's chat template writes it, up to where the model goes on.

    A template is a program that comes with the model: whatever it raises is told in a sentence, as a LaconicError.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments))
    except Exception as error:  # jinja's, or what the template itself raises
        name = getattr(tokenizer, "name_or_path", "") or "the model"
        raise InputError(
            f"the chat template of {name} can't be applied ({type(error).__name__}: {reason(error)}); mend it, or give the "
            "prompt's token ids"
        ) from error


def chat_of(chat: Any) -> Chat:
    """The chat that an engine was given; nothing for None. Raises InputError for anything else."""
    return Chat() if chat is None else checks.instance("chat", chat, Chat, "a Chat, or None")


def thinking_argument(tokenizer: Any) -> str:
    """The name by which the model's chat template switches thinking on and off. Raises InputError where it can't."""
    if tokenizer is not None and getattr(tokenizer, "chat_template", None):
        for name in THINKING:
            try:
                Chat(arguments={name: False}).check(tokenizer)
            except LaconicError:
                continue
            return name
    raise InputError(
        f"the model's chat template can't switch thinking on or off: it takes neither {' nor '.join(THINKING)}; leave that to "
        "the model"
    )
