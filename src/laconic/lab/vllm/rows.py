"""Rows of the vLLM table: medians over repeats, and ratios to stock inside a repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from laconic.journal import Record
from laconic.lab.vllm.load import STOCK
from laconic.lab.vllm.run import VLLMExperiment, failure

COUNTS = ("steps", "computed", "mean_running", "preemptions", "peak_blocks", "evicted", "compressions")


def summarise(experiment: VLLMExperiment, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row a cache size and contender, as JSON values.

    cache: share of the demand that the cache holds; blocks, bytes: what that is. tokens_per_second: median over repeats, with
    the least and the most. to_stock: median over repeats of this contender's speed over stock's in the same repeat, and its
    range; None for stock or without it; to_stock_cpu: the same by CPU time. cpu_share: CPU time of the engine's process over
    the run's, the median: where one thread computes, less than 1 is what the machine gave to others. Medians of steps (that
    computed something), computed (tokens, replays of preempted requests included), mean_running (requests, over steps),
    preemptions, peak_blocks, and where a policy runs evicted (tokens) and compressions. first_token: seconds from the start
    until half of the requests have their first token, and 90 %. memory: bytes of the most blocks that were taken, and of what
    the policy keeps beside them. repeats: how many were measured. failed: why there are none, or
    fewer than asked; None otherwise. refused: whether the engine itself said that it can't serve this with such a cache.
    """
    rows = []
    kept, networks = rings(records), selectors(records)
    beside = {c.label: (kept.get(c.label) or 0) + networks.get(c.label, 0) for c in experiment.contenders}
    for share in experiment.shares:
        found = {
            contender.label: sorted(
                (r for r in records if _is(r, "sample", share, contender.label) and r["repeat"] < experiment.repeats),
                key=lambda record: record["repeat"],
            )
            for contender in experiment.contenders
        }
        for contender in experiment.contenders:
            samples = found[contender.label]
            broken = failure(experiment, records, share, contender.label)
            row: dict[str, Any] = {
                "cache": share,
                "blocks": experiment.load.blocks(share),
                "bytes": experiment.load.blocks(share) * experiment.load.block * experiment.model.kv_bytes_per_token,
                "contender": contender.label,
                "family": contender.family,
                "policy": contender.describe(),
                "repeats": len(samples),
                "failed": broken["reason"] if broken else None,
                "refused": broken["refused"] if broken else False,
            }
            if samples:
                row |= _figures(samples, found.get(STOCK, []) if contender.label != STOCK else [])
                row["memory"] = round(row["peak_blocks"] * row["bytes"] / row["blocks"]) + beside[contender.label]
            rows.append(row)
    return rows


def rings(records: Sequence[Record]) -> dict[str, int | None]:
    """Bytes of latest queries that each contender keeps beside the KV cache, the same at every cache size; None for stock."""
    return {record["contender"]: record["ring_bytes"] for record in records if record["kind"] == "engine"}


def selectors(records: Sequence[Record]) -> dict[str, int]:
    """Bytes of each contender's selectors, beside the KV cache."""
    return {r["contender"]: r.get("selector_bytes", 0) for r in records if r["kind"] == "engine"}


def _is(record: Record, kind: str, share: float, label: str) -> bool:
    return record["kind"] == kind and record["share"] == share and record["contender"] == label


def _figures(samples: Sequence[Record], stock: Sequence[Record]) -> dict[str, Any]:
    speeds = [record["tokens"] / record["seconds"] for record in samples]
    return {
        "tokens_per_second": {"median": statistics.median(speeds), "least": min(speeds), "most": max(speeds)},
        "to_stock": _ratios(samples, stock, "seconds"),
        "to_stock_cpu": _ratios(samples, stock, "cpu_seconds"),
        "cpu_share": statistics.median(record["cpu_seconds"] / record["seconds"] for record in samples),
        "first_token": {
            key: statistics.median(record["first_token"][key] for record in samples) for key in ("median", "p90")
        },
        **{
            name: statistics.median(record[name] for record in samples) if all(name in r for r in samples) else None
            for name in COUNTS
        },
    }


def _ratios(samples: Sequence[Record], stock: Sequence[Record], time: str) -> dict[str, float] | None:
    """Stock's time over this contender's in the same repeat: median, least and most; None without a common repeat."""
    reference = {record["repeat"]: record[time] for record in stock}
    found = [reference[r["repeat"]] / r[time] for r in samples if r["repeat"] in reference]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)} if found else None
