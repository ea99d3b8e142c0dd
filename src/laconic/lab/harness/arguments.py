"""What the command line of an evaluation harness passes on to the model that it evaluates: read, checked, and said what for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.settings import parameters_of, setting

UNCLOSED = ("empty", "whole")
DEFAULT_N = 16
_ALIASES = {"model": "pretrained", "max_new_tokens": "max_gen_toks"}
_TEXTS = ("pretrained", "engine", "policy", "strategy", "judge", "spend", "dtype", "device")
_SPECS = ("policy", "strategy", "judge")
# Before a setting of a spec: NAME:a=1+b=2. Others are left alone, as in a path or in 1e+5.
_PLUS = re.compile(r"\+(?=\s*[A-Za-z_]\w*\s*=)")


@dataclass(frozen=True)
class ModelArguments:
    """A model and how it answers. Raises InputError for a value of another type or out of range, n (a judge, spend) without a
    strategy, and no model at all."""

    pretrained: str | None = setting(None, "a directory, a Hub name, a GGUF file, or bundled")
    policy: str = setting("none", "as --policy, none is full KV")
    strategy: str | None = setting(None, "as --strategy: a vote answers, by its winner's text; none is one trace")
    n: int | None = setting(None, "traces of a vote at most, 16 unless given")
    judge: str | None = setting(None, "as --judge, for strategies that ask one")
    spend: str | None = setting(None, "as --spend, for the strategy auto")
    engine: str = setting("hf", "as --engine: hf, vllm:MODEL or openai:URL")
    engine_set: Mapping[str, Any] | str | None = setting(None, "as --engine-set, KEY=VALUE+KEY=VALUE or a JSON object")
    batch: int = setting(64, "traces that run at once")
    max_gen_toks: int | None = setting(None, "tokens of a trace at most; wins over the task's")
    temperature: float | None = setting(None, "0 is greedy; wins over the task's")
    top_p: float | None = setting(None, "wins over the task's")
    top_k: int | None = setting(None, "wins over the task's")
    seed: int = setting(0, "of all that is drawn at random")
    unclosed: str = setting("empty", "what is scored where the thinking never ends: empty, or the whole text")
    thinking: bool | None = setting(None, "switches thinking on or off in the chat template")
    chat_template_args: Mapping[str, Any] | str | None = setting(
        None, "other arguments of the chat template, a JSON object"
    )
    dtype: str = setting("auto", "as --dtype")
    device: str = setting("auto", "as --device")

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            self._set(name, getattr(type(self), name) if value is None else _text(name, value))
        for name in _SPECS:
            value = getattr(self, name)
            if value is not None:
                self._set(name, _PLUS.sub(",", value))
        if self.strategy == "none":
            self._set("strategy", None)
        checks.whole("batch", self.batch, 1, meaning="traces at once")
        checks.seed("seed", self.seed)
        checks.word("unclosed", self.unclosed, UNCLOSED)
        if self.thinking is not None:
            checks.flag("thinking", self.thinking)
        if self.max_gen_toks is not None:
            checks.whole("max_gen_toks", self.max_gen_toks, 1, meaning="tokens")
        self._check_sampling()
        self._check_method()
        self._set("engine_set", _settings("engine_set", self.engine_set))
        self._set("chat_template_args", _settings("chat_template_args", self.chat_template_args))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_sampling(self) -> None:
        from laconic.engines.base import Sampling

        Sampling(**self.sampling)

    def _check_method(self) -> None:
        if self.strategy is None:
            for name in ("n", "judge", "spend"):
                if getattr(self, name) is not None:
                    value = checks.shown(getattr(self, name))
                    raise InputError(
                        f"{name} is {value}, and there is no strategy that it is for; give one, such as strategy=priced-vote, "
                        "or leave it out"
                    )
        elif self.n is None:
            self._set("n", DEFAULT_N)
        else:
            checks.whole("n", self.n, 1, meaning="traces of a vote")
        name, _, place = self.engine.partition(":")
        if name != "openai" and place and self.pretrained is not None:
            raise InputError(f"engine={self.engine} and pretrained={self.pretrained} both name a model; give it once")
        if name != "openai" and not place and self.pretrained is None:
            raise InputError("no model is named; expected pretrained=NAME: a directory, a Hub name, or bundled")

    @property
    def sampling(self) -> dict[str, Any]:
        """What of a `Sampling` was given, by its names."""
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given["max_new_tokens"] = self.max_gen_toks
        return {name: value for name, value in given.items() if value is not None}

    @property
    def engine_settings(self) -> list[str]:
        """As ``--engine-set`` takes them."""
        given = _settings("engine_set", self.engine_set)
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        return [f"{key}={value}" for key, value in texts.items()]

    def to_json(self) -> dict[str, Any]:
        """What was given and isn't the default."""
        fields = parameters_of(type(self))
        own = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in own.items() if value != fields[name].default and value != {}}


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """The arguments by their names, values as a harness has read them. Raises InputError for an unknown one, and as
    ModelArguments."""
    known = parameters_of(ModelArguments)
    values: dict[str, Any] = {}
    for told, value in given.items():
        name = _ALIASES.get(told, told)
        if name not in known:
            raise InputError(
                f"model argument {told!r} is unknown; known are {', '.join(known)} (between settings of a policy or a strategy "
                "write + where there would be a comma: policy=rpc:interval=1024+ratio=4)"
            )
        if name in values:
            raise InputError(f"model argument {name} is given twice ({told}); give it once")
        values[name] = value
    return ModelArguments(**values)


