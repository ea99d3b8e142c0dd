"""lm-eval's command line with laconic's model in it: lm-eval looks for no entry points, so it has to be brought along."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from laconic.lab.harness.start import check_installed, run_harness

INSTALL = "pip install 'laconic-llm[eval]'"
_DECIDED = ("--model", "-M", "--config", "-C", "--help", "-h")
"""By these it is said which model runs, or that none does."""


def arguments_for(given: Sequence[str]) -> list[str]:
    """What lm-eval's command line is told. given: what ours was, with its `run` or, as in older versions, without.

    A run that names no model, and no file that may, is one of laconic's; lm-eval's own default is another.
    """
    words = list(given)
    runs = words[:1] == ["run"] or bool(words and words[0].startswith("-"))
    options = words[1:] if words[:1] == ["run"] else words
    if not runs or not options or any(word.partition("=")[0] in _DECIDED for word in options):
        return words
    return ["run", "--model", "laconic", *options]


def main() -> NoReturn:
    """Register the model, then do what lm-eval does with these arguments."""
    run_harness(_main)


def _main() -> None:
    check_installed("lm_eval", "lm-eval", INSTALL)
    from lm_eval.__main__ import cli_evaluate

    import laconic.lab.lm_eval.model  # noqa: F401  # which registers itself

    sys.argv = ["lm-eval", *arguments_for(sys.argv[1:])]
    cli_evaluate()
