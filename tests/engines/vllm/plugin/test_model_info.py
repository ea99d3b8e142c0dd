"""What policies ask of the model inside vLLM: resolved at the launch, held to the launch's files by requests. Needs no vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laconic import selectors
from laconic.compress import RPC, FullKV, Learned, LearnedScore, Policy
from laconic.engines.vllm.plugin import model_info
from laconic.engines.vllm.plugin.launch import settings_of
from laconic.engines.vllm.plugin.model_info import (
    LaunchModelInfo,
    WorkerModelInfo,
    first_head,
    layer_index,
    resolve_launch,
    resolve_request,
)
from laconic.errors import InputError
from laconic.selectors import place_of, write_selector
from tests.reference.selectors import random_selector

FINGERPRINT = "00112233445566ff"
CPU = torch.device("cpu")


class Architecture(SimpleNamespace):
    """As much of vLLM's ModelArchitectureConfig as is looked at; every layer is alike."""

    def __getitem__(self, index: int) -> Architecture:
        return self


def config(laconic: Any = None, ranks: int = 1, **changes: Any) -> Any:
    """A VllmConfig of a model with three layers of four heads of eight numbers."""
    architecture = Architecture(total_num_hidden_layers=3, total_num_kv_heads=4, head_size=8)
    return SimpleNamespace(
        model_config=SimpleNamespace(model="org/model", revision=None, model_arch_config=architecture),
        load_config=SimpleNamespace(load_format=changes.pop("load_format", "auto"), download_dir=None),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks),
        additional_config={"other": 1, "laconic": laconic},
    )


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """How often the checkpoint's files were read. The user's folder of selectors is empty, and none ships."""
    found: list[str] = []

    def fingerprint(name: str, revision: str | None = None, cache_dir: str | None = None) -> str:
        found.append(name)
        return FINGERPRINT

    monkeypatch.setattr("laconic.engines.hf.stored.checkpoint_fingerprint", fingerprint)
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(selectors, "SHIPPED", tmp_path / "shipped")
    model_info._fingerprint_of.cache_clear()
    model_info._read.cache_clear()
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a selector for that model, and tells where."""

    def made(name: str = "", per_head: bool = False, **more: Any) -> str:
        place = tmp_path / f"{name}.safetensors" if name else place_of(FINGERPRINT)
        write_selector(place, random_selector((0, 1, 2), 4, 8, per_head=per_head, **more))
        return str(place)

    return made


def resolved(laconic: Any, **changes: Any) -> Any:
    """The configuration after a launch."""
    found = config(laconic, **changes)
    resolve_launch(found)
    return found


# ---- a launch -----------------------------------------------------------------------------------------------------------


def test_a_selector_is_found_by_the_checkpoint(write: Any, asked: list[str]) -> None:
    place = write()
    found = resolved({"policy": "learned", "ratio": 2, "others": ["learned:interval=1024", "none"], "queries": 8})
    settings = settings_of(found)
    assert settings is not None
    assert settings.policy == Learned(place, ratio=2)
    assert settings.others == (Learned(place, interval=1024), FullKV())
    assert settings.queries == 8
    assert found.additional_config["other"] == 1
    assert asked == ["org/model"]  # once


def test_a_file_is_named_in_full(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write("mine")
    monkeypatch.chdir(tmp_path)
    for given in ("mine.safetensors", "./mine.safetensors", place):
        settings = settings_of(resolved(f"learned:{given}"))
        assert settings is not None
        assert settings.policy == Learned(place)


def test_policies_that_look_nothing_up_are_left_as_they_are(asked: list[str]) -> None:
    before = {"policy": "rpc", "others": ["streamingllm"]}
    found = resolved(before)
    assert found.additional_config["laconic"] is before
    assert asked == []


@pytest.mark.parametrize("where", ["policy", "others"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda write: None, f"no selector for this model yet (its fingerprint is {FINGERPRINT})"),
        (lambda write: "/nowhere", "there is no selector file /nowhere"),
        (lambda write: write("a", fingerprint="f" * 16), "was made for a model with the fingerprint ffffffffffffffff"),
    ],
)
def test_a_launch_without_its_selector_is_refused(where: str, make: Any, says: str, write: Any) -> None:
    own = {"policy": "learned", "file": make(write)}
    with pytest.raises(InputError) as error:
        resolved(own if where == "policy" else {"policy": "none", "others": [own]})
    assert says in str(error.value)


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    for name, made, says in (
        ("layers", random_selector((0, 1), 4, 8), "layer 2 has 4 KV heads with keys of 8 and values of 8"),
        ("more", random_selector((0, 1, 2, 3), 4, 8), "with a full-attention layer 3"),
        ("heads", random_selector((0, 1, 2), 2, 8), "layer 0 has 4 KV heads"),
        ("size", random_selector((0, 1, 2), 4, 16), "keys of 8"),
    ):
        write_selector(tmp_path / name, made)
        with pytest.raises(InputError, match=says):
            resolved({"policy": "learned", "file": str(tmp_path / name)})


def test_weights_that_can_not_be_told(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's fingerprint is not compared then; without a file, one has to be named."""
    place = write("mine", fingerprint="f" * 16)

    def untold(*args: Any, **kwargs: Any) -> str:
        raise InputError("the weights of org/model are quantized")

    random: dict[str, Any] = {"load_format": "dummy"}
    with pytest.raises(InputError, match=r"can't be told: they are random .*; name one: learned:FILE"):
        resolved("learned", **random)
    assert settings_of(resolved(f"learned:{place}", **random)).policy == Learned(place)  # type: ignore[union-attr]
    monkeypatch.setattr("laconic.engines.hf.stored.checkpoint_fingerprint", untold)
    with pytest.raises(InputError, match=r"can't be told: the weights of org/model are quantized; name one"):
        resolved("learned")
    assert LaunchModelInfo(config()).fingerprint() is None
    assert settings_of(resolved(f"learned:{place}")).policy == Learned(place)  # type: ignore[union-attr]


