"""How far policies move a model's next-token distributions on whole traces of full KV, and what every record says of it.

`run_fidelity` feeds what a journal lacks, a batch of traces at a time under all policies, and sums up.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from laconic import checks
from laconic.compress import Policy, with_budget
from laconic.compress.policy import SelectorFiles
from laconic.engines.hf.facts import fit
from laconic.engines.hf.models import check_model
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.fidelity.contenders import check_lengths
from laconic.lab.fidelity.divergence import Divergence, is_stepwise, measure
from laconic.lab.fidelity.rows import BASELINES, FidelityRow, summarise
from laconic.lab.fidelity.traces import ForcedTrace
from laconic.lab.shared.policies import ComparedPolicy, check_labels, described, settled
from laconic.lab.shared.progress import Progress, Watcher

FORMAT = "laconic.fidelity/1"
DIGITS = 4


def run_fidelity(
    model: PreTrainedModel,
    traces: Sequence[ForcedTrace],
    rows: Sequence[ComparedPolicy],
    *,
    batch: int = 16,
    journal: Journal | None = None,
    watch: Watcher | None = None,
) -> list[FidelityRow]:
    """Feed every trace under full KV and under every row's policy, and return the rows' figures in their order.

    batch: traces that are fed at once. journal: results file, opened with `settings` and `may_grow`; what it holds of these
    traces and rows isn't run again. watch: called after every pass; it counts tokens. A budget that is to be matched is matched
    on the traces' lengths, and stays what it was once the journal names it.

    Raises InputError for no traces or rows, two of one name, a row that never compresses on these traces, a policy that can't
    run on this model, or a journal that holds other traces or other policies under these names.
    """
    check_model(model)
    _check(traces, rows)
    batch = checks.whole("batch", batch, 1)
    if journal is not None:
        checks.instance("journal", journal, Journal, "an open Journal, or None")
    if watch is not None:
        checks.function("watch", watch, "of a Progress")
    records = list(journal.records) if journal else []
    lengths = [len(trace.token_ids) for trace in traces]
    rows = [_recall_budget(row, records, lengths) for row in rows]
    check_lengths(rows, lengths)
    policies = {row.label: row.running(fit(row.policy, model)) for row in rows}
    new = [_policy_record(row, policies[row.label]) for row in rows]
    _check_policies(new, records)
    known = _known(traces, records)
    run = _FidelityRun(model, policies, journal, watch)
    todo = _todo(traces, [row.label for row in rows], known)
    run.total = sum(len(trace.token_ids) * (len(labels) + 1) for labels, group in todo.items() for trace in group)
    if journal:
        journal.append([record for record in new if record not in records])
    for labels, group in todo.items():
        group = sorted(group, key=lambda trace: len(trace.token_ids))  # so that little is filled up
        for start in range(0, len(group), batch):
            for record in run.feed(group[start : start + batch], labels):
                known[record["row"], record["trace"]] = record
    mine = {row.label: [known[row.label, trace.id] for trace in traces] for row in rows}
    return [
        summarise(
            row, policies[row.label].schedule, mine[row.label], _baselines(row, rows, mine), _others(row, rows, mine)
        )
        for row in rows
    ]


def settings(
    *, model: Mapping[str, Any], schedule: str, tokens: int | None, rows: Sequence[ComparedPolicy], files: SelectorFiles
) -> dict[str, Any]:
    """What records must agree on to belong to one run, for `Journal`; each says itself which trace it is of. files: finds the
    rows' selectors."""
    policies = {row.label: settled(row, files) for row in rows}
    return {"model": dict(model), "schedule": schedule, "tokens": tokens, "policies": policies}


def may_grow(key: str, lacking: bool) -> bool:
    """Which of the `settings` may differ, for `Journal`: rows that the file or the run has alone."""
    return lacking and key.startswith("policies.")


