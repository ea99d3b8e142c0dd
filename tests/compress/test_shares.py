"""`compression_ratio`, as users of kvpress give it: translated where it can be, refused with the translation where not."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from laconic.compress import H2O, RPC, Oracle, Random, SnapKV, StreamingLLM, get, known, parse, settings_of
from laconic.compress.shares import ratio_of
from laconic.errors import InputError
from laconic.settings import parameters_of


@pytest.mark.parametrize(
    ("removed", "ratio"), [(0, 1), (0.5, 2), (0.6, 2.5), (0.75, 4), (0.875, 8), (0.9, 10), (0.95, 20)]
)
def test_the_share_removed_as_a_ratio(removed: float, ratio: float) -> None:
    found = ratio_of(removed)
    assert found == ratio
    assert type(found) is type(ratio)
    assert RPC(interval=800, compression_ratio=removed, window=8) == RPC(interval=800, ratio=ratio, window=8)


def test_it_is_a_way_of_saying_ratio_and_nothing_that_stays() -> None:
    made = RPC(compression_ratio=0.75, window=16)
    assert made == RPC(ratio=4, window=16) == parse("rpc:compression_ratio=0.75,window=16")
    assert made.spec() == "rpc:interval=4096,ratio=4,window=16"
    assert "compression_ratio" not in made.settings()
    assert dataclasses.replace(made, ratio=8).ratio == 8
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert Random(compression_ratio=0.5).ratio == 2
    assert Oracle(lambda ids: ids, compression_ratio=0.5).ratio == 2


def test_it_is_listed() -> None:
    (found,) = [setting for setting in settings_of("rpc") if setting.field == "compression_ratio"]
    assert (found.type, found.default) == ("number or none", "none")
    assert "0.75 is ratio 4" in found.meaning


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RPC(ratio=0.75), r"ratio is 0.75; expected a number at least 1.*compression_ratio=0.75 \(ratio 4\)"),
        (
            lambda: parse("rpc:ratio=0.5"),
            r"ratio is 0.5; expected a number at least 1.*compression_ratio=0.5 \(ratio 2\)",
        ),
        (lambda: RPC(ratio=4, compression_ratio=0.75), "ratio is 4 and compression_ratio is 0.75, which say the same"),
        (lambda: RPC(4096, 4, compression_ratio=0.75), "ratio is 4 and compression_ratio is 0.75, which say the same"),
        (lambda: parse("rpc:compression_ratio=0.75", ratio=4), "ratio is 4 and compression_ratio is 0.75"),
        (lambda: RPC(compression_ratio=1), "compression_ratio is 1, which removes everything"),
        (lambda: RPC(compression_ratio=4), "compression_ratio is 4; expected a number from 0 to 1"),
        (lambda: RPC(compression_ratio="x"), "compression_ratio is 'x'; expected a number"),  # type: ignore[arg-type]
        (lambda: RPC(compression_ratio=0.3), "compression_ratio is 0.3, which is ratio 10/7, no decimal number"),
        (lambda: H2O(compression_ratio=0.75), "policy h2o keeps a fixed budget.*N / 4.*rpc:ratio=4"),
        (lambda: SnapKV(compression_ratio=0.5), "policy snapkv keeps a fixed budget.*N / 2.*rpc:ratio=2"),
        (lambda: parse("streamingllm:compression_ratio=0.5"), "policy streamingllm keeps a fixed budget.*rpc:ratio=2"),
        (lambda: StreamingLLM(compression_ratio=2), "compression_ratio is 2; expected a number from 0 to 1"),
    ],
)
def test_what_cant_be_translated_is_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_every_policy_of_ours_that_compresses_takes_or_refuses_it() -> None:
    ours = [
        name
        for name, policy in known().items()
        if policy.__module__.startswith("laconic.compress.") and name not in ("full", "lightthinker")
    ]
    assert len(ours) >= 13
    for name in ours:
        assert "compression_ratio" in parameters_of(get(name)), name


@pytest.mark.parametrize(
    "name", ["pyramidkv", "PyramidKV", "pyramid-kv", "AdaKV", "ada-snapkv", "HeadKV", "SimLayerKV", "duo_attention"]
)
def test_budgets_that_differ_by_layer_or_head_are_refused_by_name(name: str) -> None:
    with pytest.raises(
        InputError,
        match=r"is not offered, as it gives each (layer|head) a budget of its own.*: use (snapkv|streamingllm),",
    ):
        get(name)
