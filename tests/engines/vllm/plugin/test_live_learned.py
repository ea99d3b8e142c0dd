"""The policy `learned` inside vLLM: the HF engine's tokens in float32, token for token, with no query kept.

A model of three layers, so that a selector whose networks are those of other layers keeps other tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.compress import Learned, Policy
from laconic.compress.registry import parse
from laconic.compress.selector import Selector
from laconic.errors import LaconicError
from laconic.selectors import place_of, read_selector, write_selector
from tests.engines.vllm.live import (
    Preemptions,
    Text,
    assert_same,
    compressor_of,
    generate,
    greedy,
    prompts_of,
)
from tests.engines.vllm.selected import language, text_of
from tests.engines.vllm.tiny import endless, engine_args, in_process, runner_of, running, scheduler_of, tiny_model
from tests.reference.selectors import selector_for

OWN: dict[str, Any] = {"policy": "learned", "interval": 48, "ratio": 4, "window": 8}
LENGTHS, NEW = (5, 33, 64, 101), 220
PROMPTS = prompts_of(LENGTHS, seed=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_model(tmp_path_factory.mktemp("layers"), layers=3)
    return endless(made, tmp_path_factory.mktemp("endless") / "model")


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's selectors, none at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACONIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield place_of("").parent


def rolled(selector: Selector) -> Selector:
    """Each layer's network is the next one's."""
    return dataclasses.replace(selector, weights={name: w.roll(1, dims=0) for name, w in selector.weights.items()})


@pytest.fixture(scope="module")
def files(model: Path, cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model's own selector, found by its weights; one of other layers' networks, and one with a network for each head."""
    whole = selector_for(language(str(model))[0])
    heads = selector_for(language(str(model))[0], per_head=True)
    places = {name: tmp_path_factory.mktemp("own") / f"{name}.safetensors" for name in ("rolled", "heads")}
    places["own"] = place_of(whole.fingerprint)
    for name, made in (("own", whole), ("rolled", rolled(whole)), ("heads", heads)):
        write_selector(places[name], made)
    return {name: str(place) for name, place in places.items()}


def wanted(model: Path, policy: Policy, prompts: Sequence[Sequence[int]] = PROMPTS, count: int = NEW) -> list[Text]:
    return [text_of(str(model), tuple(prompt), policy, count) for prompt in prompts]


def learned(file: str, **settings: Any) -> Learned:
    return Learned(file, **{"interval": 48, "ratio": 4, "window": 8, **settings})


@pytest.fixture(scope="module")
def llm(model: Path, files: dict[str, str]) -> Iterator[Any]:
    """Launched by the weights' fingerprint; two more files are made ready. Chunks are smaller than two blocks."""
    others = [{**OWN, "file": files["rolled"]}, {**OWN, "file": files["heads"]}]
    with running(model, additional_config={"laconic": {**OWN, "others": others}}, max_num_batched_tokens=50) as engine:
        yield engine


def test_tokens_are_the_hf_engines(llm: Any, model: Path, files: dict[str, str]) -> None:
    """Ragged prompts in one batch, in chunks; texts end at different lengths; no ring, and nobody looks at queries."""
    compressor = compressor_of(llm)
    assert compressor.ring is None
    assert compressor.settings.policy.file == files["own"]
    layers = runner_of(llm).compilation_config.static_forward_context
    assert all("forward" not in vars(layer.impl) for layer in layers.values())
    assert [layer.index for layer in compressor.layers] == [0, 1, 2]
    policy = learned(files["own"])
    assert policy.schedule.rounds(NEW - 31) >= 3
    counts = [NEW, NEW - 30, NEW - 7, NEW - 20]
    got = generate(llm, [(p, greedy(n)) for p, n in zip(PROMPTS, counts, strict=True)])
    assert_same(got, [text[:n] for text, n in zip(wanted(model, policy), counts, strict=True)])
    assert got[1] != text_of(str(model), tuple(PROMPTS[1]), parse("full"), NEW)[: len(got[1])]


def test_each_layer_has_its_own_network(llm: Any, model: Path, files: dict[str, str]) -> None:
    policy = learned(files["rolled"])
    got = generate(llm, [(p, greedy(NEW, {"file": files["rolled"]})) for p in PROMPTS])
    assert_same(got, wanted(model, policy))
    assert got != wanted(model, learned(files["own"]))


def test_a_network_for_each_head(llm: Any, model: Path, files: dict[str, str]) -> None:
    got = generate(llm, [(p, greedy(NEW, {"file": files["heads"]})) for p in PROMPTS])
    assert_same(got, wanted(model, learned(files["heads"])))


def test_settings_mixed_in_one_batch(llm: Any, model: Path, files: dict[str, str], cache_folder: Path) -> None:
    """Other ratios and files beside policies that need none; a file in the selectors' folder is named alone."""
    own = files["own"]
    asked: list[tuple[Any, Policy]] = [
        ({"ratio": 2}, learned(own, ratio=2)),
        ("learned:interval=32,ratio=2,window=4", Learned(own, interval=32, ratio=2, window=4)),
        (f"learned:{Path(own).name},interval=32,window=4", Learned(own, interval=32, window=4)),
        ({**OWN, "file": "heads.safetensors"}, learned(files["heads"])),
        ("streamingllm:budget=48,buffer=17", parse("streamingllm:budget=48,buffer=17")),
        ("none", parse("full")),
    ]
    prompts = prompts_of([20 + 9 * i for i in range(len(asked))], seed=61)
    got = generate(llm, [(p, greedy(150, laconic)) for p, (laconic, _) in zip(prompts, asked, strict=True)])
    want = [text_of(str(model), tuple(p), policy, 150) for p, (_, policy) in zip(prompts, asked, strict=True)]
    assert_same(got, want, [laconic for laconic, _ in asked])


