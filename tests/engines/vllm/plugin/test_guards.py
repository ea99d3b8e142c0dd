"""What laconic refuses to run beside, and that it changes nothing unasked. test_live_start.py asks the real vLLM."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from laconic.engines.vllm.plugin import guards, registration
from laconic.engines.vllm.plugin.guards import check_config, check_launch_complete, check_signatures, check_version
from laconic.engines.vllm.plugin.launch import ASYNC_SCHEDULER, SCHEDULER, WORKERS
from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.errors import LaconicError

GPU_WORKER = "vllm.v1.worker.gpu_worker.Worker"
RPC = {"policy": "rpc", "interval": 64}


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_versions_that_were_tested(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.32.1", "0.33.0", "0.32.0rc1", "1.0", "dev"])
def test_versions_that_were_not(version: str) -> None:
    with pytest.raises(LaconicError, match=rf"vLLM is {version}, but .* 0\.32\.0 only: install that version"):
        check_version(version)


@pytest.mark.parametrize("value", ["1", "2", "true"])
def test_the_rust_front_end_is_refused(
    listening: type[EngineArgs], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands requests to the engine without asking us."""
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
    with pytest.raises(LaconicError, match=r"Rust front end .*: unset VLLM_USE_RUST_FRONTEND"):
        listening({"laconic": RPC}).create_engine_config()
    listening({}).create_engine_config()  # who doesn't ask may have it


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_the_rust_front_end(
    listening: type[EngineArgs], value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND", raising=False)
    if value is not None:
        monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
    listening({"laconic": RPC}).create_engine_config()


class Sample:
    def method(self, one: int, *, two: int = 2) -> None: ...


def test_signatures() -> None:
    """Names and order count; annotations and defaults don't."""
    check_signatures({f"{__name__}:Sample.method": "self one two", "json:dumps": SAMPLE})


SAMPLE = "obj skipkeys ensure_ascii check_circular allow_nan cls indent separators default sort_keys kw"


@pytest.mark.parametrize(
    ("path", "wanted", "says"),
    [
        ("Sample.method", "self one", r"Sample.method of this vLLM takes \(self one two\), but .* for \(self one\)"),
        ("Sample.method", "self two one", "written for"),
        ("Sample.other", "self", "this vLLM has no .*Sample.other, which laconic's hooks need: install vLLM 0.32.0"),
        ("Other.method", "self", "this vLLM has no"),
    ],
)
def test_signatures_that_changed(path: str, wanted: str, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        check_signatures({f"{__name__}:{path}": wanted})


def test_a_module_that_is_gone() -> None:
    with pytest.raises(LaconicError, match=r"this vLLM has no laconic\.nonesuch:f"):
        check_signatures({"laconic.nonesuch:f": ""})


def config(**changes: Any) -> Any:
    """A VllmConfig of a plain text model on a GPU, as far as it is looked at. changes: e.g. model__use_mla=True."""
    made = SimpleNamespace(
        model_config=SimpleNamespace(
            runner_type="generate",
            is_encoder_decoder=False,
            is_attention_free=False,
            is_hybrid=False,
            use_mla=False,
            is_multimodal_model=False,
            multimodal_config=None,
            hf_text_config=SimpleNamespace(),
            get_sliding_window=lambda: None,
        ),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            use_ubatching=False,
            worker_cls=GPU_WORKER,
        ),
        cache_config=SimpleNamespace(cache_dtype="auto", kv_sharing_fast_prefill=False, block_size=16),
        scheduler_config=SimpleNamespace(scheduler_cls=None, async_scheduling=True),
        attention_config=SimpleNamespace(backend=None),
        speculative_config=None,
        kv_transfer_config=None,
        additional_config={"laconic": RPC},
    )
    for path, value in changes.items():
        part, _, name = path.rpartition("__")
        setattr(getattr(made, f"{part}_config") if part else made, name, value)
    return made


class Backend:
    """An attention backend's class."""

    @staticmethod
    def get_name() -> str:
        return "FLASH_ATTN"

    @staticmethod
    def supports_block_size(size: int) -> bool:
        return size % 16 == 0

    @staticmethod
    def get_supported_kernel_block_sizes() -> list[Any]:
        return [SimpleNamespace(base=16)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cache__cache_dtype": "bfloat16"},
        {"model__hf_text_config": SimpleNamespace(layer_types=["full_attention"] * 3)},
        {"scheduler__scheduler_cls": SCHEDULER},
        {"scheduler__scheduler_cls": ASYNC_SCHEDULER},
        {"parallel__worker_cls": WORKERS[GPU_WORKER]},
        {
            "model__is_multimodal_model": True,
            "model__multimodal_config": SimpleNamespace(language_model_only=True),
        },
        {"attention_config": SimpleNamespace(backend=SimpleNamespace(get_class=lambda: Backend))},
    ],
)
def test_what_is_compressed(changes: dict[str, Any]) -> None:
    check_config(config(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_config": None}, "there is no model"),
        ({"speculative_config": object()}, "speculative decoding .* leave --speculative-config out"),
        ({"model__runner_type": "pooling"}, "runs as pooling"),
        ({"model__is_encoder_decoder": True}, "encoder-decoder"),
        ({"model__is_hybrid": True}, "hybrid models"),
        ({"model__is_attention_free": True}, "hybrid models"),
        ({"model__use_mla": True}, "MLA"),
        ({"model__is_multimodal_model": True}, "multimodal models .* --language-model-only"),
        (
            {
                "model__is_multimodal_model": True,
                "model__multimodal_config": SimpleNamespace(language_model_only=False),
            },
            "multimodal models",
        ),
        ({"model__get_sliding_window": lambda: 4096}, r"\(window 4096\) are not supported"),
        (
            {"model__hf_text_config": SimpleNamespace(layer_types=["full_attention", "sliding_attention"])},
            r"\(sliding_attention\) are not supported",
        ),
        ({"model__hf_text_config": SimpleNamespace(layer_types=["chunked_attention"])}, r"\(chunked_attention\)"),
        ({"model__hf_text_config": SimpleNamespace(alibi=True)}, "ALiBi"),
        ({"model__hf_text_config": SimpleNamespace(position_embedding_type="alibi")}, "ALiBi"),
        ({"parallel__decode_context_parallel_size": 2}, "context parallelism"),
        ({"parallel__prefill_context_parallel_size": 2}, "context parallelism"),
        ({"parallel__use_ubatching": True}, "leave --enable-dbo out"),
        ({"kv_transfer_config": object()}, "leave --kv-transfer-config out"),
        ({"cache__cache_dtype": "fp8_e4m3"}, r"quantized KV cache \(fp8_e4m3\)"),
        ({"cache__kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"parallel__worker_cls": "some.other.Worker"}, "some.other.Worker is none of those that laconic extends"),
        ({"scheduler__scheduler_cls": "some.other.Scheduler"}, "some.other.Scheduler is not laconic's; leave"),
        ({"scheduler__scheduler_cls": Sample}, "test_guards.Sample is not laconic's"),
        (
            {
                "cache__block_size": 24,
                "attention_config": SimpleNamespace(backend=SimpleNamespace(get_class=lambda: Backend)),
            },
            "FLASH_ATTN takes no blocks of 24 tokens; give --block-size a multiple of 16",
        ),
    ],
)
def test_what_is_not(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=rf"can't compress under this configuration: .*{says}") as error:
        check_config(config(**changes))
    assert "\n" not in str(error.value)


def test_a_launch_that_is_complete() -> None:
    assert check_launch_complete(config(parallel__worker_cls=WORKERS[GPU_WORKER])) == parse_launch(RPC)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"additional_config": {}}, "--additional-config has no settings for it: give"),
        ({}, "its worker doesn't: vLLM did not load laconic's plugin. Is VLLM_PLUGINS set"),
    ],
)
def test_a_launch_that_is_not(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        check_launch_complete(config(**changes))


# ---- the entry point --------------------------------------------------------------------------------------------------


class EngineArgs:
    """As much of vLLM's as is listened to."""

    def __init__(self, additional_config: Any = None, scheduler_cls: Any = None) -> None:
        self.additional_config, self.scheduler_cls = additional_config, scheduler_cls

    def create_engine_config(self, usage: str = "plain") -> Any:
        """vLLM's own."""
        return config(additional_config=self.additional_config, usage=usage)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> type[EngineArgs]:
    """A process with a stand-in for vLLM in which the entry point was called, twice."""
    own: Any = type("EngineArgs", (EngineArgs,), {})
    arguments, vllm = ModuleType("vllm.engine.arg_utils"), ModuleType("vllm")
    arguments.EngineArgs = own  # type: ignore[attr-defined]
    vllm.__version__ = "0.32.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", arguments)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    frontend = ModuleType("laconic.engines.vllm.plugin.frontend")
    frontend.install_hooks = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laconic.engines.vllm.plugin.frontend", frontend)
    monkeypatch.setattr("laconic.engines.vllm.plugin.frontend", frontend, raising=False)
    monkeypatch.setattr(guards, "check_signatures", lambda: None)
    registration.register()
    first = own.create_engine_config
    registration.register()
    assert own.create_engine_config is first
    assert first.__doc__ == "vLLM's own."
    return own


