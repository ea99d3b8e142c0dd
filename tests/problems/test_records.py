"""Published tables in every form that is read, and what is said of those that can't be."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from laconic.errors import LaconicError
from laconic.problems.records import file_records, hub_records

ROWS = [{"a": "1", "b": 'said "x",\nthen\ty'}, {"a": "2", "b": "{z}"}]


def written(folder: Path, form: str) -> Path:
    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8-sig")
    elif form == "json":
        path.write_text("\n " + json.dumps(ROWS, indent=2), encoding="utf-8-sig")
    else:
        path.write_text('a,b\r\n1,"said ""x"",\nthen\ty"\r\n2,{z}\r\n', encoding="utf-8-sig", newline="")
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_every_form_gives_the_same_records(tmp_path: Path, form: str) -> None:
    found = list(file_records(written(tmp_path, form)))
    assert [record for _, record in found] == ROWS
    word = {"jsonl": "Line", "json": "Item", "csv": "Row"}[form]
    assert [where for where, _ in found] == [f"{word} {number} of {tmp_path / f'rows.{form}'}" for number in (1, 2)]


def test_a_csv_with_short_and_long_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1\n1,2,3\n")
    assert [record for _, record in file_records(path)] == [{"a": "1", "b": None}, {"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", "[1, 2]", r"Item 1 of .*x\.json is not a JSON object"),
        (
            "x.json",
            '[{"a": 1}',
            r"x\.json is not JSON \(.*\); expected JSON lines, a JSON array of objects, \.csv or \.parquet",
        ),
        ("x.json", "[" * 300 + "]" * 300, r"x\.json is nested too deeply"),
        ("x.jsonl", '{"a": 1}\n{', r"Line 2 of .*x\.jsonl is not JSON"),
        ("x.csv", 'a,b\n"1,2\n', r"x\.csv is no CSV \("),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LaconicError, match=says):
        list(file_records(tmp_path / name))


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
def test_bytes_that_are_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[\xff\xfe")
    with pytest.raises(LaconicError, match="is not UTF-8 text"):
        list(file_records(tmp_path / name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(LaconicError, match="There is no problem file"):
            file_records(path)


def pyarrow(monkeypatch: pytest.MonkeyPatch, read_table: Any) -> None:
    module = types.ModuleType("pyarrow.parquet")
    module.read_table = read_table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)


def test_parquet_goes_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    pyarrow(monkeypatch, lambda read: types.SimpleNamespace(to_pylist=lambda: ROWS if read == path else []))
    assert [record for _, record in file_records(path)] == ROWS

    def fail(read: Path) -> None:
        raise ValueError("no footer\nmore")

    pyarrow(monkeypatch, fail)
    with pytest.raises(LaconicError, match=r"can't be read as Parquet: no footer$"):
        list(file_records(path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        LaconicError, match=r"needs the package pyarrow: install laconic-llm\[eval\], or give JSON lines"
    ):
        list(file_records(path))


def test_a_split_of_the_hub_is_asked_for_by_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: str, split: str) -> Any:
        asked.append((*names, split))
        return types.SimpleNamespace(column_names=["a", "b"])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert hub_records("org/x", "", "test")[0] == ["a", "b"]
    hub_records("org/x", "main", "train")
    assert asked == [("org/x", "test"), ("org/x", "main", "train")]
