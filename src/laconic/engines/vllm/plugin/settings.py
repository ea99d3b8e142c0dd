"""What `{"laconic": ...}` means: for a launch (`--additional-config`) and for one request (`SamplingParams.extra_args`).

Written as a mapping, `{"policy": "rpc", "interval": 1024, "ratio": 4}`; or as text, `"rpc:interval=1024,ratio=4"` or that
mapping as JSON, because vLLM's HTTP schema lets `vllm_xargs` hold no nested mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from laconic import checks
from laconic.checks import whole
from laconic.compress import FullKV, Policy
from laconic.compress.registry import broken, get, is_absent, known, parse, written_settings
from laconic.errors import InputError, LaconicError
from laconic.jsonl import NotJSONError
from laconic.jsonl import parse as read_json

KEY = "laconic"
"""The key of both dictionaries that is ours."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """A launch's settings. Raises InputError for a policy that can't run inside vLLM, or reads more queries than are kept."""

    policy: Policy
    """What requests get that don't say otherwise."""
    queries: int
    """How many of the latest queries each request's ring holds; more than `policy` reads lets single requests ask for a policy
    with a longer window."""
    others: tuple[Policy, ...] = ()
    """What single requests will ask for besides: checked and made ready at the start, as `policy` is."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        object.__setattr__(
            self, "others", tuple(checks.instances("others", self.others, Policy, "policies that requests may ask for"))
        )
        whole("queries", self.queries, 0, meaning="latest queries kept for each request")
        for policy in self.policies:
            check_policy(policy)
            needed = queries_read(policy)
            if self.queries < needed:
                raise InputError(
                    f"queries is {self.queries}, but policy {policy.spec()} reads the latest {needed}; expected at least that"
                )

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All that are known at the start, `policy` first."""
        return (self.policy, *self.others)

    def to_mapping(self) -> dict[str, Any]:
        """As `parse_launch` reads it: JSON values."""
        others = [policy_mapping(policy) for policy in self.others]
        return {**policy_mapping(self.policy), "queries": self.queries, **({"others": others} if others else {})}

    def describe(self) -> str:
        return f"{self.policy.spec()}, {self.queries} latest queries a request"


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """One request's settings."""

    policy: Policy
    prompt_tokens: int | None = None
    """How many of the tokens sent are the prompt, the rest having been generated before; None: all of them."""


def policy_mapping(policy: Policy) -> dict[str, Any]:
    """A policy as settings: JSON values."""
    return {"policy": policy.name, **policy.settings()}


def parse_launch(raw: object) -> LaunchSettings:
    """The settings of a launch. Raises InputError that names what is wrong and lists what is known."""
    given = _as_mapping(raw)
    if "policy" not in given:
        raise InputError(
            f"laconic's settings name no policy; expected e.g. {{'policy': 'rpc', 'interval': 1024, 'ratio': 4}}, "
            f"with a policy of {_supported_policies()}"
        )
    queries, others = given.pop("queries", None), given.pop("others", ())
    policy = _make_policy(given, "queries", "others")
    if queries is not None:
        whole("queries", queries, 0, meaning="latest queries kept for each request")
    policies = (policy, *_parse_others(others))
    most = max(map(queries_read, policies))
    return LaunchSettings(policy, most if queries is None else queries, policies[1:])


def _parse_others(raw: object) -> list[Policy]:
    if not isinstance(raw, (list, tuple)):
        raise InputError(
            f"others of laconic's settings is {checks.shown(raw)}; expected a list of policies that requests may ask for, such "
            "as ['rpc:window=64', {'policy': 'rkv'}]"
        )
    found = []
    for one in raw:
        given = _as_mapping(one)
        if "policy" not in given:
            raise InputError(
                f"one of laconic's others names no policy; expected each to name one of {_supported_policies()}"
            )
        found.append(_make_policy(given))
    return found


