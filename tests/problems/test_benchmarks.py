"""The field's benchmarks by name: prompts word by word, golds, ids, what each can be loaded from, and every wrong input."""

from __future__ import annotations

import itertools
import json
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from laconic.answers import extract
from laconic.errors import LaconicError
from laconic.lab.shared.options import SOURCE
from laconic.problems import Problem, is_correct
from laconic.problems.benchmarks import BENCHMARKS, filled, find_benchmark, shuffled_order
from laconic.problems.sources import load_problems

ROOT = Path(__file__).parents[2]
STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}."

# One record of each as its publishers have it, with made-up content.
PUBLISHED: dict[str, dict[str, Any]] = {
    "aime24": {"id": 60, "problem": "How many?", "solution": "...", "answer": "033", "url": "u", "year": "2024"},
    "aime25": {"problem": "How many now?", "answer": "70", "id": "0"},
    "gpqa-diamond": {
        "Pre-Revision Question": "old",
        "Question": " Which {A} of these? ",
        "Correct Answer": "right\n",
        "Incorrect Answer 1": "wrong one",
        "Incorrect Answer 2": "wrong two",
        "Incorrect Answer 3": "wrong three {B}",
        "High-level domain": "Physics",
        "Record ID": "rec1",
    },
    "math500": {
        "problem": "Convert $(0,3)$.",
        "solution": "so \\boxed{p - q}",
        "answer": "p - q",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    },
    "gsm8k": {"question": "How much?", "answer": "She has 70,000 <<7*10=70>>\n#### 70,000"},
    "ifeval": {"key": 1000, "prompt": "Say hi {twice}.", "instruction_id_list": ["x:y"], "kwargs": [{"n": 2}]},
    "livecodebench": {
        "question_title": "t",
        "question_content": "Print {question} and {program}.",
        "platform": "atcoder",
        "question_id": "abc1",
        "contest_id": "abc",
        "contest_date": "2024-08-03T00:00:00",
        "starter_code": "",
        "difficulty": "hard",
        "public_test_cases": "[]",
        "private_test_cases": "eJx...",
        "metadata": "{}",
    },
}
CODE = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests.\n\nQuestion: Print {question} and {program}.\n\n"
)
STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample inputs). "
    "Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the inputs, runs the "
    "algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within delimiters.\n"
    "```python\nclass Solution:\n    {x}\n```\n\n"
)
# What becomes of them; of gpqa-diamond see below.
EXPECTED = {
    "aime24": Problem("60", "How many?" + STEP_BY_STEP, "33"),
    "aime25": Problem("0", "How many now?" + STEP_BY_STEP, "70"),
    "math500": Problem(
        "test/precalculus/807.json", "Convert $(0,3)$." + STEP_BY_STEP, "p - q", 2, {"subject": "Precalculus"}
    ),
    "gsm8k": Problem("gsm8k-0", "How much?" + STEP_BY_STEP, "70000"),
    "ifeval": Problem("1000", "Say hi {twice}.", ""),
    "livecodebench": Problem(
        "abc1", CODE + STDIN, "", 3, {"difficulty": "hard", "contest_date": "2024-08-03T00:00:00"}
    ),
}
HUB = {
    "aime24": ("HuggingFaceH4/aime_2024", "train"),
    "aime25": ("math-ai/aime25", "test"),
    "gpqa-diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    "math500": ("HuggingFaceH4/MATH-500", "test"),
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "ifeval": ("google/IFEval", "train"),
    "livecodebench": ("lighteval/code_generation_lite", "release_v5", "test"),
}
NAMES = list(BENCHMARKS)


