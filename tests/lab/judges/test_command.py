"""`laconic judge` from end to end on a tiny model: train, resume, eval, ablate, and what is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.judges.models import WORDS as JUDGE_WORDS
from tests.judges.models import llama, word_tokenizer
from transformers import AutoTokenizer

from laconic.files import lock_directory
from laconic.judges.registry import open_judge
from laconic.lab.judges.recipe import trained_on
from laconic.prune.needs import Needs, needs_of
from laconic.traces import TraceRecord, tokenizer_fingerprint, write_traces

Invoke = Callable[..., Any]
QUICK = ("--epochs", 2, "--per-step", 4, "--width", 16, "--patience", 0, "--shares", "0.5,0.25,0.25")


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
    result = invoke("judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", out, *QUICK)
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
    result = invoke("judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", judge, *QUICK)
    assert result.exit_code == 0
    assert "step" not in result.stderr
    assert "TrainedJudge on excerpts tokens:3" in result.stdout
    assert (judge / "model.safetensors").read_bytes() == before


def test_train_as_json_with_states_and_another_loss(tiny: Path, traces: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(
        "judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", tmp_path / "j", *QUICK,
        "--vectors", "states", "--layers", "1,-1", "--cross-entropy", "--oversample", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["plan"]["layers"] == [1, -1]
    assert record["settings"]["loss"]["focal"] is False
    assert "validation AUROC" in result.stderr
    assert needs_of(open_judge(f"encoder:{tmp_path / 'j'}")) == Needs(state_tokens=3, state_layers=(1, -1))


def test_train_a_language_model(tiny: Path, traces: Path, invoke: Invoke, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(len(JUDGE_WORDS)).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    result = invoke(
        "judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", tmp_path / "j", "--kind", "llm", "--base",
        base, "--epochs", 1, "--per-step", 32, "--shares", "0.5,0.25,0.25",
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
    before = (tmp_path / "out" / "judged.jsonl").read_text()
    grown = json.loads(invoke(*arguments, "-j", "facts", "--json").stdout)
    after = (tmp_path / "out" / "judged.jsonl").read_text()
    assert after.startswith(before)
    assert {json.loads(line)["judge"] for line in after[len(before) :].splitlines()} == {"facts"}
    assert [row for row in grown["rows"] if row["judge"] != "facts"] == report["rows"]


CROSSWISE = ("--epochs", 1, "--per-step", 4, "--width", 16, "--patience", 0, "--folds", 3)


def test_train_crosswise_makes_one_judge_of_all_problems(
    traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path
) -> None:
    arguments = ("judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", tmp_path / "j", *CROSSWISE)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "fold-3 of 3" in result.stderr
    assert "trained crosswise" in result.stdout
    again = invoke(*arguments, "--json")
    assert "step" not in again.stderr
    record = json.loads(again.stdout)
    assert record["test"]["problems"] == 24
    assert [fold["parts"]["test"]["problems"] for fold in record["folds"]] == [8, 8, 8]
    spec = f"encoder:{tmp_path / 'j'}"
    judged = invoke("judge", "eval", "-t", traces, "-m", tiny, "-o", tmp_path / "out", "-j", spec, "--json")
    assert judged.exit_code == 0, judged.output
    (row,) = json.loads(judged.stdout)["rows"]
    # None of its problems is left out, and each is judged as its fold's test was.
    assert row["problems"] == 24
    assert row["auroc"]["value"] == pytest.approx(record["test"]["auroc"]["value"], abs=1e-6)


def test_ablate_crosswise(traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ("judge", "ablate", "-t", traces, "--excerpts", "tokens:3", "-m", tiny, "-o", tmp_path, *CROSSWISE)
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["settings"]["split"] == {"folds": 3, "seed": 0}
    assert [row["problems"] for row in report["rows"]] == [24] * 4
    assert "to plain" in (tmp_path / "table.md").read_text()
    assert "12 trained judges found" in invoke(*arguments).stderr


def test_unseen_traces_of_another_policy_are_refused(
    traces: Path, tiny: Path, tokenizer: Any, invoke: Invoke, tmp_path: Path
) -> None:
    unseen = write(tmp_path / "unseen.jsonl", tokenizer, range(50, 53), policy="rpc")
    result = invoke(
        "judge", "eval", "-t", traces, "--unseen", unseen, "-m", tiny, "-o", tmp_path / "o", "-j", "jaccard", "--excerpt",
        "tokens:3",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "written under full and rpc; give those of one policy at a time" in result.stderr


def test_ablate_is_two_by_two(traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path) -> None:
    arguments = (
        "judge", "ablate", "-t", traces, "--excerpts", "tokens:3,tokens:2", "-m", tiny, "-o", tmp_path, *QUICK, "--epochs", 1,
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
        (("--excerpt", "sentences:3"), "expected one of tokens:K"),
        ((), "say with --excerpt"),
        (("--excerpt", "tokens:3", "--kind", "oracle"), "--kind is 'oracle'; expected encoder or llm"),
        (("--excerpt", "tokens:3", "--kind", "llm"), "give both, or neither"),
        (("--excerpt", "tokens:3", "--base", "x"), "give both, or neither"),
        (("--excerpt", "tokens:3", "--lora", 8), "--lora is 8"),
        (("--excerpt", "tokens:3", "--alpha", 1), "alpha is 1.0"),
        (("--excerpt", "tokens:3", "--oversample", 0), "oversample is 0"),
        (("--excerpt", "tokens:3", "--vectors", "magic"), "vectors is 'magic'"),
        (("--excerpt", "tokens:3", "--shares", "1,1"), "expected three numbers"),
        (("--excerpt", "tokens:3", "--shares", "0.5,0.5,0.5"), "add up to 1"),
        (("--excerpt", "tokens:3", "--vectors", "states", "--layers", "9"), "9"),
        (("--excerpt", "tokens:3", "--folds", 2), "the folds are 2 of 24 problems"),
        (("--excerpt", "tokens:3", "--folds", -1), "--folds is -1"),
        (("--excerpt", "tokens:3", "--folds", 3, "--shares", "0.5,0.25,0.25"), "--shares has no effect with --folds"),
        (
            ("--excerpt", "tokens:3", "--folds", 3, "--kind", "llm", "--base", "x"),
            "--folds has no effect on --kind llm",
        ),
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
    result = invoke(
        "judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", judge, *QUICK, "--seed", 5
    )
    assert result.exit_code == 2
    assert "holds another training" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-j", "oracle"), "judge 'oracle' is unknown"),
        (("-j", "jaccard"), "nothing says which"),
        (("-j", "jaccard", "--excerpt", "nonsense"), "expected one of tokens:K"),
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
    result = invoke(
        "judge", "eval", "-t", other, "-m", tiny, "-j", "jaccard", "--excerpt", "tokens:3", "-o", tmp_path / "o"
    )
    assert result.exit_code == 2
    assert "written with the tokenizer feed" in result.stderr
    two = write(tmp_path / "two.jsonl", tokenizer, range(2))
    more = write(tmp_path / "more.jsonl", tokenizer, range(2, 4), policy="rpc:interval=8")
    two.write_text(two.read_text() + more.read_text())
    result = invoke(
        "judge", "eval", "-t", two, "-m", tiny, "-j", "jaccard", "--excerpt", "tokens:3", "-o", tmp_path / "o"
    )
    assert result.exit_code == 2
    assert "one policy at a time" in result.stderr


def test_broken_lines_are_told_and_passed_over(tiny: Path, tokenizer: Any, invoke: Invoke, tmp_path: Path) -> None:
    file = write(tmp_path / "torn.jsonl", tokenizer, range(8))
    file.write_text(file.read_text() + '{"torn\n')
    result = invoke(
        "judge", "eval", "-t", file, "-m", tiny, "-j", "jaccard", "--excerpt", "tokens:3", "-o", tmp_path / "o"
    )
    assert result.exit_code == 0, result.output
    assert "1 line of" in result.stderr
    assert "line 33 is not JSON" in result.stderr


def test_two_trainings_never_share_a_directory(tiny: Path, traces: Path, invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "judge"
    command = ("judge", "train", "-t", traces, "--excerpt", "tokens:3", "-m", tiny, "-o", out, *QUICK)
    with lock_directory(out):
        result = invoke(*command)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {out} is in use by another run; wait for it, or name another\n",
    )
    assert not out.exists()
    refused = invoke("judge", "train", "-t", tmp_path / "none.jsonl", "-o", out, *QUICK)
    assert refused.exit_code == 2
    assert not out.exists()
    assert invoke(*command).exit_code == 0


def change(path: Path, out: Path, name: str, value: Any, lines: slice = slice(None)) -> Path:
    """The traces of a file with another value in a field of some: a function of the old one, or the value itself."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[lines]:
        record[name] = value(record[name]) if callable(value) else value
    out.write_text("".join(json.dumps(record) + "\n" for record in records))
    return out


