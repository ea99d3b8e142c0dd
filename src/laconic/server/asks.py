"""What clients ask for: bodies of /v1/chat/completions, /v1/completions and /v1/responses, checked, in one form.

Every refusal is an `AskError`: a sentence, the field that is meant, and the status. Fields that nobody here knows are ignored,
as other servers ignore them; fields that would change the answer and can't be followed are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from laconic import checks
from laconic.errors import InputError, LaconicError

Endpoint = Literal["chat", "completions", "responses"]
MOST_CHOICES = 128
MOST_STOPS = 16
MOST_TOP_LOGPROBS = 20
MOST_COMPLETION_LOGPROBS = 20  # OpenAI's own limit is 5; vLLM's is 20, and DeepConf reads as many
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
OURS = ("strategy", "n", "compress", "judge", "budget", "progress")


class AskError(InputError):
    """Bad input of a client. param: the field; code: for programs; status: of HTTP."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True, slots=True)
class Method:
    """What laconic is asked to do beside decoding. None: what the server was started with."""

    strategy: str | None = None
    """A strategy's spec, or "none": each choice is one trace."""
    n: int | None = None
    """Traces of a vote at most."""
    compress: str | None = None
    """A policy's spec, or "none"."""
    judge: str | None = None
    budget: str | None = None
    """What a vote may spend: as `laconic solve --spend`."""
    progress: bool = True
    """Whether a vote's progress is told as reasoning while it runs."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. messages: of a chat; prompts: of completions, texts or token ids, each of which gets n choices."""

    endpoint: Endpoint
    model: str
    method: Method
    messages: tuple[dict[str, str], ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    n: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What of a `Sampling` was given, by its names."""
    seed: int | None = None
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    """Alternatives of each token to tell; 0: of the drawn one alone; None: nothing."""
    stream: bool = False
    include_usage: bool = False
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    token_ids: bool = False
    """Whether choices tell the ids of their tokens, as vLLM's do."""
    instructions: str | None = None
    """Of /v1/responses, which are the first of its messages as well."""
    continues: bool = False
    """Whether the last message, the assistant's, is to be gone on with."""

    @property
    def question(self) -> str:
        """What the last user said, or the first prompt: for a list of runs."""
        said = [message["content"] for message in self.messages if message["role"] == "user"]
        if said:
            return said[-1]
        return self.prompts[0] if self.prompts and isinstance(self.prompts[0], str) else ""


def read_ask(endpoint: Endpoint, body: Any) -> Ask:
    """The body of a request as an Ask. Raises AskError."""
    if not isinstance(body, dict):
        raise AskError(f"the body is {checks.shown(body)}; expected a JSON object")
    return {"chat": _read_chat, "completions": _read_completions, "responses": _read_responses}[endpoint](body)


def _read_chat(body: dict[str, Any]) -> Ask:
    _refuse(body)
    given = _get(body, "messages")
    if given is None:
        raise AskError("messages is missing; expected a list of messages", "messages")
    wanted = _flag(body, "logprobs")
    top = _whole(body, "top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top and not wanted:
        raise AskError("top_logprobs is given without logprobs; set logprobs to true, or leave it out", "top_logprobs")
    return Ask(
        "chat",
        messages=_messages(given, "messages", _flag(body, "continue_final_message")),
        continues=_flag(body, "continue_final_message"),
        logprobs=(top or 0) if wanted else None,
        template_arguments=_mapping(body, "chat_template_kwargs"),
        **_common(body, ("max_completion_tokens", "max_tokens")),
    )


def _read_completions(body: dict[str, Any]) -> Ask:
    _refuse(body)
    for name, harmless in (("echo", False), ("suffix", ""), ("best_of", None)):
        value = _get(body, name)
        if value is not None and value != harmless and not (name == "best_of" and value == (body.get("n") or 1)):
            raise AskError(f"{name} isn't supported; leave it out", name, "unsupported_parameter")
    given = _get(body, "prompt")
    if given is None:
        raise AskError("prompt is missing; expected a text, token ids, or a list of either", "prompt")
    return Ask(
        "completions",
        prompts=_prompts(given),
        logprobs=_whole(body, "logprobs", 0, MOST_COMPLETION_LOGPROBS),
        **_common(body, ("max_tokens",)),
    )


def _read_responses(body: dict[str, Any]) -> Ask:
    _refuse(body)
    for name in ("previous_response_id", "conversation"):
        if _get(body, name) is not None:
            raise AskError(
                f"{name} isn't supported, since this server keeps no conversations; send what was said before as input",
                name,
                "unsupported_parameter",
            )
    if _get(body, "background"):
        raise AskError("background isn't supported; leave it out", "background", "unsupported_parameter")
    if _get(body, "top_logprobs"):
        raise AskError(
            "top_logprobs isn't supported at /v1/responses; leave it out, or ask /v1/chat/completions",
            "top_logprobs",
            "unsupported_parameter",
        )
    kind = _mapping(_mapping(body, "text"), "format").get("type", "text")
    if kind != "text":
        raise AskError(f"text.format is {checks.shown(kind)}; only text is supported", "text", "unsupported_parameter")
    given = _get(body, "input")
    if given is None:
        raise AskError("input is missing; expected a text, or a list of messages", "input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    messages = _messages([item for item in _listed(given, "input") if _kind(item) != "reasoning"], "input")
    instructions = _get(body, "instructions")
    if instructions is not None:
        messages = ({"role": "system", "content": _text(instructions, "instructions")}, *messages)
    return Ask(
        "responses",
        messages=messages,
        instructions=instructions,
        template_arguments=_mapping(body, "chat_template_kwargs"),
        **_common(body, ("max_output_tokens",), choices=False),
    )


def _common(body: dict[str, Any], limits: Sequence[str], choices: bool = True) -> dict[str, Any]:
    sampling: dict[str, Any] = {}
    for name in limits:
        limit = _whole(body, name, 1)
        if limit is not None:
            sampling.setdefault("max_new_tokens", limit)
    for name, low, high, above in (("temperature", 0, 100, False), ("top_p", 0, 1, True)):
        value = _get(body, name)
        if value is not None:
            sampling[name] = _checked(
                name, lambda v=value, n=name, a=low, b=high, c=above: checks.number(n, v, a, b, above=c)
            )
    top_k = _get(body, "top_k")
    if top_k is not None:
        sampling["top_k"] = max(0, _checked("top_k", lambda: checks.whole("top_k", top_k, -1, meaning="0 is off")))
    stop_ids = _get(body, "stop_token_ids")
    if stop_ids is not None:
        sampling["stop_token_ids"] = (
            _ids(_listed(stop_ids, "stop_token_ids") or [0], "stop_token_ids") if stop_ids else ()
        )
    seed = _get(body, "seed")
    options = _mapping(body, "stream_options")
    model = _get(body, "model")
    return {
        "model": "" if model is None else _text(model, "model"),
        "method": _method(body),
        "n": (_whole(body, "n", 1, MOST_CHOICES) or 1) if choices else 1,
        "sampling": sampling,
        "seed": None if seed is None else _checked("seed", lambda: checks.seed("seed", seed)),
        "stops": _stops(body),
        "token_ids": _flag(body, "return_token_ids"),
        "stream": _flag(body, "stream"),
        "include_usage": _flag(options, "include_usage"),
    }


def _method(body: dict[str, Any]) -> Method:
    given = _mapping(body, "laconic")
    for name in given:
        if name not in OURS:
            raise AskError(f"laconic.{name} is unknown; expected one of {', '.join(OURS)}", f"laconic.{name}")
    texts = {
        name: _text(given[name], f"laconic.{name}")
        for name in ("strategy", "compress", "judge")
        if given.get(name) is not None
    }
    budget = given.get("budget")
    if budget is not None and not isinstance(budget, str):
        budget = str(_checked("laconic.budget", lambda: checks.whole("laconic.budget", budget, 1, meaning="tokens")))
    progress = given.get("progress")
    return Method(
        n=_whole(given, "n", 1, 4096, "laconic.n"),
        budget=budget,
        progress=True if progress is None else _flag(given, "progress", "laconic.progress"),
        **texts,
    )


def _refuse(body: dict[str, Any]) -> None:
    """What would change the answer, and can't be followed."""
    for name in ("tools", "functions", "logit_bias", "audio", "web_search_options"):
        if _get(body, name):
            raise AskError(f"{name} isn't supported; leave it out", name, "unsupported_parameter")
    for name, neutral in (("frequency_penalty", 0), ("presence_penalty", 0), ("repetition_penalty", 1), ("min_p", 0)):
        value = _get(body, name)
        if value is not None and value != neutral:
            raise AskError(
                f"{name} is {checks.shown(value)}; only {neutral} is supported: leave it out",
                name,
                "unsupported_parameter",
            )
    form = _get(body, "response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise AskError(
            f'response_format is {checks.shown(form)}; only {{"type": "text"}} is supported',
            "response_format",
            "unsupported_parameter",
        )
    choice = _get(body, "tool_choice")
    if choice not in (None, "none", "auto"):
        raise AskError("tool_choice isn't supported; leave it out", "tool_choice", "unsupported_parameter")
    modalities = _get(body, "modalities")
    if modalities is not None and modalities != ["text"]:
        raise AskError("modalities other than text aren't supported", "modalities", "unsupported_parameter")


def _messages(given: Any, name: str, continues: bool = False) -> tuple[dict[str, str], ...]:
    found = []
    for place, message in enumerate(_listed(given, name)):
        where = f"{name}[{place}]"
        if not isinstance(message, dict):
            raise AskError(f"{where} is {checks.shown(message)}; expected an object with role and content", where)
        role = message.get("role")
        if role in ("tool", "function") or message.get("tool_calls"):
            raise AskError(f"{where} is of a tool, and tools aren't supported", where, "unsupported_parameter")
        if not isinstance(role, str) or role not in ROLES:
            raise AskError(f"{where}.role is {checks.shown(role)}; expected one of {', '.join(ROLES)}", f"{where}.role")
        entry = {"role": ROLES[role], "content": _content(message.get("content"), f"{where}.content")}
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        if role == "assistant" and isinstance(thoughts, str):
            entry["reasoning_content"] = _text(thoughts, f"{where}.reasoning_content")
        found.append(entry)
    if not found:
        raise AskError(f"{name} is empty; expected at least one message", name)
    if not any(entry["role"] == "user" for entry in found):
        raise AskError(f"{name} has no message of a user; expected at least one", name)
    if (found[-1]["role"] == "assistant") != continues:
        raise AskError(
            f"the last of {name} is the assistant's; end with a user's, or set continue_final_message to go on with it"
            if not continues
            else f"continue_final_message is set, and the last of {name} is not the assistant's",
            name,
        )
    return tuple(found)


def _content(given: Any, name: str) -> str:
    if given is None:
        return ""
    if isinstance(given, str):
        return _text(given, name)
    texts = []
    for place, part in enumerate(_listed(given, name)):
        where = f"{name}[{place}]"
        kind = _kind(part)
        if kind not in ("text", "input_text", "output_text"):
            raise AskError(
                f"{where} is of type {checks.shown(kind)}; only text is supported", where, "unsupported_parameter"
            )
        texts.append(_text(part.get("text"), f"{where}.text"))
    return "\n".join(texts)


def _prompts(given: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(given, str):
        return (_text(given, "prompt"),)
    several = _listed(given, "prompt")
    if not several:
        raise AskError("prompt is empty; expected a text, token ids, or a list of either", "prompt")
    if all(checks.is_whole(token) for token in several):
        return (_ids(several, "prompt"),)
    if len(several) > MOST_CHOICES:
        raise AskError(f"prompt has {len(several)} entries; expected at most {MOST_CHOICES}", "prompt")
    return tuple(
        _text(each, f"prompt[{place}]")
        if isinstance(each, str)
        else _ids(_listed(each, f"prompt[{place}]"), f"prompt[{place}]")
        for place, each in enumerate(several)
    )


def _ids(given: list[Any], name: str) -> tuple[int, ...]:
    return tuple(_checked(name, lambda: checks.wholes(name, given, 0, meaning="token ids", some=True)))


def _stops(body: dict[str, Any]) -> tuple[str, ...]:
    given = _get(body, "stop")
    if given is None:
        return ()
    several = [given] if isinstance(given, str) else _listed(given, "stop")
    if len(several) > MOST_STOPS:
        raise AskError(f"stop has {len(several)} texts; expected at most {MOST_STOPS}", "stop")
    return tuple(text for text in (_text(each, "stop") for each in several) if text)


# ---- model names -------------------------------------------------------------------------------------------------------

_STRATEGY = re.compile(r"(?P<name>[a-z-]+(?::[a-z]+)?)(?:-(?P<n>[1-9]\d{0,3}))?")


def resolve_model(name: str, served: str, method: Method, strategies: Sequence[str], policies: Sequence[str]) -> Method:
    """The method that a model's name and the request's own settings ask for together.

    `served`, `served:deepprune-16`, `served:rpc`, `served:priced-vote-32+rpc`. Raises AskError (404) for another model or an
    unknown suffix, and (400) where the name and the request say different things.
    """
    if name in ("", served):
        return method
    base, colon, suffix = name.partition(f"{served}:")
    if base or not colon:
        raise AskError(
            f"the model {name!r} isn't served; expected {served}, or one that /v1/models lists",
            "model",
            "model_not_found",
            404,
        )
    found: dict[str, Any] = {}
    for part in suffix.split("+"):
        match = _STRATEGY.fullmatch(part)
        if part in policies:
            found["compress"] = part
        elif match is not None and match["name"] in strategies:
            found["strategy"] = match["name"]
            if match["n"]:
                found["n"] = int(match["n"])
        else:
            wanted = f"a strategy and a number, such as {strategies[0]}-16"
            if policies:
                wanted += f", a policy, such as {policies[0]}, or both, joined by +"
            raise AskError(
                f"{part!r} in the model's name {name!r} is unknown; expected {wanted}",
                "model",
                "model_not_found",
                404,
            )
    for key, value in found.items():
        said = getattr(method, key)
        if said is not None and said != value:
            raise AskError(
                f"the model's name {name!r} and laconic.{key} say different things; give it once", f"laconic.{key}"
            )
    given = {key: getattr(method, key) for key in OURS}
    return Method(**{**given, **found})


# ---- single fields -----------------------------------------------------------------------------------------------------


def _get(body: Mapping[str, Any], name: str) -> Any:
    return body.get(name)


def _checked(name: str, check: Any) -> Any:
    try:
        return check()
    except LaconicError as error:
        raise AskError(str(error), name) from None


def _whole(body: Mapping[str, Any], name: str, least: int, most: int = checks.MOST, shown: str = "") -> int | None:
    value = body.get(name)
    if value is None:
        return None
    called = shown or name
    return int(_checked(called, lambda: checks.whole(called, value, least, most)))


def _flag(body: Mapping[str, Any], name: str, shown: str = "") -> bool:
    value = body.get(name)
    called = shown or name
    return False if value is None else bool(_checked(called, lambda: checks.flag(called, value)))


def _text(value: Any, name: str) -> str:
    return str(_checked(name, lambda: checks.text(name, value)))


def _mapping(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AskError(f"{name} is {checks.shown(value)}; expected an object", name)
    return value


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise AskError(f"{name} is {checks.shown(value)}; expected a list", name)
    return value


def _kind(item: Any) -> Any:
    return item.get("type") if isinstance(item, dict) else None