class HubTable:
    """What `datasets.load_dataset` gives for one split, as far as it is used."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        self.rows = rows
        self.column_names = list(rows[0]) if columns is None else list(columns)

    def select_columns(self, names: Sequence[str]) -> HubTable:
        return HubTable([{name: row[name] for name in names} for row in self.rows], names)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], HubTable]:
    """A stand-in for the Hub: (data set, config if any, split) -> table."""
    tables: dict[tuple[str, ...], HubTable] = {}

    def load_dataset(*names: str, split: str) -> HubTable:
        if (*names, split) not in tables:
            raise ConnectionError(f"Couldn't reach '{names[0]}' on the Hub\nmore")
        return tables[(*names, split)]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return tables


def write(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_every_benchmark_has_a_record_here_and_a_word_in_the_help() -> None:
    assert set(PUBLISHED) == set(BENCHMARKS) == set(HUB)
    assert set(EXPECTED) | {"gpqa-diamond"} == set(BENCHMARKS)
    assert all(re.search(rf"\b{name}\b", SOURCE.help or "") for name in BENCHMARKS)


@pytest.mark.parametrize("name", EXPECTED)
def test_from_the_hub_and_from_a_file_alike(name: str, hub: dict, tmp_path: Path) -> None:
    hub[HUB[name]] = HubTable([PUBLISHED[name]])
    assert load_problems(name) == [EXPECTED[name]]
    hub.clear()
    assert load_problems(f"{name}:{write(tmp_path / 'x.jsonl', PUBLISHED[name])}") == [EXPECTED[name]]
    (tmp_path / "x.json").write_text(json.dumps([PUBLISHED[name]]))
    assert load_problems(f"{name}:{tmp_path / 'x.json'}") == [EXPECTED[name]]


def test_only_what_is_read_is_taken_from_the_hub(hub: dict) -> None:
    """A problem of LiveCodeBench holds megabytes of tests."""

    class Table(HubTable):
        def select_columns(self, names: Sequence[str]) -> HubTable:
            assert sorted(names) == ["contest_date", "difficulty", "question_content", "question_id", "starter_code"]
            return super().select_columns(names)

    hub[HUB["livecodebench"]] = Table([PUBLISHED["livecodebench"]])
    assert len(load_problems("livecodebench")) == 1


def test_ids_counts_and_order_are_the_publishers(hub: dict) -> None:
    hub[HUB["aime24"]] = HubTable([PUBLISHED["aime24"] | {"id": 60 + i, "answer": str(i)} for i in range(30)])
    assert [(p.id, p.answer) for p in load_problems("aime24")] == [(str(60 + i), str(i)) for i in range(30)]
    assert [p.id for p in load_problems("aime24", count=2)] == ["60", "61"]
    hub[HUB["gsm8k"]] = HubTable([PUBLISHED["gsm8k"]] * 3)
    assert [p.id for p in load_problems("gsm8k")] == ["gsm8k-0", "gsm8k-1", "gsm8k-2"]


def test_a_question_that_has_its_instruction_gets_no_second_one(tmp_path: Path) -> None:
    for end in (STEP_BY_STEP, STEP_BY_STEP + "\n", STEP_BY_STEP.replace("\n", " ")):
        for name in ("aime24", "math500", "gsm8k"):
            record = {"question": "How?" + end, "answer": "4", "subject": "x", "level": 1}
            (problem,) = load_problems(f"{name}:{write(tmp_path / 'x.jsonl', record)}")
            assert problem.question == "How?" + STEP_BY_STEP


def test_a_program_with_starter_code(tmp_path: Path) -> None:
    record = PUBLISHED["livecodebench"] | {"starter_code": "class Solution:\n    {x}"}
    (problem,) = load_problems(f"livecodebench:{write(tmp_path / 'x.jsonl', record)}")
    assert problem.question == CODE + STARTER


def test_what_is_recorded_of_a_prompt_is_what_was_asked() -> None:
    """Filling the recorded text's places gives the question itself."""
    for name in ("aime24", "aime25", "math500", "gsm8k"):
        assert BENCHMARKS[name].prompt == "{question}" + STEP_BY_STEP
    assert BENCHMARKS["ifeval"].prompt == "{question}"
    assert filled(BENCHMARKS["gpqa-diamond"].prompt, question="q", A="a", B="b", C="c", D="d").endswith(
        "before answering.\n\nq\n\nA) a\nB) b\nC) c\nD) d"
    )
    code = BENCHMARKS["livecodebench"].prompt
    head, with_starter, without = re.split(r"\n\n(?=You will use)|\n\| ", code)
    asked = CODE.replace("Print {question} and {program}.", "{question}")
    assert head + "\n\n" == asked
    assert filled(with_starter, starter="class Solution:\n    {x}") == STARTER.rstrip()
    assert without == STDIN.rstrip()


