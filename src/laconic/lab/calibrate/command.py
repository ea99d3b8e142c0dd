"""`laconic calibrate`: what votes cost and bring on a model's recorded traces, for the strategy `auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.options import AsJson, OutOrNone, TracesOrAll
from laconic.lab.shared.options import Orders, StrategiesOrNone

CalibratedTraces = Annotated[
    Path,
    typer.Argument(help="Recorded traces of problems with answers, as laconic collect writes them.", metavar="TRACES"),
]


def calibrate(
    traces: CalibratedTraces,
    strategies: StrategiesOrNone = None,
    n: TracesOrAll = None,
    orders: Orders = 20,
    out: OutOrNone = None,
    as_json: AsJson = False,
) -> None:
    """Play votes back on a model's recorded traces, so that `laconic solve --spend 4x` knows what a budget buys.

    TRACES: at least 50 problems with answers, 16 traces of each, by laconic collect --confidence-top-k 20; without --n as many
    of each are played back as all have. Beside plain votes of 1, 2, ... traces each strategy is played back at its own cost;
    without --strategies these are priced votes and adaptive consistency, several of each. Without --out the calibration lies
    where auto finds it for this model. Nothing of a model is loaded. What was played back lies beside it; the same command
    goes on where an interrupted one stopped.
    """
    played: list[Path] = []
    if_interrupted(lambda: resumed(*played)())
    from laconic.calibrations import place_of, write_calibration
    from laconic.cli.common import check_writable
    from laconic.cli.lists import split_specs
    from laconic.cli.messages import print_to_stderr
    from laconic.cli.tables import print_tables
    from laconic.journal import Journal
    from laconic.lab.calibrate.run import calibrate_traces, digest_of, experiment_of, journal_settings, ladder
    from laconic.lab.calibrate.table import calibration_table
    from laconic.lab.parallel.command import Phases
    from laconic.lab.parallel.run import FORMAT
    from laconic.traces import read_traces

    found = read_traces(traces)
    if found.broken:
        print_to_stderr(found.describe_broken(traces))
    by_problem = found.rescored().by_problem()
    specs = ladder(found.records) if strategies is None else split_specs(strategies)
    experiment = experiment_of(by_problem, specs, n, orders, traces)
    told = found.records[0].settings
    model, weights = str(told.get("model")), str(told.get("weights"))
    target = place_of(weights) if out is None else out
    check_writable(target, "the calibration")
    # Under a digest of what is played back, so that other traces, n or orders begin anew and what there is stays.
    played.append(target.with_name(f"{target.stem}.{digest_of(experiment, found.records)}.results.jsonl"))
    described = journal_settings(experiment, model, weights)
    with Phases(not as_json) as phases, Journal(played[0], FORMAT, described) as journal:
        phases.print_resumed(journal)
        made = calibrate_traces(
            experiment,
            by_problem,
            journal,
            lambda event: phases.tell(event.phase, event.done, event.total, event.label),
        )
    write_calibration(target, made)
    if as_json:
        typer.echo(json.dumps({"file": str(target), **json.loads(target.read_text(encoding="utf-8"))}))
        return
    print_tables([calibration_table(made)], "--json has them.")
    used = "" if out is None else f" --calibration {out}"
    print_to_stderr(f"wrote {target}; to be used as: laconic solve --strategy auto --spend 4x{used}")
