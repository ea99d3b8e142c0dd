"""JSON lines: what is read, and which line an error names."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.jsonl import read_objects


def test_objects_come_with_their_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n  \n{"b": "\u00e9"}\n', encoding="utf-8")
    found = list(read_objects(file, "thing", "a name"))
    assert [(number, record) for number, _, record in found] == [(1, {"a": 1}), (4, {"b": "\u00e9"})]
    assert found[1][1] == f"Line 4 of {file}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1}\n{"a": \n', "Line 2 of .* is not JSON .* expected one thing a line"),
        (b"[1]\n", "Line 1 of .* is not a JSON object; expected one with a name"),
        (b"\xff\xfe\n", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(LaconicError, match=says):
        list(read_objects(file, "thing", "a name"))
