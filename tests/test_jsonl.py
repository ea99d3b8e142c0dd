"""JSON lines: what is read, and which line an error names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.jsonl import parse, read_object, read_objects, read_text


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


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DEEP, "is nested too deeply; expected at most 100 levels"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "is nested too deeply"),
        ("[" * 500 + "]" * 500, "is nested too deeply"),  # Python reads it, and fails later
        ('{"a": "x\\ud800"}', r"holds a text that has half a character in it \(\\ud800, a lone surrogate\)"),
        ('{"\\udfff": 1}', "holds a text that has half a character"),
        ('{"a": "x\udc80"}', "holds a text that has half a character"),
        ('{"a": ' + "9" * 5000 + "}", "has a number of thousands of digits"),
        (b'{"a": "\xff"}', "^is not JSON$"),
    ],
)
def test_what_python_reads_or_fails_on_is_one_sentence(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        parse(text)
    file = tmp_path / "a.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(LaconicError, match=str(file)):
        list(read_objects(file, "thing", "a name"))
    with pytest.raises(LaconicError, match=str(file)):
        read_object(file)


def test_what_only_looks_like_it_is_read() -> None:
    brackets = "{" * 300
    assert parse(f'{{"text": "{brackets}"}}') == {"text": brackets}
    assert parse("[" * 100 + "]" * 100)
    assert parse('"\\ud83d\\ude00"') == "\U0001f600"  # both halves
    assert parse(str(10**30)) == 10**30
    wide = [[1, 2]] * 200
    assert parse(json.dumps(wide)) == wide


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\xef\xbb\xbf{"a": 2}\n')  # as where two such files were joined
    assert [record for _, _, record in read_objects(file, "thing", "a name")] == [{"a": 1}, {"a": 2}]
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(file) == {"a": 1}
    assert read_text(file) == '{"a": 1}'
    assert parse(file.read_bytes()) == {"a": 1}


def test_a_file_that_holds_no_object_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, says in (("[1]", "is not a JSON object"), ("{", r"is not JSON \(Expecting property name")):
        file.write_text(text)
        with pytest.raises(LaconicError, match=f"{file} {says}"):
            read_object(file)
