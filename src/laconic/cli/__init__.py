"""The command line: parse, call, show. What is computed lives below; what is said wrong here is said in one sentence.

Importing this module imports no torch: a command imports what it needs when it runs, so ``laconic --help`` is quick. The
lab's commands are looked up here by name, and a run of another command does not import them.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from laconic.cli import interruption
from laconic.cli.messages import BAD_INPUT, INTERRUPTED, print_to_stderr, print_warnings, sentence
from laconic.cli.renamed import Command
from laconic.cli.terminal import ReaderGone, flush, prepare
from laconic.errors import LaconicError
from laconic.version import __version__

COMMANDS = (  # name, module, attribute: a function is a command, a Typer a group of commands
    ("demo", "laconic.cli.demo", "demo"),
    ("think", "laconic.cli.think", "think"),
    ("solve", "laconic.cli.solve", "solve"),
    ("serve", "laconic.cli.serve", "serve"),
    ("problems", "laconic.cli.problems", "problems"),
    ("policies", "laconic.cli.policies", "policies"),
    ("strategies", "laconic.cli.strategies", "strategies"),
    ("judges", "laconic.cli.judges", "judges"),
    ("plan", "laconic.cli.plan", "plan"),
    ("collect", "laconic.lab.collect.command", "collect"),
    ("calibrate", "laconic.lab.calibrate.command", "calibrate"),
    ("learn", "laconic.lab.learn.command", "learn"),
    ("judge", "laconic.lab.judges.command", "app"),
    ("bench", "laconic.lab.command", "app"),
    ("analyze", "laconic.lab.analyze.command", "analyze"),
)


class _Group(TyperGroup):
    """The one place where an error becomes a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        interruption.if_interrupted(None)
        try:
            try:
                with print_warnings():
                    return super().invoke(ctx)
            finally:
                flush()  # what can't be written is told here, not by Python after the end
        except KeyboardInterrupt:
            print_to_stderr(interruption.describe())
            raise typer.Exit(INTERRUPTED) from None
        except ReaderGone:
            raise typer.Exit(0) from None
        except (LaconicError, OSError, MemoryError) as error:
            # An OSError comes from a path. Anything else, a ValueError of Python's own too, is a bug of ours and keeps its
            # traceback, which is what a bug report needs.
            if ctx.params.get("debug"):
                traceback.print_exc()
            print_to_stderr(f"error: {sentence(error)}")
            raise typer.Exit(BAD_INPUT) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"laconic {__version__}, torch {version('torch')}, transformers {version('transformers')}")
        raise typer.Exit


def build(only: str | None = None) -> typer.Typer:
    """The application with all its commands, or with one of them: the others' modules are then not imported."""
    app = typer.Typer(
        cls=_Group,
        name="laconic",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the versions and leave.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback behind an error message.")] = False,
    ) -> None:
        """Reasoning language models, cheaper to run: their KV cache is compressed while they think."""

    for name, module, attribute in COMMANDS:
        if only not in (None, name):
            continue
        part = getattr(importlib.import_module(module), attribute)
        if isinstance(part, typer.Typer):
            app.add_typer(part, name=name)
        else:
            app.command(name, cls=Command)(part)
    return app


def command_in(arguments: Sequence[str]) -> str | None:
    """The command that these arguments of `laconic` call; None where they call none that there is."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    return word if word in {name for name, _, _ in COMMANDS} else None


def main() -> NoReturn:
    """The entry point of ``laconic`` and of ``python -m laconic``."""
    prepare()
    try:
        try:
            build(command_in(sys.argv[1:]))(prog_name="laconic")
        finally:
            flush()
    except ReaderGone:
        pass
    except LaconicError as error:  # help, which is printed before any command runs
        print_to_stderr(f"error: {sentence(error)}")
        raise SystemExit(BAD_INPUT) from None
    raise SystemExit(0)
