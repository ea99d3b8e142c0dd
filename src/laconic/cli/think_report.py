"""What one trace came to: the figures of `laconic think`, for people and for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laconic.cli.messages import size
from laconic.cli.questions import Question

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import EngineStats, Trace


@dataclass(frozen=True)
class ThinkReport:
    """What a trace came to. KV tokens are of one layer, the prompt's included; bytes are of all compressible layers.

    held: at the end, after the last compression; bytes_held and bytes_full: what that takes, and what all tokens would.
    seconds: of decoding. right: whether the answer is the known one, None where none is known. chat: `Chat.to_json`.
    """

    question: Question
    policy: str
    model: str
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    compressions: int
    evicted: int
    held: int
    peak: int
    mean: float
    bytes_held: int
    bytes_peak: int
    bytes_full: int
    seconds: float
    answer: str | None
    right: bool | None
    chat: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def logical(self) -> int:
        """Tokens whose KV was computed: the newest one's never is, as no step follows that would attend to it."""
        return self.prompt_tokens + max(self.generated_tokens - 1, 0)

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.seconds if self.seconds > 0 else 0.0

    def verdict(self) -> str:
        if self.answer is None:
            why = {"length": " (cut off: more --max-new-tokens would let it go on)", "stopped": " (interrupted)"}
            return f"no final answer{why.get(self.finish_reason, '')}"
        known = {True: ", which is right", False: f", but it is {self.question.answer}", None: ""}[self.right]
        return f"answer {self.answer}{known}"

    def facts(self) -> list[tuple[str, str]]:
        """The summary as (name, value) pairs, for people."""
        return [
            ("model", self.model),
            ("policy", self.policy),
            ("tokens", f"{self.prompt_tokens:,} prompt + {self.generated_tokens:,} generated"),
            ("compressions", f"{self.compressions:,}"),
            ("evicted", f"{self.evicted:,} tokens"),
            ("KV held at the end", f"{self.held:,} of {self.logical:,} tokens ({self.held / self.logical:.0%})"),
            ("KV peak / mean", f"{self.peak:,} / {self.mean:,.0f} tokens"),
            ("KV memory at the end", f"{size(self.bytes_held)} of {size(self.bytes_full)}"),
            ("KV memory, peak", size(self.bytes_peak)),
            ("speed", f"{self.tokens_per_second:,.0f} tokens/s"),
        ]

    def to_json(self, text: str) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        question, chat = record.pop("question"), record.pop("chat")
        return {
            "question": question["text"],
            "expected": question["answer"],
            "text": text,
            **record,
            **({"chat": chat} if chat else {}),
            "logical": self.logical,
            "tokens_per_second": self.tokens_per_second,
        }


def conclude(
    question: Question,
    model: str,
    policy: Policy,
    trace: Trace,
    stats: EngineStats,
    chat: Mapping[str, Any] | None = None,
) -> ThinkReport:
    """The figures of a trace that ran alone in its engine, to its end or until it was interrupted."""
    from laconic.answers import answer_of, equivalent

    prompt, generated = len(trace.prompt_ids), len(trace.token_ids)
    computed = max(generated - 1, 0)
    held = policy.schedule.of(trace.token_ids).physical(computed, prompt)
    per_token = stats.peak_kv_bytes / stats.peak_kv_tokens if stats.peak_kv_tokens else 0.0
    answer = answer_of(trace)
    known = question.answer is not None
    return ThinkReport(
        question=question,
        policy=policy.spec(),
        model=model,
        finish_reason=trace.finish_reason or "stopped",
        prompt_tokens=prompt,
        generated_tokens=generated,
        compressions=stats.compressions,
        evicted=stats.evicted,
        held=held,
        peak=trace.peak_kv_tokens,
        mean=trace.mean_kv_tokens,
        bytes_held=round(held * per_token),
        bytes_peak=stats.peak_kv_bytes,
        bytes_full=round((prompt + computed) * per_token),
        seconds=stats.decode_seconds,
        answer=answer,
        right=equivalent(answer, question.answer) if known else None,
        chat=chat or {},
    )
