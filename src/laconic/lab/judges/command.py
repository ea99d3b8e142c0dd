"""`laconic judge`: train a judge on recorded traces, compare judges, and the paper's ablation."""

from __future__ import annotations

import typer

from laconic.cli.renamed import Command
from laconic.lab.judges.ablate_command import ablate
from laconic.lab.judges.evaluate_command import evaluate
from laconic.lab.judges.train_command import train

app = typer.Typer(
    no_args_is_help=True,
    help="Judges of whether two traces will end in the same answer: train one, compare several.",
)
for name, command in (("train", train), ("eval", evaluate), ("ablate", ablate)):
    app.command(name, cls=Command)(command)