def with_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Model arguments with lm-eval's ``--batch_size`` and ``--device`` put into `batch` and `device`.

    Their defaults come as if they had been given, so that they say nothing here: 1 (`batch` is 64 then), and cuda:0.
    """
    arguments = {name: value for name, value in given.items() if name not in ("batch_size", "max_batch_size")}
    size, device = given.get("batch_size"), given.get("device")
    if size not in (None, 1, "1") and not str(size).startswith("auto") and "batch" not in given:
        arguments["batch"] = int(size) if str(size).isdigit() else size
    if device in (None, "cuda:0", "cuda"):
        arguments.pop("device", None)
    return arguments


def parse_arguments(text: str) -> dict[str, Any]:
    """`NAME,key=value,...`, or a JSON object, for a harness that passes on one text: what `read_arguments` takes.

    The first part may be the model's name alone. Raises InputError for another part without a value, or a key given twice.
    """
    if text.lstrip().startswith("{"):
        return _parsed("the model's arguments", text)
    found: dict[str, Any] = {}
    for number, part in enumerate(text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and number == 0:
            key, value = "pretrained", key
        elif not equals:
            raise InputError(f"{part!r} in {checks.shown(text)} has no value; expected NAME,key=value,...")
        if key in found:
            raise InputError(f"{key} is given twice in {checks.shown(text)}; give it once")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """As lm-eval reads a value: true, false, a number, or a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(name: str, value: Any) -> str:
    """Numbers were texts before a harness read them: a budget of tokens, say."""
    if checks.is_whole(value):
        value = str(value)
    return checks.text(name, value, some=True).strip()


def _settings(name: str, value: Any) -> dict[str, Any]:
    """A JSON object, as text too, or KEY=VALUE+KEY=VALUE."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):
        raise checks.input_error(name, value, "a JSON object, or KEY=VALUE+KEY=VALUE")
    if value.lstrip().startswith("{"):
        return _parsed(name, value)
    found: dict[str, Any] = {}
    for part in _PLUS.sub(",", value).split(","):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not (key and equals and text):
            raise InputError(f"{part!r} in {name} has no value; expected KEY=VALUE+KEY=VALUE, or a JSON object")
        found[key] = _value(text)
    return found


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name} is {checks.shown(text)}, which is no JSON ({error}); mend it") from None
    if not isinstance(found, dict):
        raise checks.input_error(name, text, "a JSON object")
    return found
