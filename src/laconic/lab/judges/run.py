"""Judges compared on the same pairs of recorded excerpts: how they rank, how they are calibrated, what they cost.

Each judge gets the excerpts that it was made for; pairs and labels are the same for all. What a judge says of a problem is
written at once, so an interrupted run goes on, and a file grows by more judges, problems or traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.judges.pairs import Pairs, make_pairs
from laconic.lab.judges.recipe import unknown_to
from laconic.lab.judges.reread import Reread
from laconic.lab.judges.scoring import RESAMPLES, difference, score
from laconic.lab.judges.training import digest
from laconic.lab.shared.judges import describe_judge
from laconic.lab.shared.progress import Progress, Watcher
from laconic.lab.shared.traces import check_tokenizer
from laconic.prune.judge import Judge
from laconic.traces import TraceFile

FORMAT = "laconic.judging/2"


@dataclass(frozen=True, slots=True)
class ComparedJudge:
    """A judge in the comparison. label: its spec. excerpt: the kind of excerpts that it is given. engine: what it asks of
    a model is asked of this HFEngine; None for judges that ask nothing."""

    label: str
    judge: Judge
    excerpt: str
    engine: Any = None


Sets = Mapping[str, Mapping[str, Pairs]]  # set of traces -> kind of excerpt -> pairs


def excerpt_for(judge: Judge, given: str | None, others: Iterable[Judge], default: str | None) -> str:
    """The kind of excerpts that a judge gets: its own; else what was given; else what all other judges that have one were
    made for; else the default. Raises InputError where none of these tells."""
    if judge.excerpt is not None:
        return judge.excerpt
    theirs = {other.excerpt for other in others if other.excerpt is not None}
    chosen = given or (theirs.pop() if len(theirs) == 1 else None if theirs else default)
    if chosen is None:
        raise InputError(
            f"Judge {judge.name} takes any excerpt, and nothing says which; give one, such as tokens:500 or words:25"
        )
    return chosen


def prepare_sets(
    files: Mapping[str, TraceFile], kinds: Iterable[str], tokenizer: Any, engine: Any, known: frozenset[str]
) -> Sets:
    """The pairs of every file, cut in every kind, without the problems whose questions are among `known` (digests).

    Trace ids begin with the set's name. Raises InputError for traces of another tokenizer or with token ids beyond it, or
    a set that nothing is left of.
    """
    sets: dict[str, dict[str, Pairs]] = {}
    for name, traces in files.items():
        check_tokenizer(traces.records, tokenizer, None if engine is None else engine.model)
        sets[name] = {
            kind: unknown_to(make_pairs(traces, kind, tokenizer, engine, f"{name}/"), known) for kind in kinds
        }
        for pairs in sets[name].values():
            if not len(pairs) and known:
                raise InputError(
                    f"Every problem of the set {name} is one that a judge was trained on; expected traces of other problems"
                )
    return sets


def run_judging(
    entries: Sequence[ComparedJudge], sets: Sets, journal: Journal, watch: Watcher | None = None
) -> list[Record]:
    """Ask every judge about all pairs of every set; returns the journal's judgements, one a set, judge, problem and its pairs.

    What the journal has of the same judge and the same pairs is not asked again; where a problem's traces are others now, its
    pairs are. Raises InputError for no judges, two with one label, a set whose pairs are of one class only, a journal whose
    judgements are of another judge under one of the labels, or a judge that gives a probability outside 0 to 1, or none at
    all; what it said of that problem isn't written.
    """
    labels = [entry.label for entry in entries]
    if not entries or len(set(labels)) < len(labels):
        raise InputError(f"The judges are {', '.join(labels) or 'none'}; expected at least one, each once")
    for name, kinds in sets.items():
        next(iter(kinds.values())).require_both_classes(f"the set {name}")
    _recall_judges(entries, journal)
    have = {(r["set"], r["judge"], r["problem"], r["digest"]) for r in journal.records if r["kind"] == "judged"}
    total = sum(len(_problems(next(iter(kinds.values())))) for kinds in sets.values()) * len(entries)
    done = 0
    for name, kinds in sets.items():
        for entry in entries:
            pairs = kinds[entry.excerpt]
            for problem in _problems(pairs):
                mine = pairs.of_problems([problem])
                found = digest(mine)
                if (name, entry.label, problem, found) not in have:
                    record = {"kind": "judged", "set": name, "judge": entry.label, "problem": problem, "digest": found}
                    journal.append([record | _ask(entry, mine)])
                done += 1
                if watch:
                    watch(Progress(f"{entry.label} on {name}", done, total))
    return [record for record in journal.records if record["kind"] == "judged"]


def may_grow(key: str, lacking: bool) -> bool:
    """Which settings of a run may differ, for `Journal`: judges and sets that the file or the run has alone, and how many
    problems and traces there are. Judgements say whose they are, and of which pairs."""
    counts = key.startswith("problems.") or (key.startswith("traces.") and key.endswith((".problems", ".traces")))
    return counts or (lacking and key.startswith(("judges.", "traces.")))


def _recall_judges(entries: Sequence[ComparedJudge], journal: Journal) -> None:
    """Write down which judges the labels stand for; refuse a journal in which one of them stands for another."""
    judged = {record["judge"] for record in journal.records if record["kind"] == "judged"}
    known = {r["judge"]: r for r in journal.records if r["kind"] == "judge" and r["judge"] in judged}
    new = []
    for entry in entries:
        described = {**(describe_judge(entry.judge) or {}), "excerpt": entry.excerpt}
        found = known.get(entry.label)
        if found is None:
            new.append({"kind": "judge", "judge": entry.label, **described})
            continue
        changed = [
            f"{key} was {found.get(key)}, now {value}" for key, value in described.items() if found.get(key) != value
        ]
        if changed:
            raise InputError(
                f"{journal.path} holds judgements of another {entry.label} ({'; '.join(changed)}); nothing was changed: "
                "use that one, or name another directory"
            )
    journal.append(new)


def _ask(entry: ComparedJudge, pairs: Pairs) -> Record:
    judge = entry.judge
    source: Any = None if entry.engine is None else Reread(entry.engine, pairs.excerpts)
    before = replace(judge.cost)
    readings = judge.read(pairs.excerpts, source)
    matrix = getattr(judge, "matrix", None)
    ends = list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    if matrix is not None:
        table = matrix(readings)
        found = [float(table[a, b]) for a, b in ends]
    else:
        found = judge.compare([(readings[a], readings[b]) for a, b in ends])
    # Before it is written: a journal that held it would refuse the mended judge as well.
    if wrong := [p for p in found if not 0 <= p <= 1]:
        problem = pairs.problems[int(pairs.problem[0])]
        raise InputError(
            f"judge {entry.label} gave the probability {wrong[0]} for a pair of problem {problem}; expected a number "
            "from 0 to 1"
        )
    cost = judge.cost.minus(before)
    return {
        "probabilities": found,
        "tokens": cost.tokens,
        # States that a decoding engine notes on the way had to be computed again here; that time is not the judge's.
        "seconds": max(0.0, cost.seconds - (source.seconds if source is not None else 0.0)),
    }


def summarise(
    entries: Sequence[ComparedJudge], sets: Sets, records: Sequence[Record], resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """A row a set and judge, ready for JSON: its `Score`, tokens a pair, judgements a second (of the time spent reading and
    comparing), and its AUROC less the first judge's, paired, over problems."""
    told = {(r["set"], r["judge"], r["problem"], r["digest"]): r for r in records if r["kind"] == "judged"}
    rows = []
    for name, kinds in sets.items():
        first: Tensor | None = None
        for entry in entries:
            pairs = kinds[entry.excerpt]
            mine = [
                told[name, entry.label, problem, digest(pairs.of_problems([problem]))] for problem in _problems(pairs)
            ]
            said = torch.tensor([p for record in mine for p in record["probabilities"]], dtype=torch.float64)
            # Problem by problem, as they were asked.
            order = pairs.problem.argsort(stable=True)
            same, problem = pairs.same[order], pairs.problem[order]
            seconds = sum(record["seconds"] for record in mine)
            found = difference(said, first, same, problem, resamples) if first is not None else None
            rows.append(
                {
                    "set": name,
                    "judge": entry.label,
                    "excerpt": entry.excerpt,
                    **score(said, same, problem, resamples).to_dict(),
                    "tokens_per_pair": sum(record["tokens"] for record in mine) / len(pairs),
                    "pairs_per_second": len(pairs) / seconds if seconds else None,
                    "to_first": None if found is None else found.to_dict(),
                }
            )
            first = said if first is None else first
    return rows


def _problems(pairs: Pairs) -> list[str]:
    """The problems that have pairs, in the order of their places."""
    return [pairs.problems[i] for i in pairs.problem.unique().tolist()]