@pytest.mark.parametrize("token", [-1, len(JUDGE_WORDS) + 9999, 2**31, 10**30])
@pytest.mark.parametrize("field", ["token_ids", "prompt_ids"])
@pytest.mark.parametrize("command", ["train", "train states", "eval", "ablate"])
def test_token_ids_that_the_model_lacks_are_named(
    command: str, field: str, token: int, traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path
) -> None:
    bad = change(traces, tmp_path / "bad.jsonl", field, lambda ids: [ids[0], token, *ids[2:]])
    name, _, more = command.partition(" ")
    options: dict[str, list[Any]] = {
        "train": ["--excerpt", "tokens:3", *QUICK, *(["--vectors", "states"] if more else [])],
        "eval": ["--excerpt", "tokens:3", "-j", "jaccard", "-j", "probe:steps=1"],
        "ablate": ["--excerpts", "tokens:3", "--epochs", 1, "--width", 16],
    }
    result = invoke("judge", name, "-t", bad, "-m", tiny, "-o", tmp_path / "out", *options[name])
    assert result.exit_code == 2
    assert f"{field}" in result.stderr
    assert f"has the entry {token}" in result.stderr


def test_traces_without_prompts_are_refused_where_a_model_reads_them_again(
    traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path
) -> None:
    bad = change(traces, tmp_path / "bad.jsonl", "prompt_ids", [])
    asked = ("judge", "eval", "-t", bad, "--excerpt", "tokens:3", "-m", tiny, "-o", tmp_path / "out")
    result = invoke(*asked, "-j", "probe:steps=1")
    assert (result.exit_code, "no prompt_ids" in result.stderr) == (2, True)
    assert invoke(*asked, "-j", "jaccard").exit_code == 0  # which needs none


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
        ('{"format": "\\ud800"}', "half a character"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "training.json"])
def test_a_judges_broken_files_are_one_sentence(
    file: str, content: str, says: str, judge: Path, traces: Path, tiny: Path, invoke: Invoke, tmp_path: Path
) -> None:
    broken = tmp_path / "judge"
    shutil.copytree(judge, broken)
    (broken / file).write_text(content)
    result = invoke("judge", "eval", "-t", traces, "-m", tiny, "-j", f"encoder:{broken}", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{broken / file} " in result.stderr
    assert says in result.stderr
