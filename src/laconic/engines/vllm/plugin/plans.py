"""A request's plan: its policy's schedule applied to its prompt. Integer arithmetic, no tensors.

The front end makes it to refuse a request in time; the scheduler's process and every worker make it for themselves, to act on
it, and so agree on it without a message.

Counting: `computed` is how many of a request's tokens, prompt included, have had their KV computed, evicted ones included
(vLLM's `num_computed_tokens`). Held tokens lie in the request's blocks one after another: prompt, then what is left of the
generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic.compress import Policy
from laconic.engines.vllm.plugin.settings import KEY, LaunchSettings, parse_request
from laconic.errors import InputError

NEVER = 1 << 62
"""A count of tokens that no request comes to."""


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """When a request is compressed, and how many tokens it holds in between."""

    policy: Policy
    prompt: int
    """Tokens that are never evicted; at least 1."""
    end: int
    """The most tokens the request can come to, prompt included."""
    # [low, high, gone]: from `low` computed tokens on, below `high`, where the next compression is due, `gone` are evicted.
    # A scheduler asks a few times a step and request, nearly always within one interval, so the latest one is remembered.
    _interval: list[int] = field(default_factory=lambda: [0, 0, 0], init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.prompt < 1:
            raise InputError(f"prompt is {self.prompt}; expected at least 1 token")
        if self.end < self.prompt:
            raise InputError(f"end is {self.end}; expected at least the prompt's {self.prompt} tokens")

    def generated(self, computed: int) -> int:
        """How many of `computed` tokens are generated."""
        return max(0, computed - self.prompt)

    def rounds(self, computed: int) -> int:
        """Compressions done once `computed` tokens are."""
        return self.policy.schedule.rounds(self.generated(computed))

    def evicted(self, computed: int) -> int:
        """Tokens evicted once `computed` are computed and a compression due there is done."""
        low, high, gone = self._interval
        return gone if low <= computed < high else self._find_interval(computed)[2]

    def _find_interval(self, computed: int) -> list[int]:
        schedule, generated = self.policy.schedule, self.generated(computed)
        after = schedule.next_boundary(generated)
        due = NEVER if after is None else self.prompt + after
        self._interval[:] = computed, due, schedule.evicted(generated)
        return self._interval

    def held(self, computed: int) -> int:
        """Tokens held then."""
        return computed - self.evicted(computed)

    def slots_needed(self, upto: int) -> int:
        """Slots that a step which computes tokens up to `upto` needs: a compression due there comes after it.

        The step must not cross a compression (see `clip_step`)."""
        return upto - self.evicted(upto - 1)

    def next_boundary(self, computed: int) -> int | None:
        """The next count of computed tokens at which a compression is due; None: never."""
        low, high, _ = self._interval
        due = high if low <= computed < high else self._find_interval(computed)[1]
        return None if due == NEVER else due

    def clip_step(self, computed: int, new: int) -> int:
        """How many of `new` tokens may be computed in one step: not beyond the next compression."""
        boundary = self.next_boundary(computed)
        return new if boundary is None else min(new, boundary - computed)

    def peak(self, upto: int) -> int:
        """The most slots that getting from nothing to `upto` computed tokens takes at any moment."""
        if upto <= self.prompt:
            return upto
        return self.policy.schedule.peak(upto - self.prompt, self.prompt)

    def peak_until_boundary(self, computed: int) -> int:
        """The most slots taken until the next compression has run, or until the end if that comes first.

        Without compressions ahead nothing is foreseen: what is computed, and one more token.
        """
        boundary = self.next_boundary(computed)
        if boundary is None:
            return min(computed + 1, self.end)
        return self.slots_needed(max(computed, min(boundary, self.end)))


def make_plan(extra_args: Mapping[str, Any] | None, sent: int, end: int, launch: LaunchSettings) -> CompressionPlan:
    """The plan of a request of `sent` tokens that ends at `end` tokens at most.

    Raises InputError for bad settings, and a `prompt_tokens` beyond what was sent.
    """
    asked = parse_request((extra_args or {}).get(KEY), launch)
    prompt = sent if asked.prompt_tokens is None else asked.prompt_tokens
    if prompt > sent:
        raise InputError(f"prompt_tokens is {prompt}, but {sent} tokens were sent; expected at most that")
    return CompressionPlan(asked.policy, prompt, max(end, sent))


def plan_of(request: Any, launch: LaunchSettings, max_model_len: int) -> CompressionPlan:
    """The plan of a scheduler's request (vllm.v1.request.Request)."""
    params, sent = request.sampling_params, request.num_prompt_tokens
    end = min(sent + request.max_tokens, max_model_len)
    return make_plan(None if params is None else params.extra_args, sent, end, launch)
