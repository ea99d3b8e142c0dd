"""Options that would have no effect beside others: refused by name, since whoever gave one expects something of it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import typer

from laconic.errors import InputError


def refuse_unused(why: str, *parameters: str) -> None:
    """InputError for the first of a command's options, by their parameters' names, that the command line gives.

    why: ends the sentence "--option has no effect ...". Defaults don't count, and outside a command nothing is given.
    """
    for name in parameters:
        if given(name):
            raise InputError(f"{_written(_context(), name)} has no effect {why}; leave it out")


def given(parameter: str) -> bool:
    """Whether the command line gives an option, by its parameter's name; False outside a command."""
    context = _context()
    source = None if context is None else context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _context() -> Any:
    """The running command's context; None outside one. typer has it from click, which newer versions bring along."""
    package = typer.Context.__mro__[1].__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.globals").get_current_context(silent=True)


def _written(context: Any, name: str) -> str:
    """An option as it is typed, the long way."""
    spelled = next(parameter.opts for parameter in context.command.params if parameter.name == name)
    return max(spelled, key=len)


def refuse_seed(source: str) -> None:
    """InputError for the seed of problems, where they come from a source that draws nothing by one."""
    from laconic.problems.benchmarks import find_benchmark

    named = find_benchmark(source)
    if source != "bundled" and not (named and named.benchmark.shuffled):
        refuse_unused(f"on the problems of {source}, which has them in one order", "seed")


def refuse_ratios(policies: Sequence[str]) -> None:
    """InputError for what policies by name are made from, where all are whole specs that say it themselves."""
    if policies and all(":" in name or name.strip() == "full" for name in policies):
        refuse_unused("on policies that are given as whole specs", "ratios", "interval", "window")


def refuse_layers(vectors: str) -> None:
    """InputError for layers of hidden states, where none are read."""
    if vectors != "states":
        refuse_unused("without --vectors states", "layers")