def parse_request(raw: object, launch: LaunchSettings) -> RequestSettings:
    """A request's settings, on top of the launch's: what isn't said stays as the launch has it, unless another policy is named.

    Raises InputError for what `parse_launch` refuses, for `prompt_tokens` below 1, and for a policy that reads more queries
    than the launch keeps.
    """
    checks.instance("launch", launch, LaunchSettings, "the launch's LaunchSettings")
    if raw is None:
        return RequestSettings(launch.policy)
    given = _as_mapping(raw)
    prompt_tokens = given.pop("prompt_tokens", None)
    if prompt_tokens is not None:
        whole("prompt_tokens", prompt_tokens, 1, meaning="the first tokens sent, which are the prompt")
    if "policy" not in given or _policy_class(given["policy"]) is type(launch.policy):
        own = {f.name: getattr(launch.policy, f.name) for f in fields(launch.policy)}
        given = {**own, **given, "policy": launch.policy.name}
    policy = _make_policy(given, "prompt_tokens")
    check_policy(policy)
    needed = queries_read(policy)
    if needed > launch.queries:
        raise InputError(
            f"policy {policy.spec()} reads the latest {needed} queries, but this server keeps {launch.queries} a request; "
            f"expected a shorter window, or a launch with 'queries': {needed} in its laconic settings"
        )
    return RequestSettings(policy, prompt_tokens)


def check_policy(policy: Policy) -> None:
    """Raises InputError for what is no policy, or one that can't run inside vLLM, with the reason."""
    checks.instance("policy", policy, Policy, "one of laconic's policies, for example laconic.RPC()")
    reason = _why_unsupported(policy)
    if reason:
        raise InputError(
            f"policy {policy.name} can't run inside vLLM: {reason}; expected one of {_supported_policies()}"
        )


def runs_inside(policy: Policy) -> bool:
    """Whether it can run inside vLLM."""
    return not _why_unsupported(policy)


def _why_unsupported(policy: Policy) -> str:
    if policy.schedule.reads_tokens:
        return (
            "it goes by the tokens that are drawn and feeds some of its own, which the scheduler there knows nothing of"
        )
    scorer = policy.scorer
    if scorer is None:
        return ""
    if scorer.reads_inputs:
        return "it reads hidden states, which vLLM's kernels don't give away"
    if scorer.reads_rotation:
        return "it undoes the model's RoPE, which laconic doesn't look for there"
    if scorer.accumulates:
        return "it accumulates the attention of every step, which vLLM's kernels don't give away"
    if scorer.needs_token_ids:
        return "it looks at token ids"
    if scorer.reads_future:
        return "it reads what later tokens will attend to, which only a recorded trace tells"
    if scorer.reads_prompt:
        return "it weighs the prompt's keys at every compression"
    return ""


def _supported_policies() -> str:
    names = []
    for name, cls in known().items():
        try:
            policy = cls()
        except (TypeError, LaconicError):  # needs an argument: from Python only
            continue
        if not _why_unsupported(policy):
            names.append("none" if name == FullKV.name else name)
    return ", ".join(names)


def queries_read(policy: Policy) -> int:
    """How many of the latest queries a policy's scorer reads."""
    return 0 if policy.scorer is None else policy.scorer.queries


def _policy_class(name: object) -> type[Policy]:
    if not isinstance(name, str):
        raise InputError(f"policy is {checks.shown(name)}; expected the name of one: {_supported_policies()}")
    if name.strip().lower() == "none":
        return FullKV
    try:
        return get(name)
    except LaconicError:
        if name in broken() or is_absent(name):  # a third party's that doesn't load, or another package's: it says why
            raise
        raise InputError(
            f"policy {name!r} is unknown; expected one that runs inside vLLM: {_supported_policies()}"
        ) from None


def _make_policy(given: dict[str, Any], *own: str) -> Policy:
    """The policy of a mapping whose other keys are its settings. own: keys of ours that may stand beside them."""
    cls = _policy_class(given.pop("policy"))
    names = [f.name for f in fields(cls)]
    for key in given:
        if key not in names:
            raise InputError(
                f"{key!r} in laconic's settings is unknown; known with policy {cls.name}: {', '.join(['policy', *names, *own])}"
            )
    return parse(cls.name, **given)


def _as_mapping(raw: object) -> dict[str, Any]:
    if isinstance(raw, str):
        text = raw.strip()
        if not text.startswith("{"):
            name, colon, rest = text.partition(":")
            name = _policy_class(name).name
            return {"policy": name, **written_settings(name + colon + rest)}
        try:
            raw = read_json(text)
        except NotJSONError as error:
            raise InputError(f"laconic's settings are no valid JSON ({error.reason}); they are {text!r}") from None
        except LaconicError as error:
            raise InputError(f"the text of laconic's settings {error}") from None
    if not isinstance(raw, Mapping) or not all(isinstance(key, str) for key in raw):
        raise InputError(
            f"laconic's settings are {checks.shown(raw)}; expected a mapping such as "
            "{'policy': 'rpc', 'interval': 1024, 'ratio': 4}"
        )
    return dict(raw)
