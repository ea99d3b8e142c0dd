"""A calibration from recorded traces: strategies that ask no judge, each at several prices, beside plain votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.compress import FullKV
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.parallel.lineup import FULL, ComparedStrategy, LabelledPolicy, lineup
from laconic.lab.parallel.recorded import RecordedSetup, digest_of_traces, problems_of, sampling_of
from laconic.lab.parallel.rows import plain_curve, summarise
from laconic.lab.parallel.run import ParallelExperiment, run_parallel, settings
from laconic.lab.parallel.setup import confidence_top_k_of
from laconic.lab.shared.progress import Watcher
from laconic.prune.calibration import CalibratedRow, Calibration, check_problems
from laconic.prune.strategies.registry import needs_calibration, needs_judge, parse
from laconic.prune.strategies.run import traces
from laconic.traces import TraceRecord

PRICES = (
    "0.06",
    "0.045",
    "0.035",
    "0.027",
    "0.02",
    "0.016",
    "0.012",
    "0.008",
    "0.0065",
    "0.005",
    "0.004",
    "0.003",
    "0.002",
)
THRESHOLDS = ("0.8", "0.9", "0.95")
LEAST_SAMPLES = 4
DEFAULT_TOP_K = 20  # as strategies have it


def ladder(records: Sequence[TraceRecord]) -> list[str]:
    """What is tried where nothing else is said: ties go by confidence where the traces have one."""
    ties = _ties(records)
    return [
        *(f"priced-vote:price={price},{ties}" for price in PRICES),
        *(f"adaptive-consistency:threshold={share},{ties}" for share in THRESHOLDS),
    ]


def _ties(records: Sequence[TraceRecord]) -> str:
    """By confidence where every trace has one, as the plain votes of `single_traces` do."""
    if not all(record.confidences for record in records):
        return "ties=index"
    candidates = records[0].settings.get("logprobs") or DEFAULT_TOP_K
    return "ties=confidence" + ("" if candidates == DEFAULT_TOP_K else f",top_k={candidates}")


def experiment_of(
    by_problem: Mapping[str, Sequence[TraceRecord]], strategies: Sequence[str], n: int | None, orders: int, path: Path
) -> ParallelExperiment:
    """What is played back. n: traces of each problem; None: as many as every problem has.

    Raises InputError for too few problems or traces, a strategy that asks a judge or is itself chosen by a calibration, and as
    `problems_of` and `sampling_of`.
    """
    check_problems(len(by_problem))
    have = min(len(records) for records in by_problem.values())
    most = have if n is None else n
    if most < LEAST_SAMPLES:
        raise InputError(
            f"a calibration of {traces(most)} a problem has nothing to vote on; expected at least {LEAST_SAMPLES}, and 16 are "
            "better: collect more with --n"
        )
    for spec in strategies:
        if needs_judge(spec) or needs_calibration(spec):
            raise InputError(
                f"the strategy {spec} can't be calibrated, as it needs a judge or a calibration; leave it out"
            )
        parse(spec, most)
    problems = problems_of(by_problem, None, path)
    compression = LabelledPolicy(FULL, FullKV())
    entries = lineup([most], [compression], strategies, [], needs_judge, [])
    entries = [entry for entry in entries if entry.single or entry.family in ("cons", *strategies)]
    sampling = sampling_of(by_problem, path, confidence_top_k_of(strategies))
    return ParallelExperiment(problems, [compression], entries, sampling, 0, orders)


def calibrate_traces(
    experiment: ParallelExperiment,
    by_problem: Mapping[str, Sequence[TraceRecord]],
    journal: Journal,
    watch: Watcher | None = None,
) -> Calibration:
    """Play everything back and make a calibration of it. What the journal holds is not played again."""

    def make(spec: str, count: int, judge: Any) -> Any:
        return parse(spec, count, judge)

    records = run_parallel(experiment, RecordedSetup(by_problem, make), journal, watch)
    drawn = [record for each in by_problem.values() for record in each[: experiment.most]]
    told = drawn[0].settings
    return calibration_of(experiment, records, _ties(drawn), str(told.get("model")), str(told.get("weights")))


def digest_of(experiment: ParallelExperiment, records: Sequence[TraceRecord]) -> str:
    """What outcomes depend on beside a strategy: the traces, how many of each problem, and the orders."""
    return f"{digest_of_traces(records)}-{experiment.most}-{experiment.orders}"


def journal_settings(experiment: ParallelExperiment, model: str, weights: str) -> dict[str, Any]:
    """What a journal of a calibration is of: another run's is refused."""
    return settings(model={"name": model, "fingerprint": weights}, problem_set="recorded", experiment=experiment)


def calibration_of(
    experiment: ParallelExperiment, records: Sequence[Record], ties: str, model: str, weights: str
) -> Calibration:
    """Plain votes of 1, 2, ... traces, then the strategies in their order. ties: how those votes break them, as a spec says it;
    strategies' gains are to the same votes."""
    by_confidence = ties != "ties=index"
    curve = plain_curve(experiment, records)
    mean = curve[0]["tokens"]
    assert mean is not None  # every point has its cost
    rows = []
    for k, point in enumerate(curve, 1):
        accuracy = point["by_confidence" if by_confidence else "accuracy"]
        assert accuracy is not None  # `ties` is by confidence only where each trace has one
        rows.append(CalibratedRow(f"self-consistency:{ties}", k, float(k), accuracy))
    for row in summarise(experiment, records):
        if _is_strategy(experiment.entries, row.label):
            gain = row.equal_cost_by_confidence if by_confidence else row.equal_cost
            rows.append(
                CalibratedRow(
                    row.strategy,
                    row.n,
                    row.total_tokens / mean,
                    row.accuracy.mean,
                    None if gain is None else gain.mean,
                    None if gain is None else gain.low,
                    None if gain is None else gain.high,
                )
            )
    return Calibration(model, weights, len(experiment.problems), experiment.most, mean, tuple(rows))


def _is_strategy(entries: Sequence[ComparedStrategy], label: str) -> bool:
    """Not pass@1, and none of the votes that are there for comparison."""
    return any(entry.label == label and not entry.single and entry.family == entry.strategy for entry in entries)
