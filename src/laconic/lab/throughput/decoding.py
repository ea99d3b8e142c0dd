"""One timed piece of decoding: plain `generate`, or laconic's engine under a policy; whole, or from a length on."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from laconic import checks
from laconic.compress import Policy
from laconic.compress.registry import parse
from laconic.engines.base import EngineStats, Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.batch import HFTrace
from laconic.engines.hf.models import cache_argument
from laconic.engines.loop import Loop
from laconic.errors import InputError
from laconic.lab.throughput.memory import PeakMemory, synchronize

GENERATE = "generate"
WARM = 4  # steps before a window that are not timed
PREFILL = 2048  # tokens a forward pass when a cache is filled for plain generate
Mode = Literal["whole", "at"]


@dataclass(frozen=True)
class DecodingCase:
    """What is decoded: `batch` rows of `prompt` random tokens, `length` generated tokens each.

    mode "whole": from the first generated token to the last. mode "at": `steps` steps, those of the generated tokens
    length+1 .. length+steps, with the cache as it is after `length`; the tokens before are fed in bulk, which gives the
    same cache as generating them, only faster.
    """

    shape: str
    batch: int
    prompt: int
    length: int
    mode: Mode = "whole"
    steps: int = 0

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.text("shape", self.shape, "a shape's name")
        checks.word("mode", self.mode, ("whole", "at"))
        checks.whole("steps", self.steps, 0)
        for field, least in (("batch", 1), ("prompt", 1), ("length", 2 if self.mode == "whole" else WARM)):
            checks.whole(field, getattr(self, field), least)
        if self.mode == "at" and self.steps < 1:
            raise InputError(f"steps is {self.steps!r}; expected at least 1 step to time at length {self.length}")

    @property
    def key(self) -> str:
        window = f"at {self.length} for {self.steps}" if self.mode == "at" else f"to {self.length}"
        return f"{self.shape} bs={self.batch} in={self.prompt} {window}"

    @property
    def start(self) -> int:
        """Generated tokens in the cache before the first timed step."""
        return self.length if self.mode == "at" else 0

    @property
    def timed(self) -> int:
        """Timed steps. The first token of a whole run comes from the prompt's own pass."""
        return self.steps if self.mode == "at" else self.length - 1

    @property
    def end(self) -> int:
        """Generated tokens in the cache after the last timed step."""
        return self.start + self.timed


@dataclass(frozen=True)
class TimedSample:
    """One timed piece. seconds: wall time of `steps` steps; tokens: generated in them, all rows.

    step_seconds: median of the steps that compress nothing. compression_seconds: what a compressing step takes beyond
    that, mean over `compressions` of them (0 where every step compresses: it is in `step_seconds` then). peak_bytes:
    `PeakMemory`'s, over the timed steps ("at") or the whole run. attended: KV tokens attended, summed over timed steps
    and rows. live_bytes, reserved_bytes: of KV after the last timed step; None for plain generate, which does not say.
    """

    seconds: float
    steps: int
    tokens: int
    step_seconds: float
    compressions: int
    compression_seconds: float
    peak_bytes: int | None
    attended: int
    live_bytes: int | None
    reserved_bytes: int | None


def decode(model: PreTrainedModel, method: str, cell: DecodingCase, seed: int = 0) -> TimedSample:
    """Time one piece. method: `generate` for transformers' own loop and cache, or the spec of a policy for HFEngine.

    Greedy, without end tokens. Raises InputError for an unknown policy, and whatever torch raises when memory ends.
    """
    if method == GENERATE:
        return _generate(model, cell, seed)
    return _engine(model, parse(method), cell, seed)


class _TimedEngine(HFEngine):
    """HFEngine with a clock in its step. Nothing else of the loop changes."""

    def __init__(self, model: PreTrainedModel, policy: Policy, cell: DecodingCase) -> None:
        super().__init__(model, None, policy=policy, max_batch=cell.batch, chunk_tokens=64)
        self.skip = WARM if cell.mode == "at" else 0
        self.last = self.skip + cell.timed
        self.stamps: list[float] = []
        self.before = EngineStats()
        self.after = EngineStats()
        self.started = 0.0
        self.where = next(model.parameters()).device
        self.memory = PeakMemory(self.where)
        # All rows of a cell are alike, tokens included, so one of them is fed and copied; the engine itself shares only
        # the prefill of traces that have no tokens yet.
        self._scheduler.shares_prefill = _same_tokens
        self._loop = _TimedLoop(self)


class _TimedLoop(Loop[HFTrace]):
    def __init__(self, engine: _TimedEngine) -> None:
        super().__init__(engine._scheduler, engine._batch)
        self.engine = engine

    def _step(self) -> None:
        engine = self.engine
        if len(engine.stamps) == engine.skip:
            synchronize(engine.where)
            engine.before = engine.stats
            if engine.skip:  # the peak of a whole run counts from its start
                engine.memory.start()
            engine.started = time.perf_counter()
        super()._step()
        engine.stamps.append(time.perf_counter())
        if len(engine.stamps) == engine.last:
            synchronize(engine.where)
            engine.stamps[-1] = time.perf_counter()
            engine.after = engine.stats