def test_a_stopped_trace_goes_on_as_if_it_had_not_been(llm: Any, model: Path, files: dict[str, str]) -> None:
    prompt, cuts = PROMPTS[1], (1, 55, 56, 57, 104, 140, 199)
    (text,) = wanted(model, learned(files["own"]), [prompt], 200)
    own = {"prompt_tokens": len(prompt)}
    got = generate(llm, [([*prompt, *text[:cut]], greedy(200 - cut, own)) for cut in cuts])
    assert_same(got, [text[cut:] for cut in cuts], cuts)


def test_a_request_may_not_name_any_file(llm: Any, files: dict[str, str], tmp_path: Path, cache_folder: Path) -> None:
    from vllm.exceptions import VLLMValidationError

    elsewhere, foreign = tmp_path / "elsewhere.safetensors", cache_folder / "foreign.safetensors"
    for place in (elsewhere, foreign):
        write_selector(place, dataclasses.replace(read_selector(files["own"]), fingerprint="0123456789abcdef"))
    for file, says in (
        (str(elsewhere), "which a request may not name"),
        ("/etc/passwd", "which a request may not name"),
        ("../../etc/passwd", "which a request may not name"),
        ("~nobody/x", "which a request may not name"),
        (str(tmp_path / "gone"), "which a request may not name"),
        ("gone.safetensors", "which a request may not name"),
        ("foreign.safetensors", "was made for a model with the fingerprint 0123456789abcdef"),
    ):
        with pytest.raises(VLLMValidationError, match=says) as error:
            generate(llm, [(PROMPTS[0], greedy(10, {"file": file}))])
        assert str(cache_folder) not in str(error.value)
    (text,) = generate(llm, [(PROMPTS[0], greedy(10))])
    assert len(text) == 10


def test_the_selector_is_on_the_workers_device_and_in_the_log(llm: Any) -> None:
    from laconic.engines.vllm.plugin.worker import start_line

    compressor = compressor_of(llm)
    for policy in compressor.settings.policies:
        assert compressor.fit(policy) is compressor.fit(policy)
        selector: Selector = compressor.fit(policy).scorer.selector
        assert {w.device for w in selector.weights.values()} == {torch.device("cpu")}
    line = start_line(compressor.settings, 2048, 32, None, 3 << 20)
    assert "no queries kept; selectors of 3.0 MiB" in line


# ---- engines of their own: what is above needs `llm`, and these take its process groups down --------------------------


def test_preempted(model: Path, files: dict[str, str]) -> None:
    """Every third request has full KV, every third scores that fade with age."""
    prompts = prompts_of([20 + 7 * i for i in range(10)], seed=62)
    asked = [("none", {"fading": 0.5}, None)[i % 3] for i in range(10)]
    with running(
        model,
        additional_config={"laconic": {**OWN, "file": files["own"]}},
        kv_cache_memory_bytes=26 * 32 * 1536,  # 26 blocks
        max_model_len=512,
    ) as llm:
        preemptions = Preemptions(llm)
        got = generate(llm, [(p, greedy(230, laconic)) for p, laconic in zip(prompts, asked, strict=True)])
        assert preemptions.count >= 3
        assert scheduler_of(llm).kv_cache_manager.block_pool.num_gpu_blocks == 26
    kinds = (parse("full"), learned(files["own"], fading=0.5), learned(files["own"]))
    policies = [kinds[i % 3] for i in range(10)]
    assert_same(got, [text_of(str(model), tuple(p), policy, 230) for p, policy in zip(prompts, policies, strict=True)])


# ---- refused ----------------------------------------------------------------------------------------------------------


def refused(path: Path, laconic: Any, **arguments: Any) -> str:
    """What `vllm.LLM` says as it refuses to start: before there is any worker."""
    from vllm import LLM

    with in_process(), pytest.raises(LaconicError) as error:
        LLM(**engine_args(path, additional_config={"laconic": laconic}, **arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same shape, which no selector was made for."""
    return tiny_model(tmp_path_factory.mktemp("other"), layers=3, seed=1)


def test_no_launch_without_a_selector_for_this_model(
    model: Path, other: Path, files: dict[str, str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(files["own"]).read_bytes()[:-50])
    few = tmp_path / "few.safetensors"
    write_selector(few, dataclasses.replace(selector_for(language(str(model))[0]), fingerprint=""))
    for path, file, says in (
        (other, None, "there is no selector for this model yet (its fingerprint is "),
        (other, files["own"], "was made for a model with the fingerprint"),
        (model, str(tmp_path / "gone"), f"there is no selector file {tmp_path}/gone"),
        (model, str(cut), "is no whole selector file"),
        (tiny_model(tmp_path / "shape", layers=2), str(few), "with a full-attention layer 2, this one's are [0, 1]"),
        (tiny_model(tmp_path / "heads", layers=3, kv_heads=4), str(few), "layer 0 has 4 KV heads"),
    ):
        assert says in refused(path, {**OWN, "file": file})
        assert says in refused(path, {"policy": "none", "others": [{**OWN, "file": file}]})
    assert "which weights these are can't be told: they are random" in refused(model, OWN, load_format="dummy")
    assert "tensor parallelism spreads over 2 devices" in refused(model, OWN, tensor_parallel_size=2)
