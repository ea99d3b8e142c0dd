"""Chain recorded traces of one model into long ones, for `laconic bench fidelity` at lengths that a small model doesn't reach.

    python benchmarks/chain_traces.py TRACES.jsonl OUT.jsonl --tokens 4096

The first trace's prompt is the prompt; its tokens, then the next traces' prompts and tokens, are what is fed as generated: one
conversation in which the model solves one problem after the other. Nothing is drawn at random.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from laconic.traces import TraceRecord, read_traces, write_traces


def chained(records: Sequence[TraceRecord], tokens: int) -> Iterator[TraceRecord]:
    """Records of exactly `tokens` generated tokens each; what is left at the end is left out."""
    first: TraceRecord | None = None
    so_far: list[int] = []
    for record in records:
        if first is None:
            first, so_far = record, []
        else:
            so_far += record.prompt_ids
        so_far += record.token_ids
        if len(so_far) >= tokens:
            yield replace(
                first, token_ids=tuple(so_far[:tokens]), text="", answer=None, correct=False, confidences=None, kv={}
            )
            first = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=4096)
    asked = parser.parse_args()
    made = list(chained(read_traces(asked.traces).records, asked.tokens))
    write_traces(asked.out, made)
    print(f"{len(made)} traces of {asked.tokens} tokens in {asked.out}")


if __name__ == "__main__":
    main()
