"""The orders in memory that test_layouts.py tries are those that this vLLM knows."""

from __future__ import annotations

import torch

from tests.engines.vllm.plugin.physical import LAYOUTS, caches


def test_every_order_of_vllm_is_tried() -> None:
    from vllm.v1.kv_cache_layout import KVCacheLayout

    assert set(LAYOUTS) == {layout.name for layout in KVCacheLayout}
    sizes = (2, 3, 5, 7, 11)
    for layout in KVCacheLayout:
        order = layout.stride_order
        memory = torch.empty([sizes[axis] for axis in order])
        seen = memory.permute([order.index(axis) for axis in range(5)])
        ours = caches(layout.name, *sizes, torch.float32)[1]
        assert ours.shape == seen[1].shape
        assert ours.stride() == seen[1].stride()
