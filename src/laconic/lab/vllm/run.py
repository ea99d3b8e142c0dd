"""Stock vLLM against vLLM with a policy, at several sizes of the KV cache. Interleaved, resumable.

All engines of one cache size are started before any is timed, and then run in turns, one at a time, in an order that rotates:
a machine that slows down slows all of them. Ratios are taken inside a repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from laconic.checks import unwrap_numpy_fields, whole
from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.shared.progress import Progress, Watcher
from laconic.lab.throughput.run import REPEATS
from laconic.lab.vllm.load import SHARES, ComparedEngine, RequestLoad
from laconic.lab.vllm.model import ServedModel
from laconic.lab.vllm.process import Worker, WorkerFailed

FORMAT = "laconic.vllm/1"


class Runner(Protocol):
    """An engine that is ready: `Worker`, or a test's."""

    about: dict[str, Any]

    def run(self, load: RequestLoad, repeat: int) -> dict[str, Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class VLLMExperiment:
    """A load on contenders x cache sizes x repeats.

    shares: of the demand that the KV cache holds, each a cell. eager: no compilation and no CUDA graphs. threads: of OpenMP in
    each engine. vllm: its version, which results must agree on.

    Raises InputError for an impossible or doubled share, no contenders or one twice, threads or repeats below 1.
    """

    model: ServedModel
    load: RequestLoad
    contenders: Sequence[ComparedEngine]
    shares: Sequence[float] = SHARES
    repeats: int = REPEATS
    eager: bool = True
    threads: int = 1
    vllm: str = ""

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("repeats", self.repeats, 1, meaning="of every cell and contender")
        whole("threads", self.threads, 1, 4096, "of each engine")
        if not self.shares or not self.contenders:
            raise InputError("There is nothing to measure: expected at least one cache size and one contender")
        for share in self.shares:
            self.load.blocks(share)
        for what, names in (("cache size", list(self.shares)), ("contender", [c.label for c in self.contenders])):
            twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
            if twice is not None:
                raise InputError(f"The {what} {twice} is asked for twice; expected each once")

    def settings(self) -> dict[str, Any]:
        """What records must agree on to be compared, for `Journal`. Repeats may grow."""
        return {
            "model": self.model.describe(),
            "requests": self.load.requests,
            "prompt": self.load.prompt,
            "output": self.load.output,
            "block": self.load.block,
            "seed": self.load.seed,
            "shares": list(self.shares),
            "contenders": {c.label: c.describe() for c in self.contenders},
            "eager": self.eager,
            "threads": self.threads,
            "vllm": self.vllm,
        }

    def options(self, contender: ComparedEngine, share: float) -> dict[str, Any]:
        """Of `vllm.LLM`. What isn't named here is vLLM's own default, prefix caching among it."""
        blocks = self.load.blocks(share) + 1  # one that vLLM keeps for itself
        options = {
            **self.model.options(),
            "block_size": self.load.block,
            "num_gpu_blocks_override": blocks,
            # Of itself it changes nothing beside the number of blocks, but without it vLLM measures what it could take.
            "kv_cache_memory_bytes": blocks * self.load.block * self.model.kv_bytes_per_token,
            "max_num_seqs": self.load.requests,
            "max_model_len": self.load.length + 1,
            "enforce_eager": self.eager,
            "disable_log_stats": True,
            "seed": 0,
        }
        return (
            options if contender.settings is None else {**options, "additional_config": {"laconic": contender.settings}}
        )


def check_selectors(experiment: VLLMExperiment) -> None:
    """Raises InputError where a policy's selector isn't there, before any engine starts; each checks that it fits its model."""
    for contender in experiment.contenders:
        if contender.settings is not None:
            parse_launch(contender.settings).policy.resolved(experiment.model)


def start(experiment: VLLMExperiment, contender: ComparedEngine, share: float) -> Runner:
    """The engine of a contender at a cache size, in a process of its own. Raises WorkerFailed."""
    return Worker(
        experiment.options(contender, share), experiment.load, contender.settings is not None, experiment.threads
    )


def run_vllm(
    experiment: VLLMExperiment,
    journal: Journal | None = None,
    watch: Watcher | None = None,
    start: Callable[[VLLMExperiment, ComparedEngine, float], Runner] = start,
) -> list[Record]:
    """Measure what the journal lacks, and return all records: kinds `engine`, `sample`, `failed`.

    An engine that refuses or breaks gives a `failed` record with the reason, and the others go on without it;
    the next run with the same journal tries it again.
    """
    run = _Run(experiment, journal, watch, start)
    for share in experiment.shares:
        with contextlib.ExitStack() as stack:
            run.cell(share, stack)
    return run.records


class _Run:
    """A run under way. count: runs that are done, or given up because their engine failed."""

    def __init__(
        self,
        experiment: VLLMExperiment,
        journal: Journal | None,
        watch: Watcher | None,
        start: Callable[[VLLMExperiment, ComparedEngine, float], Runner],
    ) -> None:
        self.experiment, self.journal, self.watch, self.start = experiment, journal, watch, start
        self.records: list[Record] = list(journal.records) if journal else []
        self.count = 0

    def cell(self, share: float, stack: contextlib.ExitStack) -> None:
        """Start the engines of a cache size that have something left to run, then run them in turns. stack: closes them."""
        experiment = self.experiment
        left = {contender.label: self._left(share, contender) for contender in experiment.contenders}
        self.count += len(experiment.contenders) * experiment.repeats - sum(len(repeats) for repeats in left.values())
        runners: dict[str, Runner] = {}
        for contender in experiment.contenders:
            if not left[contender.label]:
                continue
            self._tell(share, contender, ", starting")
            try:
                runner = self.start(experiment, contender, share)
            except WorkerFailed as error:
                self._give_up(share, contender, error, len(left[contender.label]))
                continue
            stack.callback(runner.close)
            runners[contender.label] = runner
            self._note(kind="engine", share=share, contender=contender.label, **runner.about)
        for repeat in range(experiment.repeats):
            # The order rotates, so that no engine always runs after the same other one.
            turn = repeat % len(experiment.contenders)
            for contender in [*experiment.contenders[turn:], *experiment.contenders[:turn]]:
                if contender.label not in runners or repeat not in left[contender.label]:
                    continue
                self._tell(share, contender, "")
                try:
                    figures = runners[contender.label].run(experiment.load, repeat)
                except WorkerFailed as error:
                    runners.pop(contender.label).close()
                    self._give_up(share, contender, error, sum(r >= repeat for r in left[contender.label]))
                    continue
                self._note(kind="sample", share=share, contender=contender.label, repeat=repeat, **figures)
                self.count += 1

    def _left(self, share: float, contender: ComparedEngine) -> set[int]:
        """Repeats that no record has yet."""
        return set(range(self.experiment.repeats)) - _done(self.records, share, contender.label)

    def _tell(self, share: float, contender: ComparedEngine, what: str) -> None:
        if self.watch:
            total = len(self.experiment.shares) * len(self.experiment.contenders) * self.experiment.repeats
            self.watch(Progress(f"{100 * share:g} % {contender.label}{what}", self.count + 1, total))

    def _give_up(self, share: float, contender: ComparedEngine, error: WorkerFailed, runs: int) -> None:
        self._note(kind="failed", share=share, contender=contender.label, refused=error.refused, reason=str(error))
        self.count += runs

    def _note(self, **record: Any) -> None:
        if self.journal:
            self.journal.append([record])
        self.records.append(record)


def _done(records: Sequence[Record], share: float, label: str) -> set[int]:
    return {
        record["repeat"]
        for record in records
        if record["kind"] == "sample" and record["share"] == share and record["contender"] == label
    }


def failure(experiment: VLLMExperiment, records: Sequence[Record], share: float, label: str) -> Record | None:
    """The last failure of a cell that lacks repeats; None if it lacks none, or never failed.

    refused: the engine said that it can't serve this with such a cache; otherwise it broke. reason: in words.
    """
    failed = [
        record
        for record in records
        if record["kind"] == "failed" and record["share"] == share and record["contender"] == label
    ]
    return None if not failed or _done(records, share, label) >= set(range(experiment.repeats)) else failed[-1]
