"""--system, --thinking and --chat-template-arg: what goes into the chat template beside the question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laconic.cli.common import is_bundled, model_path
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.engines.chat import Chat


def choose_chat(model: str | None, system: str | None, thinking: bool | None, arguments: Sequence[str] | None) -> Chat:
    """The chat of the three options, checked against the model's template before its weights are loaded.

    Raises InputError for a model without a template, one whose template doesn't take what is given, an argument without
    a value, or one given twice.
    """
    from laconic.engines.chat import THINKING, Chat, thinking_argument

    given = _parsed(arguments or ())
    if thinking is not None:
        twice = next((name for name in THINKING if name in given), None)
        if twice is not None:
            raise InputError(
                f"--{'' if thinking else 'no-'}thinking and --chat-template-arg {twice} say the same; give one of them"
            )
    if system is not None and is_bundled(model):
        raise InputError(
            "the bundled reasoner was trained without system messages; leave --system out, or name another model with --model"
        )
    chat = Chat(system, given)
    if not chat and thinking is None:
        return chat

    from laconic.engines.hf.loading import check_path, load_tokenizer

    path = model_path(model)
    check_path(path)
    tokenizer = load_tokenizer(path)
    if thinking is not None:
        chat = Chat(system, {**given, thinking_argument(tokenizer): thinking})
    chat.check(tokenizer)
    return chat


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """`name=value` as names and values; a value is JSON, or else a text."""
    found: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"--chat-template-arg {text} has no value; expected NAME=VALUE")
        if name in found:
            raise InputError(f"--chat-template-arg gives {name} twice; give it once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