# ---- choices ------------------------------------------------------------------------------------------------------------


def gpqa(tmp_path: Path, seed: int = 0, **changes: str) -> Problem:
    record = PUBLISHED["gpqa-diamond"] | changes
    (problem,) = load_problems(f"gpqa-diamond:{write(tmp_path / 'x.jsonl', record)}", seed=seed)
    return problem


def test_choices_are_put_in_the_words_of_simple_evals_and_the_gold_is_the_letter(tmp_path: Path) -> None:
    golds = set()
    for seed in range(12):
        problem = gpqa(tmp_path, seed)
        head, choices = problem.question.split("\n\nWhich {A} of these?\n\n")
        assert head == (
            "Answer the following multiple choice question. The last line of your response should be of the following format: "
            "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        )
        of = dict(line.split(") ", 1) for line in choices.split("\n"))
        assert list(of) == ["A", "B", "C", "D"]
        assert sorted(of.values()) == ["right", "wrong one", "wrong three {B}", "wrong two"]
        assert of[problem.answer] == "right"
        golds.add(problem.answer)
        assert (problem.id, dict(problem.meta)) == ("rec1", {"subject": "Physics"})
    assert golds == {"A", "B", "C", "D"}, "another seed, another order"


def test_the_order_of_choices_is_a_question_s_own(tmp_path: Path) -> None:
    """It depends on nothing but the seed and the question: not on the other questions, their order or number."""
    records = [PUBLISHED["gpqa-diamond"] | {"Question": f"q{i}", "Record ID": f"r{i}"} for i in range(40)]
    first = {p.id: p for p in load_problems(f"gpqa-diamond:{write(tmp_path / 'a.jsonl', *records)}", seed=3)}
    again = load_problems(f"gpqa-diamond:{write(tmp_path / 'b.jsonl', *reversed(records[:15]))}", seed=3)
    assert {p.id: p for p in again} == {name: first[name] for name in (f"r{i}" for i in range(15))}
    assert len({p.question.partition("\n\nA) ")[2] for p in first.values()}) > 12, (
        "each question has an order of its own"
    )
    assert first != {p.id: p for p in load_problems(f"gpqa-diamond:{tmp_path / 'a.jsonl'}", seed=4)}


def test_orders_are_drawn_evenly() -> None:
    counts = Counter(tuple(shuffled_order(f"question {i}", 4, 0)) for i in range(4800))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7  # chi-squared, 23 degrees, 0.1 %


def test_the_order_of_choices_stays_what_it_was() -> None:
    """Another order would be another benchmark under the same name in recorded runs."""
    assert [shuffled_order("question", 4, seed) for seed in range(3)] == [[2, 1, 3, 0], [3, 1, 0, 2], [1, 0, 2, 3]]


def test_the_publishers_own_csv(tmp_path: Path) -> None:
    path = tmp_path / "gpqa_diamond.csv"
    row = PUBLISHED["gpqa-diamond"]
    path.write_text(",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n")
    assert load_problems(f"gpqa-diamond:{path}") == [gpqa(tmp_path)]


# ---- how answers are read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("aime24", ["\\boxed{33}", "\\boxed{033}", "the answer is $33$."], ["\\boxed{34}", "\\boxed{330}", "33"]),
        ("math500", ["\\boxed{p-q}", "\\boxed{-q+p}"], ["\\boxed{q-p}"]),
        ("gsm8k", ["\\boxed{70,000}", "\\boxed{\\$70000}", "#### 70000"], ["\\boxed{70}", "70,000"]),
    ],
)
def test_answers_of_numbers(name: str, right: list[str], wrong: list[str]) -> None:
    problem = EXPECTED[name]
    assert [text for text in right if not is_correct(problem, f"<think>so</think>{text}")] == []
    assert [text for text in wrong if is_correct(problem, f"<think>so</think>{text}")] == []


