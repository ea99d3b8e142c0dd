"""What the cache is called by a model's forward, before and from transformers 5.24 on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch import nn

from laconic.engines.hf.models import cache_argument
from tests.engines.hf.families import family


class Before(nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


class Since(nn.Module):
    def forward(self, input_ids: Any, cache: Any = None, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(("module", "name"), [(Before(), "past_key_values"), (Since(), "cache")])
def test_the_cache_is_called_what_forward_calls_it(module: nn.Module, name: str) -> None:
    assert cache_argument(module) == name


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
def test_a_models_forward_takes_it(name: str) -> None:
    assert cache_argument(family(name)) in inspect.signature(family(name).forward).parameters