def test_several_devices_need_a_network_for_each_head(write: Any) -> None:
    with pytest.raises(InputError, match="which tensor parallelism spreads over 2 devices: expected one that has"):
        resolved(f"learned:{write('whole')}", ranks=2)
    resolved(f"learned:{write('heads', per_head=True)}", ranks=2)


# ---- a request ----------------------------------------------------------------------------------------------------------


def request(raw: Any) -> Any:
    return SimpleNamespace(extra_args=None if raw is None else {"other": 1, "laconic": raw})


def sent(launched: Any, raw: Any) -> Any:
    """What a request's settings are when they go to the workers."""
    params, settings = request(raw), settings_of(launched)
    assert settings is not None
    resolve_request(params, settings, launched)
    assert params.extra_args is None or params.extra_args["other"] == 1
    return None if params.extra_args is None else params.extra_args["laconic"]


def test_what_requests_name(write: Any, asked: list[str], tmp_path: Path) -> None:
    own, mine, more = write(), write("mine"), write("more")
    launched = resolved({"policy": "learned", "file": mine, "others": [f"learned:{more},ratio=2"]})
    asked.clear()
    plain = (
        None,
        {"ratio": 2},
        {"prompt_tokens": 3},
        "none",
        "streamingllm",
        {"file": mine},
        {"file": more},
        "learned",
    )
    for raw in plain:  # of the last one too: what isn't said is the launch's
        assert sent(launched, raw) is raw
    policy = {"policy": "learned", "interval": 4096, "ratio": 4, "window": 32, "fading": 1.0}
    # By a name alone: the launch's, or one in the folder.
    assert sent(launched, "learned:mine.safetensors") == {**policy, "file": mine}
    assert sent(launched, {"file": "more.safetensors", "prompt_tokens": 3}) == {
        **policy,
        "file": more,
        "prompt_tokens": 3,
    }
    assert sent(launched, f'{{"file": "{Path(own).name}", "ratio": 8}}') == {**policy, "file": own, "ratio": 8}
    assert asked == []