def test_answers_that_are_letters(tmp_path: Path) -> None:
    problem = gpqa(tmp_path)
    other = next(letter for letter in "ABCD" if letter != problem.answer)
    ways = [
        "So.\n\nAnswer: {}",
        "Answer: ${}",
        "**Answer: {}**",
        "Answer: $\\boxed{{{}}}$",
        "The wavelength is $\\boxed{{5\\,\\text{{nm}}}}$.\n\nAnswer: {}",
        "<think>Perhaps Answer: A? or B, C, D.</think>Answer: {}) right",
    ]
    for way in ways:
        assert is_correct(problem, way.format(problem.answer)), way
        assert not is_correct(problem, way.format(other)), way
    assert not is_correct(problem, "Answer: $LETTER")
    assert extract("Answer: $LETTER") is None


def test_what_has_no_reference_answer_is_not_judged() -> None:
    with pytest.raises(LaconicError, match="The problem 1000 has no reference answer"):
        is_correct(EXPECTED["ifeval"], "hi")


# ---- wrong input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_without_datasets_or_the_network_both_ways_are_named(
    name: str, hub: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = rf"{name} can't be loaded from the Hub \({HUB[name][0]}: Couldn't reach '{HUB[name][0]}' on the Hub\); "
    with pytest.raises(LaconicError, match=told + rf".*laconic-llm\[eval\].*{name}:FILE$"):
        load_problems(name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        LaconicError, match=rf"datasets, which isn't installed: install laconic-llm\[eval\], or .* {name}:FILE$"
    ):
        load_problems(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_that_changed_its_columns(name: str, hub: dict) -> None:
    first = BENCHMARKS[name].columns[0][0]
    record = {key: value for key, value in PUBLISHED[name].items() if key != first}
    hub[HUB[name]] = HubTable([record | {"renamed": "x"}])
    with pytest.raises(LaconicError) as caught:
        load_problems(name)
    assert str(caught.value).startswith(
        f"The data set {HUB[name][0]} on the Hub has other columns than it had: expected {first}, "
    )
    assert f"found {', '.join(sorted([*record, 'renamed']))}, which lack {first}; give its" in str(caught.value)


@pytest.mark.parametrize(("name", "other"), itertools.permutations(NAMES, 2))
def test_a_file_of_another_benchmark(name: str, other: str, tmp_path: Path) -> None:
    """By its columns, by its golds, or by its year. A file of AIME 2025 has nothing that tells it from one of 2024, unless it
    has a year."""
    record = PUBLISHED[other] | ({"year": "2025"} if other == "aime25" else {})
    path = write(tmp_path / "x.jsonl", record)
    if name in ("aime24", "aime25") and other == "math500":
        says = r"Line 1 of .* has the answer 'p - q'; expected a whole number from 0 to 999"
    elif name in ("aime24", "aime25") and other == "gsm8k":
        says = r"Line 1 of .* has the answer 'She has .*; expected a whole number from 0 to 999"
    elif {name, other} == {"aime24", "aime25"}:
        says = rf"Line 1 of .* is of the year 20{other[-2:]}; expected 20{name[-2:]}"
    else:
        says = rf"Line 1 of .* is not of {name}: expected the columns {BENCHMARKS[name].columns[0][0]}, .*, found .*{other}"
    with pytest.raises(LaconicError, match=says) as caught:
        load_problems(f"{name}:{path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("aime24", {"answer": "1000"}, "has the answer '1000'; expected a whole number from 0 to 999"),
        ("aime24", {"answer": "-3"}, "has the answer '-3'"),
        ("aime24", {"answer": 33.5}, r"has the answer '33\.5'"),
        ("aime24", {"answer": None}, "has an empty answer"),
        ("aime24", {"answer": True}, "has a value of the type bool as its answer; expected a text"),
        ("aime24", {"problem": "  "}, "has an empty problem"),
        ("aime24", {"problem": ["x"]}, "has a value of the type list as its problem"),
        ("aime25", {"answer": ""}, "has an empty answer"),
        ("math500", {"answer": " "}, "has an empty answer"),
        (
            "gsm8k",
            {"answer": "She has many\n####"},
            r"has the answer 'She has many\\n####'; expected one that ends in #### and a number",
        ),
        (
            "gsm8k",
            {"answer": "She has many #### lots"},
            "has the answer 'She has many #### lots'; expected one that ends in",
        ),
        ("gpqa-diamond", {"Incorrect Answer 3": None}, "has an empty Incorrect Answer 3"),
        ("ifeval", {"prompt": ""}, "has an empty prompt"),
        ("livecodebench", {"question_content": ""}, "has an empty question_content"),
    ],
)
def test_records_that_are_broken(name: str, changes: dict, says: str, tmp_path: Path) -> None:
    good = PUBLISHED[name]
    path = write(tmp_path / "x.jsonl", good, good | changes)
    with pytest.raises(LaconicError, match=rf"^Line 2 of .*x\.jsonl {says}"):
        load_problems(f"{name}:{path}")


