"""What `bench vllm` asks of an engine: so many requests at once, and a KV cache that holds a share of what they come to."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laconic.checks import unwrap_numpy_fields, whole
from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.errors import InputError
from laconic.lab.shared.policies import compared_policies

STOCK = "stock"
"""The contender that ratios refer to: vLLM as it is."""
POLICIES = ("rpc", "rkv", "streamingllm")
SHARES = (1.0, 0.5, 0.25, 0.12)


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """`requests` of `prompt` random tokens each, all sent at once, that generate `output` tokens each and no fewer.

    block: tokens of a KV-cache block. seed: of the prompts. Raises InputError for numbers out of range.
    """

    requests: int = 24
    prompt: int = 32
    output: int = 1000
    block: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("requests", self.requests, 1, meaning="requests sent at once")
        whole("prompt", self.prompt, 1, meaning="tokens of each prompt")
        whole("output", self.output, 1, meaning="tokens that each request generates")
        whole("block", self.block, 1, meaning="tokens of a KV-cache block")
        whole("seed", self.seed, 0)

    @property
    def length(self) -> int:
        """Tokens of a request at its end."""
        return self.prompt + self.output

    @property
    def demand(self) -> int:
        """Blocks that full KV takes for all requests at their full length at once, each request's rounded up."""
        return self.requests * math.ceil(self.length / self.block)

    def blocks(self, share: float) -> int:
        """Blocks of a cache that holds this share of the demand, rounded down; at least one."""
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 4:
            raise InputError(
                f"The KV cache is to hold {share!r} of the demand; expected a share above 0 and at most 4 (1 is all of it)"
            )
        # A share such as 0.12 is no binary fraction: what is a whole number of blocks on paper shall stay one.
        return max(1, math.floor(round(share * self.demand, 6)))

    def prompts(self, repeat: int, vocabulary: int) -> list[list[int]]:
        """Token ids, the same for every contender of a repeat and others in the next, so that no prefix is met twice."""
        draw = random.Random(f"{self.seed}/{repeat}")
        return [[draw.randrange(vocabulary) for _ in range(self.prompt)] for _ in range(self.requests)]


@dataclass(frozen=True, slots=True)
class ComparedEngine:
    """One line of the comparison. settings: what `--additional-config` says under "laconic"; None: nothing, stock vLLM."""

    label: str
    family: str
    settings: dict[str, Any] | None

    def describe(self) -> str:
        """Its policy with all that matters, as `parse` reads it; "stock" for stock."""
        return STOCK if self.settings is None else parse_launch(self.settings).policy.spec()


def lineup(
    names: Sequence[str] = POLICIES,
    ratios: Sequence[float] = (4,),
    *,
    interval: int = 128,
    window: int = 32,
    output: int,
) -> list[ComparedEngine]:
    """Stock first, then each policy at each ratio, or as a whole spec says.

    As in `compared_policies`: interval and window are RPC's and those of every policy with a ratio, and a policy with a budget
    gets the one whose mean cache over `output` generated tokens is nearest to RPC's. Its buffer is RPC's interval, so that all
    compress equally often: here a compression is a pass over the cache between two steps of a whole batch.

    Raises InputError for an unknown policy or setting, a policy that can't run inside vLLM, or a row twice.
    """
    rows = compared_policies(names, ratios, interval=interval, window=window)[1:]
    if not rows:
        raise InputError("There is nothing to compare stock vLLM with; expected at least one policy, such as rpc")
    found = [ComparedEngine(STOCK, STOCK, None)]
    for row in rows:
        if row.target is not None and hasattr(row.policy, "buffer"):
            paced: Any = dataclasses.replace(row.policy, buffer=interval)  # type: ignore[call-arg]
            row = dataclasses.replace(row, policy=paced)
        policy = row.matched([output]).policy
        settings = {"policy": policy.name, **policy.settings()}
        parse_launch(settings)
        found.append(ComparedEngine(row.label, row.family, settings))
    return found
