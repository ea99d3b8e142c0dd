"""Requests driven through a vLLM engine of this process step by step, with every request's blocks looked at after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Ask:
    """A request.

    prompt: token ids. settings: laconic's; none for stock vLLM. tokens: to generate. prompt_tokens: how many of the ids are the
    prompt (none: all). stop: a token that ends the text.
    """

    prompt: tuple[int, ...]
    settings: dict[str, Any] | None
    tokens: int
    prompt_tokens: int | None = None
    stop: int | None = None

    @property
    def extra(self) -> dict[str, Any] | None:
        if self.settings is None:
            return None
        return {
            "laconic": self.settings | ({} if self.prompt_tokens is None else {"prompt_tokens": self.prompt_tokens})
        }


@dataclass
class Seen:
    """What a drive saw, asks in their order.

    logprobs: of each ask's tokens, token id -> log-probability, those asked for. kept: each ask's generated tokens, by index,
    that the last compression left, layer name -> [g, n]. least_held: the least share of its tokens that a request held.
    """

    tokens: list[list[int]] = field(default_factory=list)
    logprobs: list[list[dict[int, float]]] = field(default_factory=list)
    kept: list[dict[str, Tensor]] = field(default_factory=list)
    steps: int = 0
    preemptions: int = 0
    hits: int = 0
    wrong_blocks: list[str] = field(default_factory=list)
    least_held: float = 1.0


def physical(settings: dict[str, Any] | None, prompt: int, computed: int) -> int:
    """Tokens a request holds once `computed` are: from the settings alone, without laconic."""
    generated = max(0, computed - prompt)
    if settings is None or settings["policy"] == "none":
        return computed
    if settings["policy"] == "rpc":
        interval = settings["interval"]
        rounds = max(0, (generated - settings["window"]) // interval)
        return computed - rounds * (interval - interval // settings["ratio"])
    return computed - max(0, (generated - settings["budget"]) // settings["buffer"]) * settings["buffer"]


def drive(
    llm: Any,
    asks: Sequence[Ask],
    *,
    logprobs: int | None = None,
    between: Callable[[int], None] | None = None,
    abort_after: int = 0,
) -> Seen:
    """Run `asks` together.

    logprobs: how many of each step's. between: called with the step's number after each step. abort_after: steps after which
    every second request is aborted; the tokens of those come back empty.
    """
    from vllm import SamplingParams

    engine = llm.llm_engine
    seen, done = Seen(), {}
    preempted: dict[str, int] = {}
    kept: dict[int, dict[str, Tensor]] = {}
    for number, ask in enumerate(asks):
        stop = {"ignore_eos": True} if ask.stop is None else {"ignore_eos": True, "stop_token_ids": [ask.stop]}
        params = SamplingParams(temperature=0.0, max_tokens=ask.tokens, extra_args=ask.extra, logprobs=logprobs, **stop)
        engine.add_request(str(number), {"prompt_token_ids": list(ask.prompt)}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                done[int(output.request_id)] = output.outputs[0]
                seen.hits += output.num_cached_tokens or 0
        seen.steps += 1
        _look(llm, asks, seen, preempted)
        kept |= _kept(llm)
        if between is not None:
            between(seen.steps)
        if seen.steps == abort_after:
            engine.abort_request([str(number) for number in range(0, len(asks), 2)])
    for number in range(len(asks)):
        text = done.get(number)
        seen.tokens.append([] if text is None else list(text.token_ids))
        found = [] if text is None else text.logprobs or []
        seen.logprobs.append([{token: value.logprob for token, value in step.items()} for step in found])
        seen.kept.append(kept.get(number, {}))
    seen.preemptions = sum(preempted.values())
    return seen


def worker_of(llm: Any) -> Any:
    """The one worker of an engine that lives in this process."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker


def _number(request_id: str) -> int:
    """The ask's number; vLLM adds letters of its own to a request's name."""
    return int(request_id.split("-")[0])


def _look(llm: Any, asks: Sequence[Ask], seen: Seen, preempted: dict[str, int]) -> None:
    """Compare the blocks of running requests, the scheduler's and the second model runner's, with arithmetic."""
    scheduler, runner = llm.llm_engine.engine_core.engine_core.scheduler, worker_of(llm).model_runner
    manager = scheduler.kv_cache_manager.coordinator.single_type_managers[0]
    size = manager.block_size
    for request in scheduler.running:
        ask = asks[_number(request.request_id)]
        held = physical(ask.settings, ask.prompt_tokens or len(ask.prompt), request.num_computed_tokens)
        ids = [block.block_id for block in manager.req_to_blocks[request.request_id]]
        if len(ids) != -(-held // size):
            seen.wrong_blocks.append(f"step {seen.steps}: {held} tokens in blocks {ids}")
        row = runner.req_states.req_id_to_index.get(request.request_id) if hasattr(runner, "req_states") else None
        if row is not None:
            tables = runner.block_tables
            count = int(tables.num_blocks.np[0, row])
            theirs = tables.block_tables[0].gpu[row, :count].tolist()
            if theirs != ids:
                seen.wrong_blocks.append(f"step {seen.steps}: blocks {ids} are {theirs} for the runner")
        seen.least_held = min(seen.least_held, held / max(1, request.num_computed_tokens))
        preempted[request.request_id] = request.num_preemptions


def _kept(llm: Any) -> dict[int, dict[str, Tensor]]:
    compressor = getattr(worker_of(llm), "compressor", None)
    return (
        {}
        if compressor is None
        else {_number(name): dict(held.positions) for name, held in compressor._requests.items()}
    )
