"""What policies ask of the model inside vLLM (`Policy.resolved`, `Policy.for_model`).

The front end resolves a launch's policies before workers start, and a request's before it is sent: there a missing selector, or
one of another model, is refused, and what was found by the weights is named by its absolute path. Workers only read that.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from laconic import selectors
from laconic.compress import Policy
from laconic.compress.selector import Selector
from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.settings import KEY, LaunchSettings, parse_request, policy_mapping
from laconic.errors import InputError

FITTED = 64
"""Policies that a worker keeps ready; requests may ask for any number of them, one after another."""


class _WithoutStates:
    """What neither process can give."""

    def find_kvzap(self, place: str | None) -> NoReturn:
        raise InputError("KVzap's networks read hidden states, which vLLM's kernels don't give away: use the hf engine")

    def find_rotation(self) -> NoReturn:
        raise InputError(
            "the model's RoPE is tried on keys of its own, which nobody does inside vLLM: use the hf engine"
        )

    def thought_tokens(self) -> NoReturn:
        raise InputError("the tokens of thoughts are fed by laconic's own engine: use the hf engine")


class LaunchModelInfo(_WithoutStates):
    """`ModelInfo` of a VllmConfig, in the front end."""

    def __init__(self, vllm_config: Any) -> None:
        self._config = vllm_config

    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        return _layer_shapes(self._config, ranks=1)

    def fingerprint(self) -> str | None:
        try:
            return self._find_fingerprint()
        except InputError:
            return None

    def selector_file(self, file: str | None) -> str:
        return _absolute(selectors.look_up(self._find_fingerprint) if file is None else file)

    def find_selector(self, file: str | None) -> Selector:
        found = _read(self.selector_file(file))
        ranks = self._config.parallel_config.tensor_parallel_size
        if ranks > 1 and not found.per_head:
            raise InputError(
                f"the selector reads all KV heads of a layer together, which tensor parallelism spreads over {ranks} devices: "
                "expected one that has a network for each head, or tensor_parallel_size 1"
            )
        return found

    def _find_fingerprint(self) -> str:
        model, load = self._config.model_config, self._config.load_config
        if load.load_format == "dummy":
            raise InputError("they are random (load format dummy)")
        return _fingerprint_of(model.model, model.revision, load.download_dir)


class RequestModelInfo(LaunchModelInfo):
    """Of a request, which may come from anywhere: it names no other files of this machine than those of the launch, and those
    in the selectors' folder. known: the launch's."""

    def __init__(self, vllm_config: Any, known: list[str]) -> None:
        super().__init__(vllm_config)
        self._known = known

    def selector_file(self, file: str | None) -> str:
        if file is None:
            return self._known[0] if self._known else super().selector_file(None)
        shared = (str(folder / Path(file).name) for folder in (selectors.cache_folder(), selectors.SHIPPED))
        for path in (*self._known, *filter(os.path.isfile, shared)):
            if file == Path(path).name or _absolute(file) == _absolute(path):
                return _absolute(path)
        raise InputError(
            f"file is {file!r}, which a request may not name; expected the selector of the launch, that of one of its others, "
            "or the name of a file in the server's folder of selectors"
        )


class WorkerModelInfo(_WithoutStates):
    """`ModelInfo` of one worker: of the KV heads that it has. Files are read once a process.

    rank: the worker's among those that share a layer's heads.
    """

    def __init__(self, vllm_config: Any, rank: int, device: torch.device) -> None:
        self._config, self._device = vllm_config, device
        self._first, self._ranks = first_head(vllm_config, rank), vllm_config.parallel_config.tensor_parallel_size
        self._read: dict[str, Selector] = {}
        self.fit: Callable[[Policy], Policy] = functools.lru_cache(FITTED)(lambda policy: policy.for_model(self))
        """A policy with what it needs of this worker's part of the model."""

    @property
    def bytes(self) -> int:
        """Of all selectors that were read."""
        return sum(selector.bytes for selector in self._read.values())

    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        return _layer_shapes(self._config, self._ranks)

    def fingerprint(self) -> None:
        """The front end has compared it."""

    def selector_file(self, file: str | None) -> str:
        if file is None:
            raise InputError(
                "nobody has looked up the policy's selector, as laconic's front end does: is VLLM_PLUGINS set? Unset it, or "
                "add laconic to it"
            )
        return file

    def find_selector(self, file: str | None) -> Selector:
        path = self.selector_file(file)
        if path not in self._read:
            found = selectors.read_selector(path)
            if self._ranks > 1:
                found = found.of_heads(self._first, max(1, found.kv_heads // self._ranks))
            self._read[path] = found.to(self._device)
        return self._read[path]


def layer_index(name: str, place: int) -> int:
    """The model's index of a layer by vLLM's name of it ("model.layers.3.self_attn.attn"); where that has not one number, its
    place among the worker's."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return numbers[0] if len(numbers) == 1 else place


def first_head(vllm_config: Any, rank: int) -> int:
    """Which of a layer's KV heads is the first of a worker's. Where workers are more than heads, several have the same one."""
    total = vllm_config.model_config.model_arch_config.total_num_kv_heads
    return int(rank * total // vllm_config.parallel_config.tensor_parallel_size)


def resolve_launch(vllm_config: Any) -> None:
    """Say in a launch's settings what its policies look up. Raises InputError where a policy can't run on this model."""
    settings = settings_of(vllm_config)
    assert settings is not None
    info = LaunchModelInfo(vllm_config)
    found = [_resolve(policy, info) for policy in settings.policies]
    if found != list(settings.policies):
        told = LaunchSettings(found[0], settings.queries, tuple(found[1:])).to_mapping()
        vllm_config.additional_config = {**vllm_config.additional_config, KEY: told}


def resolve_request(params: Any, launch: LaunchSettings, vllm_config: Any) -> None:
    """The same for one request's settings. params: its SamplingParams."""
    given = (params.extra_args or {}).get(KEY)
    if given is None:
        return
    asked = parse_request(given, launch)
    if asked.policy == launch.policy:
        return
    found = _resolve(asked.policy, RequestModelInfo(vllm_config, _files_of(launch)))
    if found != asked.policy:
        prompt = {} if asked.prompt_tokens is None else {"prompt_tokens": asked.prompt_tokens}
        params.extra_args = {**params.extra_args, KEY: {**policy_mapping(found), **prompt}}


def _resolve(policy: Policy, info: LaunchModelInfo) -> Policy:
    found = policy.resolved(info)
    found.for_model(info)
    return found


def _files_of(launch: LaunchSettings) -> list[str]:
    """The files that a launch's policies name."""
    named: list[str] = []

    class Note:
        @staticmethod
        def selector_file(file: str | None) -> str:
            if file is not None:
                named.append(file)
            return file or "none"

    for policy in launch.policies:
        policy.resolved(Note())
    return named


def _layer_shapes(vllm_config: Any, ranks: int) -> dict[int, tuple[int, int, int]]:
    """All layers attend to everything: others are refused (`guards`). ranks: workers that share a layer's heads."""
    model = vllm_config.model_config.model_arch_config
    layers = {index: model[index] for index in range(model.total_num_hidden_layers)}
    return {
        index: (max(1, layer.total_num_kv_heads // ranks), layer.head_size, layer.head_size)
        for index, layer in layers.items()
    }


def _absolute(path: str | Path) -> str:
    return os.path.abspath(os.path.expanduser(path))


@functools.lru_cache(maxsize=8)
def _read(path: str) -> Selector:
    return selectors.read_selector(path)


@functools.lru_cache(maxsize=8)
def _fingerprint_of(model: str, revision: str | None, download_dir: str | None) -> str:
    # It imports transformers' models, which few launches need.
    from laconic.engines.hf.stored import checkpoint_fingerprint

    return checkpoint_fingerprint(model, revision=revision, cache_dir=download_dir)