def _same_tokens(first: HFTrace, other: HFTrace) -> bool:
    assert (first.trace.prompt_ids, first.trace.token_ids) == (other.trace.prompt_ids, other.trace.token_ids)
    return True


def _engine(model: PreTrainedModel, policy: Policy, cell: DecodingCase, seed: int) -> TimedSample:
    engine = _TimedEngine(model, policy, cell)
    prompt, tokens = _tokens(model, cell, seed)
    limit = cell.length if cell.mode == "whole" else cell.length + cell.steps + 1
    engine.memory.start()
    names = engine.submit(prompt, Sampling(max_new_tokens=limit, temperature=0.0), cell.batch)
    if cell.mode == "at":
        for name in names:  # put the tokens before the window into the traces, as if they had been stopped there
            engine.stop(name)
            engine.trace(name).token_ids.extend(tokens)
            engine.resume(name)
    for _ in engine.stream():
        pass
    if len(engine.stamps) < engine.last:
        raise InputError(
            f"{cell.key} does not fit the model's context: it ended after {len(engine.stamps)} of {engine.last} steps"
        )
    stamps = [engine.started, *engine.stamps[engine.skip : engine.last]]
    due = {at - cell.start - 1 for at in _boundaries(policy, cell.start, cell.end)}
    return _sample(
        cell,
        stamps,
        due,
        peak=engine.memory.read(),
        attended=engine.after.kv_token_steps - engine.before.kv_token_steps,
        live=engine.after.live_kv_bytes,
        reserved=engine.after.reserved_kv_bytes,
    )


def _boundaries(policy: Policy, start: int, end: int) -> list[int]:
    found = []
    at = policy.schedule.next_boundary(start)
    while at is not None and at <= end:
        found.append(at)
        at = policy.schedule.next_boundary(at)
    return found


def _sample(
    cell: DecodingCase,
    stamps: Sequence[float],
    due: set[int],
    *,
    peak: int | None,
    attended: int,
    live: int | None,
    reserved: int | None,
) -> TimedSample:
    """stamps: the start and the end of every timed step; due: indices of the steps that compressed."""
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    quiet = [seconds for index, seconds in enumerate(steps) if index not in due]
    usual = statistics.median(quiet or steps)
    extra = sum(steps[index] - usual for index in due) / len(due) if due and quiet else 0.0
    return TimedSample(
        seconds=stamps[-1] - stamps[0],
        steps=len(steps),
        tokens=len(steps) * cell.batch,
        step_seconds=usual,
        compressions=len(due),
        compression_seconds=max(0.0, extra),
        peak_bytes=peak,
        attended=attended,
        live_bytes=live,
        reserved_bytes=reserved,
    )


class _StepTimes(StoppingCriteria):
    """Never stops anything; notes the time after every token."""

    def __init__(self, device: torch.device, skip: int) -> None:
        self.device = device
        self.skip = skip
        self.stamps: list[float] = []
        self.memory = PeakMemory(device)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        synchronize(self.device)
        if len(self.stamps) == self.skip - 1:
            self.memory.start()
        self.stamps.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def _generate(model: PreTrainedModel, cell: DecodingCase, seed: int) -> TimedSample:
    device = next(model.parameters()).device
    prompt, tokens = _tokens(model, cell, seed)
    ids = torch.tensor([[*prompt, *tokens]], device=device)
    # A whole run's first token comes from the prompt's pass: its stamp is where the timed steps begin. So does a
    # window's.
    skip = WARM if cell.mode == "at" else 1
    clock = _StepTimes(device, skip if cell.mode == "at" else 0)
    clock.memory.start()
    cache = DynamicCache(config=model.config)
    held: dict[str, Any] = {cache_argument(model): cache}
    for start in range(0, ids.shape[1] - 1 if tokens else 0, PREFILL):
        piece = ids[:, start : min(start + PREFILL, ids.shape[1] - 1)]
        model(input_ids=piece, use_cache=True, logits_to_keep=1, **held)
    if tokens and cell.batch > 1:
        cache.batch_repeat_interleave(cell.batch)
    ids = ids.expand(cell.batch, -1).contiguous()
    generate: Any = model.generate
    generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **held,
        max_new_tokens=skip + cell.timed,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    stamps = clock.stamps[skip - 1 :]
    before = cell.prompt + cell.start
    attended = cell.batch * sum(range(before + 1, before + cell.timed + 1))
    return _sample(cell, stamps, set(), peak=clock.memory.read(), attended=attended, live=None, reserved=None)


def _tokens(model: PreTrainedModel, cell: DecodingCase, seed: int) -> tuple[list[int], list[int]]:
    """The prompt, and the generated tokens before the first step of a window (none for a whole run)."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(seed)
    count = cell.length - WARM + 1 if cell.mode == "at" else 0
    drawn = torch.randint(vocabulary, (cell.prompt + count,), generator=generator).tolist()
    return drawn[: cell.prompt], drawn[cell.prompt :]
