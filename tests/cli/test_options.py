"""All options of all commands: one name, one meaning; one letter, one thing; old names still work and say the new ones."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from laconic.cli import build
from laconic.cli.renamed import RENAMED, Command, Renamed

# Names that a command has beside the one that is the option's: the letters of DeepPrune's paper.
PAPER = {"--K", "--K1", "--K2", "--K3"}
# Commands that take several of a thing have the plural; the letter is that of the thing.
PLURALS = {"policies": "policy", "judges": "judge", "strategies": "strategy", "excerpts": "excerpt", "batches": "batch"}


@functools.cache
def built() -> Any:
    return typer.main.get_command(build())


def commands(node: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """(what is typed after laconic, command) of all that are no groups."""
    node = built() if node is None else node
    children = getattr(node, "commands", {})
    if path and not children:
        yield path, node
    for name, child in children.items():
        yield from commands(child, f"{path} {name}".strip())


def options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


def thing(option: Any) -> str:
    """What an option is about: its long name, in the singular."""
    name = next(name for name in option.opts if name.startswith("--")).removeprefix("--")
    return PLURALS.get(name, name)


def clashes(found: list[tuple[str, Any]]) -> list[str]:
    """Long names with two explanations, and letters with two things, in words."""
    helps: dict[str, set[str]] = defaultdict(set)
    things: dict[str, set[str]] = defaultdict(set)
    for _, command in found:
        for option in options(command):
            for name in (*option.opts, *option.secondary_opts):
                if name.startswith("--"):
                    helps[name].add(option.help or "")
                else:
                    things[name].add(thing(option))
    wrong = [f"{name} is explained as {sorted(said)}" for name, said in helps.items() if len(said) > 1 or said == {""}]
    return wrong + [f"{name} is {sorted(what)}" for name, what in things.items() if len(what) > 1]


def test_a_name_has_one_explanation_and_a_letter_one_meaning() -> None:
    found = list(commands())
    assert len(found) >= 16
    assert sum(len(options(command)) for _, command in found) > 150
    assert clashes(found) == []


def test_the_same_explanation_is_given_once() -> None:
    """Two names for one thing would be explained alike."""
    names: dict[str, set[str]] = defaultdict(set)
    for _, command in commands():
        for option in options(command):
            names[option.help].add(thing(option))
    assert [(said, sorted(found)) for said, found in names.items() if len(found) > 1] == []


def test_clashes_are_found() -> None:
    app = typer.Typer()

    @app.command("one")
    def one(n: int = typer.Option(1, "--n", "-n", help="Traces.")) -> None: ...

    @app.command("two")
    def two(
        n: int = typer.Option(1, "--n", help="Requests."), m: int = typer.Option(1, "--m", "-n", help="M.")
    ) -> None: ...

    node = typer.main.get_command(app)
    assert clashes(list(commands(node))) == ["--n is explained as ['Requests.', 'Traces.']", "-n is ['m', 'n']"]


def test_every_option_has_one_long_name() -> None:
    for path, command in commands():
        for option in options(command):
            long = [name for name in option.opts if name.startswith("--") and name not in PAPER]
            assert len(long) == 1, (path, option.opts)


# ---- old names --------------------------------------------------------------------------------------------------------


def parsed(path: str, args: list[str]) -> dict[str, Any]:
    """What a command's function would be called with; required options are given."""
    command = dict(commands())[path]
    parent = None
    for name in ["laconic", *path.split()][:-1]:
        parent = typer.Context(command, info_name=name, parent=parent)
    given = {*args, *(e.new for e in RENAMED if e.command == path and any(arg.startswith(e.old) for arg in args))}
    lacking = [p for p in command.params if p.required and not given & set(p.opts)]
    needed = [part for p in lacking for part in ([p.opts[0]] if p.opts[0].startswith("-") else []) + ["x"]]
    context = command.make_context(path.split()[-1], [*args, *needed], parent=parent)
    return dict(context.params)


@pytest.mark.parametrize("entry", RENAMED, ids=lambda entry: f"{entry.command} {entry.old}")
def test_an_old_name_does_the_same_and_says_the_new_one(entry: Renamed, capsys: pytest.CaptureFixture[str]) -> None:
    command = dict(commands())[entry.command]
    assert isinstance(command, Command)
    option = next(o for o in options(command) if entry.new in o.opts)
    assert entry.old not in [name for o in options(command) for name in o.opts]  # help and docs don't know it
    expected = parsed(entry.command, [entry.new, "hub:7" if entry.old == "--dataset" else "7"])
    assert expected[option.name] not in (option.default, None)
    assert capsys.readouterr().err == ""
    for old in ([entry.old, "7"], [f"{entry.old}=7" if entry.old.startswith("--") else f"{entry.old}7"]):
        assert parsed(entry.command, old) == expected
        new = "--source hub:NAME" if entry.old == "--dataset" else entry.new
        assert capsys.readouterr().err == (
            f"warning: {entry.old} of {entry.command} is {new} now; the old name goes with the next release\n"
        )


@pytest.mark.parametrize("entry", RENAMED, ids=lambda entry: f"{entry.command} {entry.old}")
def test_an_old_name_beside_the_new_one_is_refused(invoke: Any, entry: Renamed) -> None:
    required = {"collect": ["--out", "x"], "judge train": ["-t", "x", "-o", "x"], "judge ablate": ["-t", "x"]}
    needed = required.get(entry.command, ["-t", "x"] if entry.command == "judge eval" else [])
    needed += ["-j", "x"] if entry.command == "judge eval" and entry.new != "--judges" else []
    needed += ["bundled"] if entry.command == "plan" else []
    result = invoke(*entry.command.split(), entry.old, "1", entry.new, "1", *needed)
    assert result.exit_code == 2
    assert (
        result.stderr == f"error: {entry.old} of {entry.command} is {entry.new} now, which is given too; give it once\n"
    )


def test_a_value_that_looks_like_an_old_name_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("solve", ["--gold", "--compress", "--system=-n"])["gold"] == "--compress"
    assert capsys.readouterr().err == ""


def test_repeated_old_names_that_could_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("judge eval", ["--judge", "a", "--judge", "b", "-t", "x"])["judges"] == ["a", "b"]
    assert parsed("judge eval", ["-j", "a", "-j", "b;c", "-t", "x"])["judges"] == ["a", "b;c"]
    assert capsys.readouterr().err.count("\n") == 1


def test_an_old_name_runs(invoke: Any) -> None:
    new, old = invoke("problems", "--problems", "2"), invoke("problems", "-n", "2")
    assert (old.exit_code, old.stdout) == (0, new.stdout)
    assert old.stderr == "warning: -n of problems is --problems now; the old name goes with the next release\n"
