"""What is said in one sentence ends without a full stop, wherever it is said: read in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import laconic

ROOT = Path(laconic.__file__).parent
KINDS = {"InputError", "EngineError", "LaconicError", "UnknownNameError", "input_error", "warn"}


def last_pieces(node: ast.expr) -> Iterator[str]:
    """The literal ends of a message; none where it ends in a value."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=[*_, last]):
            yield from last_pieces(last)
        case ast.BinOp(right=right):
            yield from last_pieces(right)
        case ast.IfExp(body=body, orelse=other):
            yield from last_pieces(body)
            yield from last_pieces(other)


def endings(source: str) -> list[tuple[int, str]]:
    """(line, literal end) of every message of ours in a module's source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            message = node.args[-1] if name == "input_error" else node.args[0]
            if name in KINDS:
                found += [(node.lineno, piece) for piece in last_pieces(message)]
    return found


def full_stop(text: str) -> bool:
    return text.rstrip().endswith(".") and not text.endswith("..")


def test_no_sentence_ends_with_a_full_stop() -> None:
    said = [(path, line, text) for path in ROOT.rglob("*.py") for line, text in endings(path.read_text("utf-8"))]
    assert len(said) > 300
    assert [f"{path}:{line}: {text}" for path, line, text in said if full_stop(text)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise InputError("no such thing.")', [(1, "no such thing.")]),
        ('raise EngineError(f"{name} is " "gone.")', [(1, " is gone.")]),
        ('raise InputError("a" + ("b." if c else f"{d} e."))', [(1, "b."), (1, " e.")]),
        ('raise errors.InputError(f"it is {value}")', []),
        ('raise input_error("n", value, "a number.")', [(1, "a number.")]),
        ('print("Done.")', []),
    ],
)
def test_the_reader_finds_what_would_be_wrong(source: str, found: list[tuple[int, str]]) -> None:
    assert endings(source) == [(line, text) for line, text in found]