@pytest.mark.parametrize("extra", [None, {}, {"other": {"policy": "h2o"}}])
def test_a_launch_that_does_not_ask_stays_stock(listening: type[EngineArgs], extra: Any) -> None:
    made = listening(extra).create_engine_config(usage="mine")
    assert made.usage == "mine"
    assert made.scheduler_config.scheduler_cls is None
    assert made.parallel_config.worker_cls == GPU_WORKER


def test_a_launch_that_asks_gets_our_classes(listening: type[EngineArgs]) -> None:
    made = listening({"laconic": RPC}).create_engine_config()
    assert made.scheduler_config.scheduler_cls == ASYNC_SCHEDULER
    assert made.parallel_config.worker_cls == WORKERS[GPU_WORKER]


def test_without_asynchronous_scheduling(listening: type[EngineArgs], monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(scheduler__async_scheduling=False)
    registration.configure(made)
    assert made.scheduler_config.scheduler_cls == SCHEDULER


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"additional_config": {"laconic": {"policy": "h2o"}}}, "policy h2o can't run inside vLLM"),
        ({"scheduler_cls": SCHEDULER}, "--additional-config has no settings"),
        ({"scheduler_cls": ASYNC_SCHEDULER, "additional_config": {"other": 1}}, "--additional-config has no settings"),
    ],
)
def test_a_refusal_raises_in_a_program_and_ends_a_server(
    listening: type[EngineArgs], arguments: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LaconicError, match=says):
        listening(**arguments).create_engine_config()
    main = SimpleNamespace(__spec__=SimpleNamespace(name="vllm.entrypoints.openai.api_server"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(SystemExit) as error:
        listening(**arguments).create_engine_config()
    assert str(error.value).startswith("laconic")  # once, whoever says it
    assert says in str(error.value)


def test_an_untested_version_is_refused_before_anything_else(
    listening: type[EngineArgs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.33.0")
    with pytest.raises(LaconicError, match=r"vLLM is 0\.33\.0"):
        listening({"laconic": {"policy": "nonesuch"}}).create_engine_config()
    listening({}).create_engine_config()  # who doesn't ask may have any version


def test_the_entry_point_loads_nothing_heavy() -> None:
    """vLLM loads it in every one of its processes."""
    program = (
        "import sys; from laconic.engines.vllm.plugin import register; register(); "
        "print(sorted({'torch', 'numpy', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_without_a_front_end_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm.engine.arg_utils", raising=False)
    before = set(sys.modules)
    registration.register()
    assert set(sys.modules) == before
