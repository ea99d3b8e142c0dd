"""lighteval's `custom` command, which is given a model as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from laconic.errors import InputError
from laconic.lab.harness.arguments import parse_arguments, read_arguments
from laconic.lab.harness.start import check_installed, run_harness

INSTALL = "pip install --no-deps lighteval, and what it then asks for"
MODEL_FILE = Path(__file__).with_name("model.py")


def arguments_for(given: Sequence[str]) -> list[str]:
    """What lighteval's command line is told: the model, our file, and the rest as it came.

    Raises InputError where the model isn't named first, and for arguments of it that can't be.
    """
    if not given or given[0] in ("-h", "--help"):
        return ["custom", "--help"]
    model, *rest = given
    if model.startswith("-"):
        raise InputError(f"{model} stands where the model is named; expected NAME,key=value,... and then the tasks")
    read_arguments(parse_arguments(model))
    return ["custom", model, str(MODEL_FILE), *rest]


def main() -> NoReturn:
    """What `lighteval custom` does with these arguments."""
    run_harness(_main)


def _main() -> None:
    check_installed("lighteval", "lighteval", INSTALL)
    arguments = arguments_for(sys.argv[1:])
    from lighteval.__main__ import app

    sys.argv = ["lighteval", *arguments]
    app()
