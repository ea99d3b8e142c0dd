"""`laconic analyze` from the command line: a file, a model, the accuracy run's own traces, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from laconic.lab.analyze.entropy import ngram_entropy


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    records = [
        {"policy": "full", "token_ids": [1, 2, 3, 4] * 30},
        {"policy": "rpc", "token_ids": list(range(120))},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_file_gives_tables_and_json(invoke, traces: Path) -> None:
    result = invoke("analyze", traces, "--lengths", "64,100", "--spans", 12)
    assert result.exit_code == 0, result.output
    assert "entropy" in result.stdout
    assert "Redundancy" in result.stdout
    result = invoke("analyze", traces, "--lengths", "64,100", "--spans", 12, "--json")
    report = json.loads(result.stdout)
    assert [group["group"] for group in report["groups"]] == ["full", "rpc"]
    point = report["groups"][0]["entropy"][1]
    assert point["length"] == 100
    assert point["bits"]["3"] == pytest.approx(ngram_entropy([1, 2, 3, 4] * 25, 3))
    assert report["groups"][0]["redundancy"]["mean"] == pytest.approx(0.9)
    assert report["settings"]["file"] == "traces.jsonl"


def test_files_go_where_out_says(invoke, traces: Path, tmp_path: Path) -> None:
    result = invoke("analyze", traces, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plot.png", "results.json", "table.md"]


def test_a_tokenizer_gives_text_its_tokens_and_tokens_their_text(invoke, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "a b c ."}) + "\n" + json.dumps({"token_ids": [6, 7, 6]}) + "\n")
    result = invoke("analyze", path, "--tokenizer", tiny, "--lengths", 3, "--json")
    assert result.exit_code == 0, result.output
    (group,) = json.loads(result.stdout)["groups"]
    assert group["mean_length"] == 3.5
    assert group["spans"] == 1.0  # "a b c ." and "a b a" are one span each
    assert str(tiny) not in result.stdout


def test_a_model_writes_its_own_traces(invoke, tiny: Path) -> None:
    arguments = ["analyze", "-m", tiny, "--problems", 3, "--max-new-tokens", 50, "--lengths", "16,32", "--json"]
    result = invoke(*arguments, "-p", "full;rpc:interval=16,ratio=4,window=8")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [group["group"] for group in report["groups"]] == ["full", "rpc:interval=16,ratio=4,window=8"]
    assert [group["traces"] for group in report["groups"]] == [3, 3]
    again = json.loads(invoke(*arguments, "-p", "full").stdout)
    assert again["groups"][0] == report["groups"][0]


def test_the_accuracy_runs_own_traces_are_read(invoke, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "accuracy"
    made = invoke(
        "bench", "accuracy", "-m", tiny, "--problems", 2, "-p", "rpc", "-c", 2, "--interval", 16, "--window", 8,
        "--max-new-tokens", 40, "--keep-tokens", "-o", out,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    result = invoke("analyze", out / "traces.jsonl", "--lengths", 8, "--json")
    assert [group["group"] for group in json.loads(result.stdout)["groups"]] == ["full", "rpc c=2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "either a file of traces or a --model"),
        (["{traces}", "-m", "bundled"], "not both"),
        (["nowhere.jsonl"], "There is no file nowhere.jsonl"),
        (["{traces}", "--lengths", "many"], "--lengths has 'many'"),
        (["{traces}", "--lengths", "0"], "lengths[0] is 0; expected a whole number of at least 1"),
        (["{traces}", "--spans", "0"], "span size is 0"),
        (["{traces}", "--threshold", "2"], "threshold is 2"),
        (["{traces}", "--embedder", "word2vec"], "expected tfidf"),
        (["{traces}", "--tokenizer", "/no/such"], "The tokenizer /no/such can't be loaded"),
        (["{traces}", "--plot"], "--out DIRECTORY"),
        (["-m", "/no/such/model"], "no model at"),
        (["-m", "bundled", "-p", "best"], "policy 'best' is unknown"),
        (["-m", "bundled", "-p", ""], "--policies is empty"),
        (["-m", "bundled", "--problems", "0"], "number of problems is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(invoke, traces: Path, arguments: list[str], says: str) -> None:
    result = invoke("analyze", *(word.format(traces=traces) for word in arguments))
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0


def test_broken_lines_are_passed_over_and_told(invoke, traces: Path, tmp_path: Path) -> None:
    whole = json.loads(invoke("analyze", traces, "--lengths", "64", "--json").stdout)
    lines = traces.read_text().splitlines()
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(['{"cut', *lines, "[1]", '{"token_ids": ["a"]}', '{"row": "full"}', lines[0][:20]]))
    result = invoke("analyze", path, "--lengths", "64", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["groups"] == whole["groups"]
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"5 lines of {path} skipped: line 1 is not JSON")
    assert f"line {len(lines) + 2} is not a JSON object" in result.stderr


def test_a_file_of_broken_lines_alone_is_refused_with_what_is_wrong(invoke, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"cut\n{"text": "a"}\n')
    result = invoke("analyze", path)
    assert result.exit_code == 2
    assert "say with --tokenizer how it is cut into tokens" in result.stderr  # that is not the line's fault
    path.write_text('{"cut\n')
    result = invoke("analyze", path)
    assert result.exit_code == 2
    assert "holds no traces (line 1 is not JSON" in result.stderr
