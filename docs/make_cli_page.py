"""Write docs/cli.md from the commands' own help, so that the page can't say what they don't. `make docs` runs it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer

from laconic.cli import build

PAGE = Path(__file__).parent / "cli.md"
HEAD = """<!-- Written by docs/make_cli_page.py from the commands' own help; `make docs` writes it anew. -->

# The command line

`laconic` and `python -m laconic` are the same. `laconic COMMAND --help` prints what this page says.

Exit codes: 0 done; 1 no answer (`laconic solve`); 2 bad input, with one sentence on stderr (`laconic --debug COMMAND` adds
the traceback); 130 interrupted. Results go to stdout, everything about the run to stderr.
"""


def page() -> str:
    """The whole page as Markdown."""
    root = typer.main.get_command(build())
    parts = [HEAD]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        parts += section(f"laconic {name}", command, 2)
    return "\n".join(parts)


def section(path: str, command: Any, depth: int) -> list[str]:
    """A command's heading, its help, its options; then its subcommands."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    children = getattr(command, "commands", {})
    usage = " ".join([path, *(f"[{p.name.upper()}]" if not p.required else p.name.upper() for p in arguments)])
    usage += " COMMAND" if children else " [OPTIONS]" if options else ""
    parts = [f"{'#' * depth} {path}", "", f"`{usage}`", "", inspect.cleandoc(command.help or ""), ""]
    if arguments or options:
        parts += ["| | | default |", "|---|---|---|"]
        parts += [row(f"`{p.name.upper()}`", p) for p in arguments]
        parts += [row(", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts)), p) for p in options]
        parts.append("")
    for name, child in children.items():
        parts += section(f"{path} {name}", child, depth + 1)
    return parts


def row(names: str, parameter: Any) -> str:
    default = "required" if parameter.required else parameter.default
    shown = "" if default is None or default is False else f"`{default}`" if default != "required" else default
    return f"| {names} | {(parameter.help or '').replace('|', chr(92) + '|')} | {shown} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
