"""What a request carries so that its tokens are drawn ours. Needs no vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from laconic.engines.base import Sampling
from laconic.engines.sampling import trace_key
from laconic.engines.vllm.engine.draw_params import KEY, DrawParams
from laconic.errors import InputError

GOOD = {"key": 5, "at": 0, "temperature": 1.0, "top_p": 0.9, "top_k": 3}


def test_what_is_written_is_read() -> None:
    params = DrawParams(trace_key(-7, 3), 12, Sampling(temperature=1, top_p=0.9, top_k=5))
    carried = json.loads(json.dumps({"other": 1, **params.to_extra_args()}))
    found = DrawParams.from_extra_args(carried)
    assert found is not None
    assert (found.key, found.at) == (params.key, 12)
    assert (found.sampling.temperature, found.sampling.top_p, found.sampling.top_k) == (1.0, 0.9, 5)


def test_most_requests_carry_none() -> None:
    assert DrawParams.from_extra_args(None) is None
    assert DrawParams.from_extra_args({"laconic": {"policy": "none"}}) is None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("x", "expected a mapping of key, at"),
        ({**GOOD, "more": 1}, "expected a mapping of key, at"),
        ({"key": 5}, "expected a mapping of key, at"),
        ({**GOOD, "key": 1.5}, "key of laconic_draw is 1.5; expected int"),
        ({**GOOD, "at": True}, "at of laconic_draw is True; expected int"),
        ({**GOOD, "at": -1}, "at of laconic_draw is -1; expected 0 to"),
        ({**GOOD, "key": 1 << 64}, "key of laconic_draw is"),
        ({**GOOD, "temperature": "hot"}, "temperature of laconic_draw is 'hot'; expected float"),
        ({**GOOD, "top_p": 2}, "top_p is 2; expected a number above 0"),
    ],
)
def test_what_nobody_would_write_is_refused(raw: Any, says: str) -> None:
    assert DrawParams.from_extra_args({KEY: GOOD}) is not None
    with pytest.raises(ValueError, match=says):
        DrawParams.from_extra_args({KEY: raw})
    assert issubclass(InputError, ValueError)
