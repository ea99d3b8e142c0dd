"""What the HF engine writes under the policy `learned`, for live tests to compare with."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from laconic.compress import Learned, Policy
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.selectors import read_selector, write_selector
from tests.engines.vllm.live import Text, first_difference

ROUNDING = 1e-4
"""More than float32's rounding moves these selectors' scores, or a logit, by."""


@cache
def language(path: str) -> Any:
    return load(path, dtype="float32")


@cache
def text_of(model: str, prompt: tuple[int, ...], policy: Policy, count: int) -> Text:
    """The HF engine's, and how much of it float32 decides.

    A selector's scores are rounded to a grid, and with all of them a little higher or lower others are rounded up: where that
    changes the text, another order of summation (vLLM's, or another CPU's) may as well.
    """
    weights, tokenizer = language(model)
    policies = [shifted(policy, by) for by in (0.0, ROUNDING, -ROUNDING)] if isinstance(policy, Learned) else [policy]
    sampling = Sampling(max_new_tokens=count, temperature=0, logprobs=2)
    trace, *others = [HFEngine(weights, tokenizer, each).generate([list(prompt)], sampling)[0][0] for each in policies]
    ties = [at for at, one in enumerate(trace.logprobs) if one.top[0][1] - one.top[1][1] < ROUNDING]
    parted = [first_difference(other.token_ids, trace.token_ids) for other in others]
    return Text(trace.token_ids, min([count, *ties, *(at for at in parted if at is not None)]))


def shifted(policy: Learned, by: float) -> Learned:
    """With all scores so much higher."""
    if not by:
        return policy
    assert policy.file is not None
    selector = read_selector(policy.file)
    weights = {**selector.weights, "bias_out": selector.weights["bias_out"] + by}
    place = Path(policy.file).parent / "shifted" / f"{by:+}-{Path(policy.file).name}"
    write_selector(place, dataclasses.replace(selector, weights=weights))
    return dataclasses.replace(policy, file=str(place))