class _FidelityRun:
    """What the batches of one run share, and where finished records go."""

    def __init__(
        self, model: PreTrainedModel, policies: Mapping[str, Policy], journal: Journal | None, watch: Watcher | None
    ) -> None:
        self.model, self.policies, self.journal, self.watch = model, policies, journal, watch
        self.done = self.total = 0

    def feed(self, traces: Sequence[ForcedTrace], labels: Sequence[str]) -> list[Record]:
        """Run the traces under the policies of these labels. Returns the records, which the journal has by then."""
        longest = max(len(trace.token_ids) for trace in traces)
        share = sum(len(trace.token_ids) for trace in traces) / max(1, len(traces) * (longest - 1))
        start, fed = self.done, 0.0

        def tell(policy: int, tokens: int) -> None:
            nonlocal fed
            fed += tokens * share  # what fills up shorter traces is work, but nothing that was asked for
            self.done = start + round(fed)
            if self.watch:
                self.watch(Progress(self._name(labels, policy, longest), self.done, self.total))

        found = measure(
            self.model,
            [trace.prompt_ids for trace in traces],
            [trace.token_ids for trace in traces],
            [self.policies[label] for label in labels],
            [trace.number for trace in traces],
            tell,
        )
        records = [
            self._record(label, trace, divergence, row)
            for label, divergence in zip(labels, found, strict=True)
            for row, trace in enumerate(traces)
        ]
        if self.journal:
            self.journal.append(records)
        self.done = start + sum(len(trace.token_ids) for trace in traces) * (len(labels) + 1)
        return records

    def _name(self, labels: Sequence[str], policy: int, tokens: int) -> str:
        if policy < 0:
            return "full KV"
        stepwise = is_stepwise(self.policies[labels[policy]].schedule, tokens)
        return f"{labels[policy]}, step by step" if stepwise else labels[policy]

    def _record(self, label: str, trace: ForcedTrace, found: Divergence, row: int) -> Record:
        length, prompt = len(trace.token_ids), len(trace.prompt_ids)
        schedule = self.policies[label].schedule
        return {
            "kind": "trace",
            "row": label,
            "trace": trace.id,
            "problem": trace.problem,
            "digest": trace.digest,
            "prompt": prompt,
            "mean_kv_tokens": round(schedule.mean(length, prompt), 3),
            "peak_kv_tokens": schedule.peak(length, prompt),
            "kl": _rounded(found.kl[row, :length]),
            "agreement": [int(value) for value in found.agreement[row, :length].tolist()],
            "change": _rounded(found.change[row, :length]),
        }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def _todo(
    traces: Sequence[ForcedTrace], labels: Sequence[str], known: Mapping[tuple[str, str], Record]
) -> dict[tuple[str, ...], list[ForcedTrace]]:
    """The traces that lack something, by the rows that they lack."""
    found: dict[tuple[str, ...], list[ForcedTrace]] = {}
    for trace in traces:
        lacking = tuple(label for label in labels if (label, trace.id) not in known)
        if lacking:
            found.setdefault(lacking, []).append(trace)
    return found


def _known(traces: Sequence[ForcedTrace], records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    """The records of these traces, by row and trace; refuses those of other tokens under the same name."""
    digests = {trace.id: trace.digest for trace in traces}
    found = {}
    for record in records:
        if record.get("kind") != "trace" or record["trace"] not in digests:
            continue
        if record["digest"] != digests[record["trace"]]:
            raise InputError(
                f"The results file holds another trace under the name {record['trace']}; nothing was changed: give the traces "
                "that it was made of, or name another directory"
            )
        found[record["row"], record["trace"]] = record
    return found


def _policy_record(row: ComparedPolicy, policy: Policy) -> Record:
    """What tells a row's records from those of another policy under the same name."""
    record: Record = {"kind": "policy", "row": row.label, "policy": described(row)}
    if hasattr(policy, "budget"):
        record["budget"] = policy.budget
    learned = list(_tensors(policy.scorer))
    if learned:
        digest = hashlib.blake2b(digest_size=8)
        for weights in learned:
            digest.update(weights.float().cpu().numpy().tobytes())
        record["weights"] = digest.hexdigest()
    return record


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that a scorer has learned, however deep it holds it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _check_policies(new: Sequence[Record], records: Sequence[Record]) -> None:
    """Refuse a journal whose earlier records of a row are of another policy."""
    before = {record["row"]: record for record in records if record.get("kind") == "policy"}
    for record in new:
        old = before.get(record["row"], record)
        if old != record:
            same = old["policy"] == record["policy"]
            was, now = ("other weights", "others") if same else (old["policy"], record["policy"])
            raise InputError(
                f"The results file holds records of {was} for the row {record['row']}, this run has {now}; nothing was "
                "changed: name another directory"
            )


def _recall_budget(row: ComparedPolicy, records: Sequence[Record], lengths: Sequence[int]) -> ComparedPolicy:
    """The row with its budget: the one that the journal names, else matched on these lengths."""
    if row.target is None:
        return row
    matched = row.matched(lengths)
    for record in records:
        if record.get("kind") == "policy" and record["row"] == row.label:
            return dataclasses.replace(matched, policy=with_budget(matched.policy, int(record["budget"])))
    return matched


def _others(
    row: ComparedPolicy, rows: Sequence[ComparedPolicy], records: Mapping[str, list[Record]]
) -> dict[str, list[Record]]:
    """The records of the other rows on the row's schedule, by label."""
    cell = (row.ratio, row.interval, row.window)
    return {
        other.label: records[other.label]
        for other in rows
        if other.label != row.label and (other.ratio, other.interval, other.window) == cell
    }


def _baselines(
    row: ComparedPolicy, rows: Sequence[ComparedPolicy], records: Mapping[str, list[Record]]
) -> dict[str, list[Record]]:
    """The records of Random and RPC on the row's schedule, where they are others and ran."""
    families = {other.label: other.family for other in rows if other.family in BASELINES}
    return {families[label]: of for label, of in _others(row, rows, records).items() if label in families}


def _check(traces: Sequence[ForcedTrace], rows: Sequence[ComparedPolicy]) -> None:
    checks.instances("traces", traces, ForcedTrace, "traces, as `recorded_traces` gives them")
    checks.instances("rows", rows, ComparedPolicy, "rows, as `contenders` gives them")
    if not traces:
        raise InputError("There are no traces to feed; expected at least one")
    if not rows:
        raise InputError("There are no policies to compare; expected at least one")
    names = [trace.id for trace in traces]
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise InputError(f"Two traces have the name {twice!r}; expected each name once")
    check_labels(rows)
