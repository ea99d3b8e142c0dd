"""Rows of the vLLM table: medians over repeats, and ratios to stock inside a repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from laconic.bench.journal import Record
from laconic.bench.vllm_load import STOCK
from laconic.bench.vllm_speed import Job, failure

Row = dict[str, Any]
COUNTS = ("steps", "computed", "mean_running", "preemptions", "peak_blocks", "evicted", "compressions")


def summarise(job: Job, records: Sequence[Record]) -> list[Row]:
    """A row a cache size and contender, as JSON values.

    cache: share of the demand that the cache holds; blocks, bytes: what that is. tokens_per_second: median over repeats, with
    the least and the most. to_stock: median over repeats of this contender's speed over stock's in the same repeat, and its
    range; None for stock or without it. Medians of steps (that computed something), computed (tokens, replays of preempted
    requests included), mean_running (requests, over steps), preemptions, peak_blocks, and where a policy runs evicted (tokens)
    and compressions. first_token: seconds from the start to a request's first token, the median request's and the 90th
    per cent's. repeats: how many were measured. failed: why there are none, or fewer than asked; None otherwise. refused:
    whether the engine itself said that it can't serve this with such a cache.
    """
    rows = []
    for share in job.shares:
        found = {
            contender.label: sorted(
                (r for r in records if _is(r, "sample", share, contender.label) and r["repeat"] < job.repeats),
                key=lambda record: record["repeat"],
            )
            for contender in job.contenders
        }
        stock = {r["repeat"]: r["tokens"] / r["seconds"] for r in found.get(STOCK, [])}
        for contender in job.contenders:
            samples = found[contender.label]
            broken = failure(job, records, share, contender.label)
            row: Row = {
                "cache": share,
                "blocks": job.load.blocks(share),
                "bytes": job.load.blocks(share) * job.load.block * job.model.kv_bytes_per_token,
                "contender": contender.label,
                "family": contender.family,
                "policy": contender.describe(),
                "repeats": len(samples),
                "failed": broken["reason"] if broken else None,
                "refused": broken["refused"] if broken else False,
            }
            rows.append({**row, **_figures(samples, stock if contender.label != STOCK else {})} if samples else row)
    return rows


def rings(records: Sequence[Record]) -> dict[str, int | None]:
    """Bytes of latest queries that each contender keeps beside the KV cache, the same at every cache size; None for stock."""
    return {record["contender"]: record["ring_bytes"] for record in records if record["kind"] == "engine"}


def _is(record: Record, kind: str, share: float, label: str) -> bool:
    return record["kind"] == kind and record["share"] == share and record["contender"] == label


def _figures(samples: Sequence[Record], stock: dict[int, float]) -> Row:
    speeds = [record["tokens"] / record["seconds"] for record in samples]
    ratios = [
        speed / stock[record["repeat"]]
        for speed, record in zip(speeds, samples, strict=True)
        if record["repeat"] in stock
    ]
    return {
        "tokens_per_second": {"median": statistics.median(speeds), "least": min(speeds), "most": max(speeds)},
        "to_stock": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if ratios
        else None,
        "first_token": {
            key: statistics.median(record["first_token"][key] for record in samples) for key in ("median", "p90")
        },
        **{
            name: statistics.median(record[name] for record in samples) if all(name in r for r in samples) else None
            for name in COUNTS
        },
    }
