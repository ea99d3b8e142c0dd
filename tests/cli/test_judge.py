"""`laconic judge` from end to end on a tiny model: train, resume, eval, ablate, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.judges.models import WORDS as JUDGE_WORDS
from tests.judges.models import llama, word_tokenizer
from transformers import AutoTokenizer

from laconic.judges.recipe import trained_on
from laconic.judges.registry import open_judge
from laconic.traces import TraceRecord, tokenizer_fingerprint, write_traces

Invoke = Callable[..., Any]
QUICK = ("--epochs", 2, "--batch", 4, "--width", 16, "--patience", 0, "--shares", "0.5,0.25,0.25")


def write(path: Path, words: Any, problems: range, seed: int = 0, **settings: Any) -> Path:
    """Traces whose answer is their second token."""
    rng = random.Random(f"{problems}/{seed}")
    letters = words.convert_tokens_to_ids(list("abcd"))
    records = []
    for number in problems:
        for i in range(4):
            ids = tuple(rng.choice(letters) for _ in range(6))
            text = words.decode(list(ids))
            answer = text.split()[1]
            made = {"policy": "full", "temperature": 1.0, "tokenizer": tokenizer_fingerprint(words)} | settings
            records.append(
                TraceRecord(
                    f"p{number}", f"c d {number} ?", "a", 0, i, seed, made, (6, 7, 8), ids, text, answer, True, "length"
                )
            )
    write_traces(path, records)
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def traces(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("traces") / "traces.jsonl", tokenizer, range(24))


@pytest.fixture(scope="module")
def judge(tiny: Path, traces: Path, invoke: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a judge, trained by the command."""
    out = tmp_path_factory.mktemp("judges") / "judge"
    result = invoke("judge", "train", "-t", traces, "-e", "tokens:3", "-m", tiny, "-o", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out


def test_train_makes_a_judge_with_its_record(judge: Path, traces: Path, tiny: Path, invoke: Invoke) -> None:
    assert open_judge(f"encoder:{judge}").excerpt == "tokens:3"
    record = json.loads((judge / "training.json").read_text())
    assert record["excerpt"] == "tokens:3"
    assert record["traces"]["problems"] == 24
    assert record["settings"]["loss"] == {"focal": True, "alpha": 0.5, "gamma": 1.0}
    assert record["plan"]["width"] == 16
    assert len(trained_on(judge)) == record["parts"]["train"]["problems"] + record["parts"]["validation"]["problems"]
    # The same command finds it done.
    before = (judge / "model.safetensors").read_bytes()
    result = invoke("judge", "train", "-t", traces, "-e", "tokens:3", "-m", tiny, "-o", judge, *QUICK)
    assert result.exit_code == 0
    assert "step" not in result.stderr
    assert "Trained on excerpts tokens:3" in result.stdout
    assert (judge / "model.safetensors").read_bytes() == before


def test_train_as_json_with_states_and_another_loss(tiny: Path, traces: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(
        "judge", "train", "-t", traces, "-e", "tokens:3", "-m", tiny, "-o", tmp_path / "j", *QUICK,
        "--vectors", "states", "--layers", "1,-1", "--cross-entropy", "--oversample", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["plan"]["layers"] == [1, -1]
    assert record["settings"]["loss"]["focal"] is False
    assert "validation AUROC" in result.stderr
    assert open_judge(f"encoder:{tmp_path / 'j'}").states_wanted == (3, (1, -1))  # type: ignore[attr-defined]


def test_train_a_language_model(tiny: Path, traces: Path, invoke: Invoke, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(len(JUDGE_WORDS)).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    result = invoke(
        "judge", "train", "-t", traces, "-e", "tokens:3", "-m", tiny, "-o", tmp_path / "j", "--kind", "llm", "--base",
        base, "--epochs", 1, "--batch", 32, "--shares", "0.5,0.25,0.25",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "j" / "training.json").read_text())
    assert (record["kind"], record["lora"], record["settings"]["by_problem"]) == ("llm", 0, False)
    assert open_judge(f"llm:{tmp_path / 'j'}").excerpt == "tokens:3"


def test_eval_compares_on_problems_that_nobody_was_trained_on(
    judge: Path, traces: Path, tiny: Path, tokenizer: Any, invoke: Invoke, tmp_path: Path
) -> None:
    unseen = write(tmp_path / "unseen.jsonl", tokenizer, range(50, 60), seed=3, temperature=0.6)
    specs = (f"encoder:{judge}", "jaccard", "probe:suffix=a", "random", "perfect")
    arguments = (
        "judge", "eval", "-t", traces, "--unseen", unseen, "-m", tiny, "-o", tmp_path / "out",
        *(word for spec in specs for word in ("-j", spec)),
    )  # fmt: skip
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "judgements/s" in result.stdout
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {(row["set"], row["judge"]): row for row in report["rows"]}
    assert set(rows) == {(name, spec) for name in ("known", "unseen") for spec in specs}
    left = 24 - len(trained_on(judge))
    assert {row["problems"] for (name, _), row in rows.items() if name == "known"} == {left}
    assert {row["excerpt"] for row in rows.values()} == {"tokens:3"}
    assert rows["known", "perfect"]["auroc"]["value"] == rows["unseen", "perfect"]["auroc"]["value"] == 1
    assert rows["known", "jaccard"]["tokens_per_pair"] == 0
    # The suffix, the newest token and one step more, of four traces for six pairs.
    assert rows["known", "probe:suffix=a"]["tokens_per_pair"] == pytest.approx(4 * 3 / 6)
    assert (tmp_path / "out" / "table.md").read_text().startswith("**Judges on recorded traces**")
    again = invoke(*arguments, "--json")
    assert "judged problems found" in again.stderr
    assert json.loads(again.stdout)["rows"] == report["rows"]


def test_ablate_is_two_by_two(traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path) -> None:
    arguments = (
        "judge", "ablate", "-t", traces, "-e", "tokens:3,tokens:2", "-m", tiny, "-o", tmp_path, *QUICK, "--epochs", 1,
    )  # fmt: skip
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "results.json").read_text())
    assert len(report["rows"]) == 8
    table = (tmp_path / "table.md").read_text()
    for cell in ("plain", "+ focal loss", "+ oversampling", "both", "tokens:2 TNR@FNR.2"):
        assert cell in table
    again = invoke(*arguments, "--json")
    assert "8 trained judges found" in again.stderr
    assert json.loads(again.stdout)["rows"] == report["rows"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-e", "sentences:3"), "expected one of tokens:K"),
        ((), "say with --excerpt"),
        (("-e", "tokens:3", "--kind", "oracle"), "--kind is 'oracle'; expected encoder or llm"),
        (("-e", "tokens:3", "--kind", "llm"), "give both, or neither"),
        (("-e", "tokens:3", "--base", "x"), "give both, or neither"),
        (("-e", "tokens:3", "--lora", 8), "--lora is 8"),
        (("-e", "tokens:3", "--alpha", 1), "alpha is 1.0"),
        (("-e", "tokens:3", "--oversample", 0), "oversample is 0"),
        (("-e", "tokens:3", "--vectors", "magic"), "vectors is 'magic'"),
        (("-e", "tokens:3", "--shares", "1,1"), "expected three numbers"),
        (("-e", "tokens:3", "--shares", "0.5,0.5,0.5"), "add up to 1"),
        (("-e", "tokens:3", "--vectors", "states", "--layers", "9"), "9"),
    ],
)
def test_what_train_refuses(
    traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    result = invoke("judge", "train", "-t", traces, "-m", tiny, "-o", tmp_path / "j", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_finished_judge_is_not_overwritten_by_another(judge: Path, traces: Path, tiny: Path, invoke: Invoke) -> None:
    result = invoke("judge", "train", "-t", traces, "-e", "tokens:3", "-m", tiny, "-o", judge, *QUICK, "--seed", 5)
    assert result.exit_code == 2
    assert "holds another training" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-j", "oracle"), "judge 'oracle' is unknown"),
        (("-j", "jaccard"), "nothing says which"),
        (("-j", "jaccard", "-e", "nonsense"), "expected one of tokens:K"),
        (("-j", "encoder:/no/such"), "no judge at /no/such"),
    ],
)
def test_what_eval_refuses(
    traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    result = invoke("judge", "eval", "-t", traces, "-m", tiny, "-o", tmp_path, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_traces_that_do_not_belong_are_refused(tiny: Path, tokenizer: Any, invoke: Invoke, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", tokenizer, range(4), tokenizer="feed")
    result = invoke("judge", "eval", "-t", other, "-m", tiny, "-j", "jaccard", "-e", "tokens:3", "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert "written with the tokenizer feed" in result.stderr
    two = write(tmp_path / "two.jsonl", tokenizer, range(2))
    more = write(tmp_path / "more.jsonl", tokenizer, range(2, 4), policy="rpc:interval=8")
    two.write_text(two.read_text() + more.read_text())
    result = invoke("judge", "eval", "-t", two, "-m", tiny, "-j", "jaccard", "-e", "tokens:3", "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert "one policy at a time" in result.stderr


def test_broken_lines_are_told_and_passed_over(tiny: Path, tokenizer: Any, invoke: Invoke, tmp_path: Path) -> None:
    file = write(tmp_path / "torn.jsonl", tokenizer, range(8))
    file.write_text(file.read_text() + '{"torn\n')
    result = invoke("judge", "eval", "-t", file, "-m", tiny, "-j", "jaccard", "-e", "tokens:3", "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "1 line of" in result.stderr
    assert "line 33 is not JSON" in result.stderr
