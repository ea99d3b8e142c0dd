"""From a model's name to a vLLM that runs it, with one sentence for everything that can be wrong on the way."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from laconic import checks
from laconic.compress import FullKV, Policy
from laconic.engines.chat import Chat, chat_of
from laconic.engines.hf.gguf import is_gguf
from laconic.engines.hf.loading import check_name, load_generation_config, load_tokenizer
from laconic.engines.text import end_ids
from laconic.engines.vllm.engine.client import AHEAD, VLLMClient, check_installed
from laconic.engines.vllm.engine.failures import start_error
from laconic.engines.vllm.engine.model_facts import ModelFacts, facts_of
from laconic.engines.vllm.engine.start_environment import redirect_output, vllm_environment
from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.settings import KEY, check_policy, policy_mapping, queries_read
from laconic.errors import InputError

CPU_KV_BYTES = 1 << 30
"""vLLM's cache on a CPU where nothing is said: it would take most of the machine's memory."""

_SET_BY_LACONIC = {
    "logits_processors": "laconic draws the tokens itself",
    "additional_config.laconic": "the policy says it",
    "max_num_seqs": "say max_batch",
    "speculative_config": "laconic draws one token a step",
    "skip_tokenizer_init": "the engine needs the tokenizer",
}


@dataclass(frozen=True, slots=True)
class RunningVLLM:
    """A running vLLM and what an engine needs to know of it. Engines may share one, one after another."""

    model: str
    """A directory, or a name on the Hub."""
    policy: Policy
    """What its launch asked laconic's plugin for."""
    client: VLLMClient
    tokenizer: Any
    """transformers' of the model."""
    generation_config: Any
    """transformers' of the model; its defaults where the model has none."""
    facts: ModelFacts
    queries: int | None = None
    """Latest queries that the plugin keeps for each request; None: nothing is ever compressed, and it is not at work."""

    def check_served(self, policy: Policy) -> None:
        """Raises InputError for a policy that this launch can't serve."""
        check_policy(policy)
        if policy == self.policy or (self.queries is None and not compresses(policy)):
            return
        if self.queries is None:
            raise InputError(
                f"this vLLM was not started for policy {policy.spec()}: its launch compresses nothing, so laconic's plugin is "
                "not at work; start it with a policy, and single requests may ask for others and for none"
            )
        needed = queries_read(policy)
        if needed > self.queries:
            raise InputError(
                f"this vLLM was not started for policy {policy.spec()}, which reads the latest {needed} queries, and "
                f"{self.queries} are kept; expected a shorter window, or a start with that policy"
            )

    @property
    def end_ids(self) -> frozenset[int]:
        """The model's end-of-sequence tokens."""
        return end_ids(self.generation_config, self.client.config.model_config.hf_text_config, self.tokenizer)


def start(
    model: str | os.PathLike[str],
    policy: Policy | None = None,
    max_batch: int = 64,
    dtype: str = "auto",
    ahead: int = AHEAD,
    log: Path | None = None,
    chat: Chat | None = None,
    others: Sequence[Policy] = (),
    **engine_args: Any,
) -> RunningVLLM:
    """See VLLMEngine for the arguments. others: policies that engines over it may have besides (`VLLMEngine.over`).

    Raises InputError where vLLM is missing, a policy can't run in it, the model can't be read, or vLLM refuses the model, an
    argument or the memory (with its own reason); EngineError where vLLM dies.
    """
    chosen = policy if policy is not None else FullKV()
    for one in (chosen, *checks.instances("others", others, Policy, "policies of other engines over the same vLLM")):
        check_policy(one)
    name = check_name(model)
    checks.instance("dtype", dtype, (str, torch.dtype), "auto, float32, bfloat16 or float16")
    ahead = checks.whole("ahead", ahead, 1, meaning="tokens")
    if log is not None:
        checks.instance("log", log, (str, os.PathLike), "the path of a file, or None")
    check_installed()
    arguments = arguments_for(name, chosen, max_batch, dtype, engine_args, others)
    tokenizer, generation_config = load_tokenizer_and_config(name, engine_args)
    chat_of(chat).check(tokenizer)
    client = VLLMClient(arguments, ahead=ahead, log=log)
    try:
        if KEY in arguments["additional_config"] and not _plugin_is_loaded(client.config):
            raise InputError(
                "vLLM did not load laconic's plugin, so nothing would be compressed: install laconic beside it (an entry point "
                "tells vLLM of the plugin), and if VLLM_PLUGINS is set, add laconic to it"
            )
        settings = settings_of(client.config)
        queries = None if settings is None else settings.queries
        return RunningVLLM(name, chosen, client, tokenizer, generation_config, facts_of(client.config), queries)
    except BaseException:
        client.close()
        raise


