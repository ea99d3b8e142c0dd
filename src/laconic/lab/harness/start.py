"""What the two ways into a harness's own command line share: is it there, and one sentence for what is wrong."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import NoReturn

from laconic.cli.interruption import describe, if_interrupted
from laconic.cli.messages import BAD_INPUT, INTERRUPTED, print_to_stderr, print_warnings, sentence
from laconic.errors import InputError, LaconicError


def check_installed(package: str, what: str, how: str) -> None:
    """InputError unless a package can be imported. what: as people call it; how: the command that installs it."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{what} is not installed; install it with: {how}")


def run_harness(call: Callable[[], object]) -> NoReturn:
    """Leave by the exit code of a harness's command line; 2 with a sentence for what of ours is wrong, 130 after Ctrl-C."""
    if_interrupted(None)
    try:
        with print_warnings():
            call()
    except LaconicError as error:
        print_to_stderr(f"error: {sentence(error)}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print_to_stderr(describe())
        sys.exit(INTERRUPTED)
    sys.exit(0)
