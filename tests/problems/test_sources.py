"""Problem sets from files and the Hub, and every way they can be broken."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.problems import Problem, generate
from laconic.problems.sources import from_jsonl, load_problems


def write(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_file_gives_its_problems_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "set.jsonl",
        {"id": "a", "question": "1 + 1?", "answer": "2", "level": 3},
        "",
        {"problem": "2 + 2?", "answer": 4},
        {"Problem": "3 + 3?", "Answer": "so ... #### 6", "unique_id": "c"},
    )
    assert load_problems(str(path)) == [
        Problem("a", "1 + 1?", "2", 3),
        Problem("line-3", "2 + 2?", "4"),
        Problem("c", "3 + 3?", "6"),
    ]
    assert [p.id for p in load_problems(str(path), count=2)] == ["a", "line-3"]


def test_the_bundled_source_is_the_generator() -> None:
    assert load_problems(count=5, seed=7, level=3) == generate(5, 7, 3)
    assert len(load_problems()) == 200


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"question": "?", "answer": "1"}, "{broken"], r"Line 2 of .*set\.jsonl is not JSON"),
        (["[1, 2]"], "Line 1 of .* is not a JSON object"),
        ([{"question": "?"}], r"Line 1 of .* has no answer.*\['question'\]"),
        ([{"answer": "?"}], "has no question; expected one of question, problem, prompt"),
        ([{"question": " ", "answer": "1"}], "empty question"),
        ([{"question": "?", "answer": "work ####"}], "empty answer"),
        ([], "holds no problems"),
        ([""], "holds no problems"),
    ],
)
def test_broken_files_are_named_by_their_line(tmp_path: Path, lines: list, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        from_jsonl(write(tmp_path / "set.jsonl", *lines))


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="no problem file"):
        load_problems(str(tmp_path / "none.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LaconicError, match="not UTF-8"):
        load_problems(str(tmp_path / "bytes.jsonl"))


def test_counts_and_levels_out_of_place_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", {"question": "?", "answer": "1"})
    with pytest.raises(LaconicError, match="number of problems is 0; expected a whole number of at least 1"):
        load_problems(str(path), count=0)
    with pytest.raises(LaconicError, match="only the bundled problems have levels"):
        load_problems(str(path), level=3)
    with pytest.raises(ValueError, match="1 to 8"):
        load_problems(level=99)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """A stand-in for the `datasets` package: name -> splits -> rows."""
    sets: dict[str, dict] = {}

    def load_dataset(name: str) -> dict:
        if name not in sets:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nmore")
        return sets[name]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return sets


def test_hub_sets_by_split(hub: dict[str, dict]) -> None:
    hub["org/math"] = {
        "train": [{"problem": "t?", "answer": "0"}],
        "test": [{"problem": "a?", "answer": "1", "level": 5}, {"problem": "b?", "answer": "2", "unique_id": "u"}],
    }
    hub["org/one"] = {"train": [{"question": "only?", "answer": "9"}]}
    assert load_problems("hub:org/math") == [Problem("test-0", "a?", "1", 5), Problem("u", "b?", "2")]
    assert load_problems("hub:org/math:train") == [Problem("train-0", "t?", "0")]
    assert load_problems("hub:org/one") == [Problem("train-0", "only?", "9")]


def test_hub_errors_are_sentences(hub: dict[str, dict]) -> None:
    hub["org/two"] = {"train": [], "dev": []}
    with pytest.raises(LaconicError, match="splits: train, dev"):
        load_problems("hub:org/two")
    with pytest.raises(LaconicError, match="no split 'tset'"):
        load_problems("hub:org/two:tset")
    with pytest.raises(LaconicError, match=r"Dataset 'org/none' doesn't exist on the Hub$"):
        load_problems("hub:org/none")
    with pytest.raises(LaconicError, match="lacks the data set's name"):
        load_problems("hub:")


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LaconicError, match=r"laconic-llm\[eval\]"):
        load_problems("hub:org/math")


def test_a_set_without_answers_is_read_where_none_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a"}\n{"question": "b", "answer": ""}\n{"question": "c", "answer": 3}\n')
    assert [problem.answer for problem in load_problems(str(path), unanswered=True)] == ["", "", "3"]
    with pytest.raises(LaconicError, match=r"Line 1 of .* has no answer"):
        load_problems(str(path))
    path.write_text('{"question": "a", "answer": [1]}\n')
    with pytest.raises(LaconicError, match="has no answer"):
        load_problems(str(path), unanswered=True)
    path.write_text('{"answer": "1"}\n')
    with pytest.raises(LaconicError, match="has no question"):
        load_problems(str(path), unanswered=True)
