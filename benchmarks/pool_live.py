"""A pool that was run live against its replay: how many traces each problem got.

    laconic collect ... --spend 4x --batch 48 --out LIVE.jsonl
    laconic bench parallel --traces ALL.jsonl ... --pools 4x --out REPLAYED
    python benchmarks/pool_live.py LIVE.jsonl REPLAYED/results.jsonl "pool 4x" --out DIRECTORY

ALL.jsonl holds all n traces of the same problems and seed. The replay is that of the recorded order, as many traces at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from laconic.environment import script_environment
from laconic.files import write_text
from laconic.traces import read_traces


def replayed(path: Path, pool: str) -> dict[str, int]:
    """How many traces each problem got in the recorded order."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    mine = [r for r in records if r["kind"] == "result" and r["entry"].startswith(f"{pool} n=")]
    return {record["problem"]: record["fates"].count("f") for record in mine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("live", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("pool")
    parser.add_argument("--out", type=Path, help="write results.json there")
    asked = parser.parse_args()
    live = {name: len(records) for name, records in read_traces(asked.live).by_problem().items()}
    played = replayed(asked.results, asked.pool)
    apart = [abs(live.get(name, 0) - count) for name, count in played.items()]
    found = {
        **script_environment(__file__),
        "pool": asked.pool,
        "problems": len(played),
        "alike": apart.count(0),
        "most_apart": max(apart),
        "traces_live": sum(live.values()),
        "traces_replayed": sum(played.values()),
        "traces": {name: [live.get(name, 0), count] for name, count in played.items()},
    }
    print(json.dumps({name: value for name, value in found.items() if name != "traces"}))
    if asked.out is not None:
        write_text(asked.out / "results.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