def test_a_launch_without_one_finds_it_by_the_weights_when_a_request_asks(write: Any, asked: list[str]) -> None:
    launched = resolved("rpc")
    with pytest.raises(InputError, match="no selector for this model yet"):
        sent(launched, "learned")
    place = write()
    for _ in range(2):
        assert sent(launched, "learned")["file"] == place
    assert asked == ["org/model"]


@pytest.mark.parametrize(
    "file", ["elsewhere.safetensors", "/etc/passwd", "../up", "~nobody/x", "~", ".", "/", "cache/selectors/../../mine"]
)
def test_requests_name_no_other_files(file: str, write: Any, tmp_path: Path) -> None:
    """Whether there is such a file or not."""
    write("elsewhere"), write()
    launched = resolved({"policy": "learned"})
    for one in (file, str(tmp_path / file)):
        with pytest.raises(InputError, match="which a request may not name") as error:
            sent(launched, {"file": one})
        assert str(place_of("").parent) not in str(error.value).replace(repr(one), "")


# ---- a worker -----------------------------------------------------------------------------------------------------------


def score_of(policy: Policy) -> LearnedScore:
    assert isinstance(policy.scorer, LearnedScore)
    return policy.scorer


@pytest.mark.parametrize(
    ("ranks", "heads"),
    [
        (1, [[0, 1, 2, 3]]),
        (2, [[0, 1], [2, 3]]),
        (4, [[0], [1], [2], [3]]),
        (8, [[h] for h in (0, 0, 1, 1, 2, 2, 3, 3)]),
    ],
)
def test_a_worker_has_the_networks_of_its_heads(ranks: int, heads: list[list[int]], write: Any) -> None:
    place = write("heads", per_head=True)
    whole = selectors.read_selector(place)
    for rank, own in enumerate(heads):
        info = WorkerModelInfo(config(ranks=ranks), rank, CPU)
        assert first_head(config(ranks=ranks), rank) == own[0]
        assert info.layer_shapes() == dict.fromkeys(range(3), (len(own), 8, 8))
        selector = score_of(info.fit(Learned(place))).selector
        assert selector is not None
        assert selector.kv_heads == len(own)
        for name, weights in whole.weights.items():
            assert torch.equal(selector.weights[name], weights[:, own])


def test_files_are_read_once_a_process(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, reads = write("mine"), []
    stock = selectors.read_selector

    def counted(path: str) -> Any:
        reads.append(path)
        return stock(path)

    monkeypatch.setattr(selectors, "read_selector", counted)
    info = WorkerModelInfo(config(), 0, CPU)
    fitted = [info.fit(Learned(place, ratio=ratio)) for ratio in (2, 4, 2)]
    assert reads == [place]
    assert fitted[0] is fitted[2]
    assert score_of(fitted[0]).selector is score_of(fitted[1]).selector
    assert info.fit(RPC()) == RPC()
    assert info.bytes == stock(place).bytes == sum(w.numel() for w in stock(place).weights.values()) * 4
    with pytest.raises(InputError, match="nobody has looked up the policy's selector"):
        info.fit(Learned())


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.layers.3.self_attn.attn", 3),
        ("language_model.model.layers.12.attn", 12),
        ("0.attn", 0),
        ("model.layers.3.self_attn.1.attn", 7),
        ("attn", 7),
    ],
)
def test_the_models_index_of_a_layer(name: str, index: int) -> None:
    assert layer_index(name, 7) == index


def test_networks_of_some_heads() -> None:
    whole, heads = random_selector(), random_selector(heads=4, per_head=True)
    with pytest.raises(InputError, match="reads all KV heads of a layer together"):
        whole.of_heads(0, 1)
    for first, count in ((-1, 1), (4, 1), (0, 0), (3, 2)):
        with pytest.raises(InputError):
            heads.of_heads(first, count)
    keys, values = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)
    positions = torch.arange(5).expand(2, 4, 5)
    alone = heads.of_heads(1, 2).score(1, keys[:, 1:3], values[:, 1:3], positions[:, 1:3])
    assert torch.equal(alone, heads.score(1, keys, values, positions)[:, 1:3])
    assert dataclasses.replace(heads.of_heads(0, 4)).kv_heads == 4