def dtype_of(model: str, dtype: str, engine_args: Mapping[str, Any]) -> str:
    """The number format that vLLM chooses for a model's weights, without starting it: float32, bfloat16 or float16. Raises
    InputError, with vLLM's own reason, where it takes neither the model nor the dtype."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    arguments = arguments_for(model, FullKV(), 1, dtype, engine_args)
    with tempfile.TemporaryFile() as log:
        try:
            with vllm_environment(bool(arguments.get("enforce_eager"))), redirect_output(log):
                config = AsyncEngineArgs(**arguments).create_model_config()
        except Exception as error:  # vLLM's, transformers' and pydantic's own kinds
            raise start_error(error, log, model) or error from None
    return str(config.dtype).removeprefix("torch.")


def load_tokenizer_and_config(model: str, engine_args: Mapping[str, Any]) -> tuple[Any, Any]:
    """A model's tokenizer and generation configuration, from where vLLM's arguments `tokenizer`, `revision` and
    `trust_remote_code` say. Raises InputError where they can't be read, and for a GGUF file."""
    if is_gguf(model):
        raise InputError(
            f"{model} is a GGUF file, which laconic doesn't run inside vLLM: use the engine hf, or a directory of safetensors"
        )
    from_hub = {key: engine_args[key] for key in ("revision", "trust_remote_code") if key in engine_args}
    tokenizer = load_tokenizer(engine_args.get("tokenizer", model), **from_hub)
    return tokenizer, load_generation_config(model, **from_hub)


def compresses(policy: Policy) -> bool:
    """Whether it ever does."""
    return policy.schedule.next_boundary(0) is not None


def arguments_for(
    model: str,
    policy: Policy,
    max_batch: int,
    dtype: str,
    engine_args: Mapping[str, Any],
    others: Sequence[Policy] = (),
) -> dict[str, Any]:
    """The arguments of vLLM's AsyncEngineArgs. Raises InputError for those that laconic has to set itself, and for a text
    where a number belongs."""
    _check_texts({name: value for name, value in engine_args.items() if isinstance(value, str)})
    given_config = engine_args.get("additional_config") or {}
    extra = dict(checks.instance("additional_config", given_config, Mapping, 'an object, such as {"key": 1}'))
    for given in (*engine_args, *(f"additional_config.{key}" for key in extra)):
        if given in _SET_BY_LACONIC:
            raise InputError(f"{given} can't be given to the vLLM engine: {_SET_BY_LACONIC[given]}; leave it out")
    if any(map(compresses, (policy, *others))):
        extra[KEY] = policy_mapping(policy)
        if others:
            extra[KEY]["others"] = [policy_mapping(one) for one in others]
    arguments: dict[str, Any] = {
        "model": model,
        "runner": "generate",
        "dtype": dtype,
        "max_num_seqs": max_batch,
        "max_logprobs": -1,
        **engine_args,
        "additional_config": extra,
    }
    if _on_cpu():
        arguments.setdefault("enforce_eager", True)
        arguments.setdefault("kv_cache_memory_bytes", CPU_KV_BYTES)
    return arguments


def _check_texts(given: Mapping[str, str]) -> None:
    """InputError for a text where a number belongs: what comes of it in vLLM names neither."""
    if not given:
        return
    from vllm.engine.arg_utils import AsyncEngineArgs

    for field in dataclasses.fields(AsyncEngineArgs):
        if field.name in given and isinstance(field.default, int | float):
            kind = "true or false" if isinstance(field.default, bool) else "a number"
            raise InputError(f"{field.name} is {given[field.name]!r}; vLLM expects {kind}")


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _plugin_is_loaded(vllm_config: Any) -> bool:
    """Whether the plugin has put its scheduler into the configuration."""
    chosen = vllm_config.scheduler_config.scheduler_cls
    name = chosen if isinstance(chosen, str) else getattr(chosen, "__module__", "")
    return str(name).startswith("laconic.")
