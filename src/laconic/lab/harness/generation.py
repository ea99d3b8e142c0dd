"""How a task wants its answers generated, by lm-eval's names, and what comes of that beside the model's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic import checks
from laconic.errors import InputError

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""All mean the same; the first that is given counts."""
_KNOWN = ("until", "do_sample", "temperature", "top_p", "top_k", *_LIMITS)
_HARMLESS = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "min_p": 0}
"""What may be said as long as it says nothing."""


@dataclass(frozen=True)
class TaskGeneration:
    """until: stop texts. sampling: what of a `Sampling` the task says, by its names."""

    until: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def options(self, own: Mapping[str, Any], votes: bool) -> dict[str, Any]:
        """What of a `Sampling` is said. own: the model's arguments, which win. votes: several traces are drawn, so how the task
        would draw its one answer doesn't count: greedy ones would all be the same."""
        asked = dict(self.sampling)
        if votes:
            asked = {name: value for name, value in asked.items() if name == "max_new_tokens"}
        return {**asked, **own}


def read_generation(given: Mapping[str, Any]) -> TaskGeneration:
    """A task's `generation_kwargs`, with those of ``--gen_kwargs`` in them.

    As lm-eval has it, what doesn't say do_sample=true or a temperature above 0 is greedy, and do_sample=false is, whatever the
    temperature. With do_sample=true and no temperature the model's own counts. No limit of tokens: the model's own. Raises
    InputError for what isn't served, or a value of another type.
    """
    for name, value in given.items():
        if name not in _KNOWN and (name not in _HARMLESS or value not in (None, _HARMLESS[name])):
            raise InputError(
                f"generation argument {name} is {checks.shown(value)}, which laconic doesn't serve; leave it out (it takes "
                f"{', '.join(_KNOWN)})"
            )
    sampling: dict[str, Any] = {}
    limit = next((given[name] for name in _LIMITS if given.get(name) is not None), None)
    if limit is not None:
        sampling["max_new_tokens"] = checks.whole("max_gen_toks", _as_whole(limit), 1, meaning="tokens")
    draws, temperature = given.get("do_sample"), given.get("temperature")
    if draws is not None:
        checks.flag("do_sample", draws)
    if temperature is not None:
        checks.number("temperature", temperature, 0, 100, "0 is greedy")
    if draws is False or (draws is None and not temperature):
        sampling["temperature"] = 0.0
    elif temperature is not None:
        sampling["temperature"] = temperature
    for name in ("top_p", "top_k"):
        if given.get(name) is not None:
            sampling[name] = given[name]
    if sampling.get("top_k") == -1:  # off, as vLLM writes it
        sampling["top_k"] = 0
    return TaskGeneration(_stops(given.get("until")), sampling)


def _as_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _stops(until: Any) -> tuple[str, ...]:
    if until is None:
        return ()
    texts = [until] if isinstance(until, str) else until
    return tuple(stop for stop in checks.texts("until", texts, "stop texts") if stop)
