"""Whether a plot's caches are all of one size, and what rows are called then."""

from __future__ import annotations

import pytest

from laconic.lab.shared.figure import is_one_size, names_at_one_size, sizes_label


def row(family: str, ratio: float | None, held: float) -> dict[str, object]:
    return {"family": family, "ratio": ratio, "mean_kv_tokens": held}


FULL = row("full", None, 250)


@pytest.mark.parametrize(
    ("rows", "one"),
    [
        ([FULL, row("rpc", 4, 170), row("random", 4, 174)], True),
        ([FULL, row("rpc", 4, 171), row("random", 4, 200)], True),  # 14.5 %
        ([FULL, row("rpc", 4, 170), row("random", 4, 200)], False),
        ([FULL, row("rpc", 4, 170), row("rpc", 8, 162)], False),  # two ratios are two sizes, however near
        ([FULL, row("rpc", 4, 170), row("learned:interval=64,ratio=4", None, 172)], True),  # a spec that gives its size
        ([FULL], True),
        ([row("rpc", 4, 170)], True),
    ],
)
def test_one_size_is_one_ratio_and_nearly_one_cache(rows: list[dict[str, object]], one: bool) -> None:
    assert is_one_size(rows) == one


def test_what_all_caches_hold_is_told() -> None:
    rows = [row("rpc", 4, 170.6), row("random", 4, 1173.2)]
    assert sizes_label(rows) == "every cache: 171 to 1,173 tokens on average, prompt included"
    assert sizes_label(rows[:1]) == "every cache: 171 tokens on average, prompt included"


def test_names_leave_out_the_size_and_learned_says_its_fading() -> None:
    rows = [
        {"family": "learned", "policy": "learned:interval=64,ratio=4,window=16"},  # recorded before specs named it
        {"family": "learned:fading=1", "policy": "learned:interval=64,ratio=4,window=16,fading=1.0"},
        {"family": "learned:interval=64,window=16,fading=3.0", "policy": "learned:interval=64,ratio=4,fading=3.0"},
        {"family": "learned:a.safetensors", "policy": "learned:file=a.safetensors,interval=64,fading=1.0"},
        {"family": "rkv:budget=128,lam=0.3", "policy": "rkv:budget=128,buffer=64,lam=0.3"},
        {"family": "rpc:interval=64", "policy": "rpc:interval=64,ratio=4"},
        {"family": "rpc:interval=128", "policy": "rpc:interval=128,ratio=4"},
        {"family": "randomattention"},
    ]
    assert names_at_one_size(rows) == [
        "learned fading=0",
        "learned fading=1",
        "learned fading=3",
        "learned a.safetensors, fading=1",
        "R-KV lam=0.3",
        "RPC interval=64",
        "RPC interval=128",
        "Random Attention",
    ]
