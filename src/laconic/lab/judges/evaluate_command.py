"""`laconic judge eval`: judges compared on the same pairs."""

from __future__ import annotations

from pathlib import Path

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.loading import announce_loading
from laconic.cli.options import (
    AsJson,
    Device,
    ExcerptKind,
    ModelName,
    Out,
)
from laconic.lab.shared.options import (
    JudgesRepeated,
    TraceFileOption,
    UnseenTraces,
)


def evaluate(
    traces: TraceFileOption,
    judges: JudgesRepeated,
    unseen: UnseenTraces = None,
    excerpt: ExcerptKind = None,
    model: ModelName = None,
    device: Device = "auto",
    out: Out = Path("runs/judges"),
    as_json: AsJson = False,
) -> None:
    """Compare judges on the same pairs: how they rank them, how far their probabilities hold, what they cost.

    Problems that one of them was trained on are left out. Judges that ask the reasoner (probe, encoders of hidden states) ask
    the model of --model (the bundled one without it), on unseen traces too. The first judge is what the others are compared
    with; --judges may be given several times. --excerpt is for judges that take any; without it those have what the trained
    ones were made for. --out is a directory of judged.jsonl, results.json and table.md. The same command goes on where an
    interrupted one stopped; more judges, or more traces in the files, add to the directory.
    """
    if_interrupted(resumed(out / "judged.jsonl"))
    announce_loading(model, not as_json)
    from laconic.cli.common import is_bundled, one_thread
    from laconic.cli.lists import split_specs
    from laconic.cli.progress import ProgressBar
    from laconic.environment import environment, hide_directories
    from laconic.journal import Journal
    from laconic.lab.judges.options import Reasoner, describe_traces, open_judges, read_file
    from laconic.lab.judges.run import FORMAT, may_grow, prepare_sets, run_judging, summarise
    from laconic.lab.judges.table import judges_table
    from laconic.lab.shared.reporting import write_report

    if is_bundled(model):
        one_thread()
    files = {"test" if not unseen else "known": traces}
    for number, path in enumerate(unseen or (), start=1):
        files["unseen" if number == 1 else f"unseen {number}"] = path
    found = {name: read_file(path) for name, path in files.items()}
    reasoner = Reasoner(model, device, *found.values())
    ends: dict[str, str | None] = {}
    specs = [spec for part in judges for spec in split_specs(part) or [part]]
    entries, known = open_judges(specs, excerpt, model, reasoner, device, lambda cut: ends[cut.trace_id])
    kinds = dict.fromkeys(entry.excerpt for entry in entries)
    sets = prepare_sets(found, kinds, reasoner.tokenizer, reasoner.engine, known)
    for pairs in (pairs for of_kind in sets.values() for pairs in of_kind.values()):
        ends |= {cut.trace_id: answer for cut, answer in zip(pairs.excerpts, pairs.answers, strict=True)}
    described = {
        "traces": {
            name: {"file": hide_directories(str(path)), **describe_traces(found[name])} for name, path in files.items()
        },
        "judges": {entry.label: entry.excerpt for entry in entries},
        "model": "bundled" if is_bundled(model) else hide_directories(str(model)),
        "problems": {name: len(next(iter(kinds.values())).problem.unique()) for name, kinds in sets.items()},
    }
    with (
        Journal(out / "judged.jsonl", FORMAT, described, may_grow=may_grow) as journal,
        ProgressBar(not as_json) as bar,
    ):
        bar.print_resumed(journal, "judged", "judged problems")
        records = run_judging(entries, sets, journal, lambda p: bar.update(p.label, p.done, p.total))
    report = {"format": FORMAT, **environment(), "settings": described, "rows": summarise(entries, sets, records)}
    write_report(report, [judges_table(report)], None, out, False, as_json)
