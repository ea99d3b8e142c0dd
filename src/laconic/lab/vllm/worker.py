"""One vLLM engine in a process of its own, which `process.Worker` starts and asks: JSON lines in, JSON lines out.

The first line says what engine to make and what load to run once untimed; the answer is `{"ready": ...}`. Every further line
names a `RequestLoad` and a repeat to run, and is answered by `{"done": figures}`. Instead of either may come
`{"refused": reason}`, where vLLM or laconic refuses the settings or the requests, `{"failed": reason}`, where vLLM broke, and
`{"fault": traceback}`, where laconic itself has a fault. The process ends when its input does.

The engine runs inside this process (no engine-core process of its own), so that its scheduler can be watched: what runs
and what was preempted at every `schedule()`, and how many blocks are taken whenever some are. Stock and compressed engines
are watched in the same way.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from laconic.engines.vllm.engine.failures import is_fault
from laconic.errors import EngineError, InputError
from laconic.lab.vllm.load import RequestLoad

IDLE_STEPS = 1000
"""Steps in a row that compute nothing, after which the engine is stuck."""


class Refused(Exception):
    """Not an error of the engine's: it says that it can't serve this."""


class MeasuredLLM:
    """An LLM and its scheduler, watched. options: of `vllm.LLM`. compresses: whether laconic has to be at work in it."""

    def __init__(self, options: dict[str, Any], compresses: bool) -> None:
        from vllm import LLM

        try:
            self.llm = LLM(**options)
        except ValueError as error:
            if is_fault(error):
                raise
            raise Refused(reason_of(error)) from error
        self.engine = self.llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        home = type(self.scheduler).__module__
        if home.startswith("laconic.") != compresses:
            raise InputError(
                "laconic is not at work in this vLLM, though its settings ask for it: install laconic again in vLLM's "
                "environment, so that vLLM finds its plugin, and leave VLLM_PLUGINS unset"
                if compresses
                else f"this vLLM is not stock: its scheduler comes from {home}"
            )
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.vocabulary = self.engine.model_config.get_vocab_size()
        self.watch = SchedulerCounts()
        schedule: Callable[..., Any] = self.scheduler.schedule
        take: Callable[..., Any] = self.pool.get_new_blocks

        def watched_schedule(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            self.watch.see(output, len(self.scheduler.running))
            return output

        def watched_take(*args: Any, **kwargs: Any) -> Any:
            taken = take(*args, **kwargs)
            self.watch.peak = max(self.watch.peak, self.used())
            return taken

        self.scheduler.schedule = watched_schedule
        self.pool.get_new_blocks = watched_take

    def about(self) -> dict[str, Any]:
        """What the engine turned out to be.

        blocks: that requests can use; block_bytes: of one, over all layers; ring_bytes, selector_bytes: what laconic keeps
        beside the KV cache, latest queries (None for stock) and a learned policy's networks.
        """
        cache = self.scheduler.kv_cache_config
        worker = self.engine.engine_core.engine_core.model_executor.driver_worker.worker
        compressor, info = getattr(worker, "compressor", None), getattr(worker, "model_info", None)
        total = sum(tensor.size for tensor in cache.kv_cache_tensors)
        return {
            "blocks": self.usable(),
            "block": self.engine.vllm_config.cache_config.block_size,
            "block_bytes": total // cache.num_blocks,
            "max_batched_tokens": self.engine.vllm_config.scheduler_config.max_num_batched_tokens,
            "selector_bytes": 0 if info is None else info.bytes,
            "ring_bytes": None if compressor is None else compressor.ring.bytes if compressor.ring else 0,
            "scheduler": f"{type(self.scheduler).__module__}.{type(self.scheduler).__qualname__}",
        }

    def usable(self) -> int:
        """vLLM sets one block aside that no request gets."""
        return int(self.pool.num_gpu_blocks) - 1

    def used(self) -> int:
        return self.usable() - int(self.pool.get_num_free_blocks())

    def counts(self) -> dict[str, int]:
        """What laconic's scheduler counted since it began; nothing of stock. Nothing takes the counts away while vLLM's own
        statistics are off."""
        counts = getattr(self.scheduler, "compression_counts", None)
        return {} if counts is None else {"evicted": counts.evicted, "compressions": counts.compressions}

    def run(self, load: RequestLoad, repeat: int) -> dict[str, Any]:
        """All requests of a repeat from first to last token, timed. The cache is empty when it begins.

        Raises Refused if the engine won't take a request; LaconicError if one generates another number of tokens than
        asked, or if nothing moves any more.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        if not self.llm.reset_prefix_cache():
            raise EngineError(
                "the prefix cache could not be emptied before the run: blocks of an earlier one are still held"
            )
        sampling = SamplingParams(
            max_tokens=load.output,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        prompts = load.prompts(repeat, self.vocabulary)
        before = self.counts()
        gc.collect()
        self.watch = watch = SchedulerCounts()
        made: dict[str, int] = {}
        first: dict[str, float] = {}
        start, busy = time.perf_counter(), time.process_time()
        for index, prompt in enumerate(prompts):
            try:
                self.engine.add_request(f"{repeat}-{index}", {"prompt_token_ids": prompt}, sampling)
            except (ValueError, VLLMClientError) as error:  # how vLLM refuses a request
                if is_fault(error):
                    raise
                raise Refused(reason_of(error)) from error
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                name = output.request_id
                new = sum(len(part.token_ids) for part in output.outputs)
                if new and name not in first:
                    first[name] = time.perf_counter() - start
                made[name] = made.get(name, 0) + new
            if watch.idle > IDLE_STEPS:
                raise EngineError(
                    f"the engine is stuck: {IDLE_STEPS} steps in a row computed nothing, with "
                    f"{len(self.scheduler.running)} requests running and {len(self.scheduler.waiting)} waiting"
                )
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        wrong = [name for name in (f"{repeat}-{i}" for i in range(load.requests)) if made.get(name, 0) != load.output]
        if wrong:
            raise EngineError(
                f"{len(wrong)} of {load.requests} requests generated another number of tokens than the {load.output} asked "
                f"for: request {wrong[0]} gave {made.get(wrong[0], 0)}"
            )
        waits = sorted(first.values())
        return {
            "seconds": seconds,
            "cpu_seconds": busy,
            "tokens": sum(made.values()),
            "steps": watch.steps,
            "computed": watch.computed,
            "mean_running": watch.running / watch.steps,
            "preemptions": watch.preemptions,
            "first_token": {"median": statistics.median(waits), "p90": waits[math.ceil(0.9 * len(waits)) - 1]},
            "peak_blocks": watch.peak,
            **{name: value - before[name] for name, value in self.counts().items()},
        }


class SchedulerCounts:
    """What one run's scheduling came to. steps: that computed something; computed: tokens, those of replays included."""

    def __init__(self) -> None:
        self.steps = self.computed = self.running = self.preemptions = self.peak = self.idle = 0

    def see(self, output: Any, running: int) -> None:
        self.preemptions += len(output.preempted_req_ids or ())
        if not output.total_num_scheduled_tokens:
            self.idle += 1
            return
        self.idle = 0
        self.steps += 1
        self.computed += output.total_num_scheduled_tokens
        self.running += running


def reason_of(error: BaseException) -> str:
    """An error of vLLM's in a sentence: the first paragraph, without pydantic's frame around it and vLLM's general advice."""
    text = str(error).strip() or type(error).__name__
    _, found, rest = text.partition("Value error, ")
    if found:
        text = rest.partition(" [type=")[0]
    return " ".join(text.partition("\n\n")[0].split()).partition(" Try increasing ")[0]


def main() -> None:
    """Serve what standard input asks until it ends. Whatever else writes to standard output is sent to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    asked: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            asked.put(line)
        os._exit(0)  # whoever asked is gone, perhaps in the middle of a run

    threading.Thread(target=read, daemon=True).start()

    def answer(work: Callable[[], dict[str, Any]], word: str) -> bool:
        try:
            said: dict[str, Any] = {word: work()}
        except Refused as error:
            said = {"refused": str(error)}
        except Exception as error:  # whatever it is, the process that asked has to be told
            traceback.print_exc()
            said = {"fault": traceback.format_exc()} if is_fault(error) else {"failed": reason_of(error)}
        print(json.dumps(said), file=answers, flush=True)
        return word in said

    engine: list[MeasuredLLM] = []

    def start() -> dict[str, Any]:
        order = json.loads(asked.get())
        engine.append(MeasuredLLM(order["options"], order["compresses"]))
        # Once untimed: what is compiled for the batches that come up, preempted ones too, is compiled, and memory is touched.
        engine[0].run(RequestLoad(**order["load"]), -1)
        return engine[0].about()

    if not answer(start, "ready"):
        return
    while True:
        order = json.loads(asked.get())
        answer(lambda order=order: engine[0].run(RequestLoad(**order["load"]), order["repeat"]), "done")  # type: ignore[misc]


if __name__ == "__main__":
    main()