def test_a_number_of_another_type_is_the_same_gold(tmp_path: Path) -> None:
    for answer in (33, 33.0, "33", "033", "33.0"):
        (problem,) = load_problems(f"aime24:{write(tmp_path / 'x.jsonl', PUBLISHED['aime24'] | {'answer': answer})}")
        assert problem.answer == "33"


def test_larger_sets_of_the_same_form_are_refused(tmp_path: Path) -> None:
    record = PUBLISHED["aime24"] | {"year": None}
    path = write(tmp_path / "x.jsonl", *[record] * 90)
    with pytest.raises(LaconicError, match="holds 90 problems, but aime24 has 30; expected those alone"):
        load_problems(f"aime24:{path}")
    many = write(tmp_path / "g.jsonl", *[PUBLISHED["gsm8k"]] * 1500)
    assert len(load_problems(f"gsm8k:{many}")) == 1500, "the train split has the same form, and learns"


def test_names_and_files_that_there_are_not(tmp_path: Path) -> None:
    known = ", ".join(NAMES)
    for source in ("aime26", "AIME24", f"gpqa:{tmp_path}/x.jsonl"):
        with pytest.raises(
            LaconicError, match=rf"no problem file {source}; expected bundled, .* a benchmark \({known};"
        ):
            load_problems(source)
    with pytest.raises(
        LaconicError, match="aime24: lacks the file; expected aime24 for the Hub's data set, or aime24:FILE"
    ):
        load_problems("aime24:")
    with pytest.raises(LaconicError, match=r"There is no problem file none\.jsonl"):
        load_problems("aime24:none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(LaconicError, match=r"empty\.jsonl holds no problems; expected those of aime24"):
        load_problems(f"aime24:{tmp_path / 'empty.jsonl'}")
    with pytest.raises(LaconicError, match="only the bundled problems have levels to choose, not math500"):
        load_problems("math500", level=3)


def test_a_file_of_a_benchmark_s_name_is_the_file_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k", "aime24:x.jsonl"):
        write(tmp_path / name, {"question": "1 + 1?", "answer": "2"})
        assert load_problems(name) == [Problem("line-1", "1 + 1?", "2")]
        assert find_benchmark(name) is None


# ---- the page -----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_benchmark_with_its_data_set_and_prompt() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = page.split("\n## Benchmarks by name\n")[1].split("\n## ")[0]
    rows = {cells[0].strip(" `"): cells for line in section.splitlines() if (cells := line.strip("|").split("|"))[1:]}
    for name, benchmark in BENCHMARKS.items():
        place = ", ".join(filter(None, (f"`{benchmark.dataset}`", benchmark.config and f"`{benchmark.config}`")))
        assert rows[name][1].strip() == f"{place}, `{benchmark.split}`", name
        for names in benchmark.columns:
            assert f"`{names[0]}`" in rows[name][2], (name, names[0])
    for name in ("aime24", "gpqa-diamond", "livecodebench"):  # as indented blocks, since one has a fence in it
        shown = "".join(f"    {line}\n" if line else "\n" for line in BENCHMARKS[name].prompt.split("\n"))
        assert f"\n\n{shown}\n" in section, name
