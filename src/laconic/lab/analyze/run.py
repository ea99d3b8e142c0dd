"""What traces look like, by group: entropy by length, and redundancy. The report behind `laconic analyze`."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from laconic import checks
from laconic.errors import InputError
from laconic.lab.analyze.entropy import ORDERS, default_lengths, entropy_by_length
from laconic.lab.analyze.reading import WrittenTrace
from laconic.lab.analyze.redundancy import TFIDF, THRESHOLD, embedder, redundancy, split_spans, window_spans, words
from laconic.statistics import mean_interval

FORMAT = "laconic.analysis/1"
SPAN_TOKENS = 24  # of traces without text


def analyse(
    traces: Sequence[WrittenTrace],
    lengths: Sequence[int] | None = None,
    *,
    embed: str = TFIDF,
    threshold: float = THRESHOLD,
    span_tokens: int | None = None,
) -> list[dict[str, Any]]:
    """One JSON-ready record a group, in order of appearance.

    lengths: at which entropy is taken; None: the published ones, or shorter ones for short traces (`default_lengths`).
    entropy: `EntropyPoint`s as dictionaries. redundancy: the share of spans that resemble an earlier one, mean over
    problems of the mean over their traces, with its 95 % interval over problems; None if no trace has a span. A trace of no
    known problem counts as a problem of its own. problems: how many, None where no trace names any. Spans are sentences
    and lines of the text; `span_tokens` consecutive tokens where a trace has no text, or everywhere if that is given.

    Raises InputError for no traces, and as the parts do.
    """
    if not traces:
        raise InputError("There are no traces to analyse; expected at least one")
    checks.instances("traces", traces, WrittenTrace, "a WrittenTrace")
    vectors = embedder(embed)
    if lengths is None:
        lengths = default_lengths([trace.token_ids for trace in traces])
    report = []
    for group in dict.fromkeys(trace.group for trace in traces):
        mine = [trace for trace in traces if trace.group == group]
        rates: dict[Hashable, list[float]] = {}
        counts = []
        for index, trace in enumerate(mine):
            spans, texts = spans_of(trace, span_tokens)
            rate = redundancy(spans, texts, vectors, threshold)
            counts.append(len(spans))
            if rate is not None:
                # Traces of one problem resemble each other, so they are no independent observations.
                rates.setdefault(index if trace.problem is None else trace.problem, []).append(rate)
        found = mean_interval(list(rates.values())) if rates else None
        named = {trace.problem for trace in mine} - {None}
        report.append(
            {
                "group": group,
                "traces": len(mine),
                "problems": len(named) or None,
                "mean_length": sum(len(trace.token_ids) for trace in mine) / len(mine),
                "entropy": [
                    dataclasses.asdict(point)
                    for point in entropy_by_length([trace.token_ids for trace in mine], lengths, ORDERS)
                ],
                "spans": sum(counts) / len(counts),
                "redundancy": found._asdict() if found else None,
                "threshold": threshold,
                "embedder": embed,
            }
        )
    return report


def spans_of(trace: WrittenTrace, span_tokens: int | None) -> tuple[list[Sequence[Hashable]], list[str]]:
    """A trace's spans as words and as texts; as token ids and no texts where it has no text or `span_tokens` is given."""
    if trace.text and span_tokens is None:
        texts = split_spans(trace.text)
        return [words(text) for text in texts], texts
    return list(window_spans(trace.token_ids, SPAN_TOKENS if span_tokens is None else span_tokens)), []
