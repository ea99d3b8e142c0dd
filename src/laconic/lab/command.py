"""`laconic bench`: the experiments that compare policies and strategies, each a folder of its own.

A folder of the lab whose `command.py` has a function `bench` is a command of the folder's name; nothing else lists them.
Importing a `command.py` imports neither torch nor transformers, so that help is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import laconic.lab
from laconic.cli.renamed import Command

app = typer.Typer(
    no_args_is_help=True,
    help="Measure: accuracy and fidelity against cache size, throughput against what bytes predict, what pruning saves, vLLM.",
)


def experiments() -> dict[str, Callable[..., Any]]:
    """The commands of the folders that have one, by the folder's name."""
    found = {}
    for module in pkgutil.iter_modules(laconic.lab.__path__):
        if module.ispkg and any((Path(place) / module.name / "command.py").is_file() for place in laconic.lab.__path__):
            command = getattr(importlib.import_module(f"laconic.lab.{module.name}.command"), "bench", None)
            if command is not None:
                found[module.name] = command
    return found


for name, command in experiments().items():
    app.command(name, cls=Command)(command)
