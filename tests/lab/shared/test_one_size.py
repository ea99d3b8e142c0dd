"""Whether a plot's caches are all of one size."""

from __future__ import annotations

import pytest

from laconic.lab.shared.figure import is_one_size, kv_label


def row(family: str, ratio: float | None, held: float) -> dict[str, object]:
    return {"family": family, "ratio": ratio, "mean_kv_tokens": held}


FULL = row("full", None, 250)


@pytest.mark.parametrize(
    ("rows", "one"),
    [
        ([FULL, row("rpc", 4, 170), row("random", 4, 174)], True),
        ([FULL, row("rpc", 4, 170), row("random", 4, 200)], False),
        ([FULL, row("rpc", 4, 170), row("rpc", 8, 162)], False),  # two ratios are two sizes, however near
        ([FULL], True),
        ([row("rpc", 4, 170)], True),
    ],
)
def test_one_size_is_one_ratio_and_nearly_one_cache(rows: list[dict[str, object]], one: bool) -> None:
    assert is_one_size(rows) == one
    assert ("side by side" in kv_label(one)) == one
