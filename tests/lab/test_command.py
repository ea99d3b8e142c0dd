"""`laconic bench` from the command line: real runs of a tiny model, files, resumption, and sentences for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from laconic.engines.hf import shapes
from laconic.engines.hf.shapes import Shape
from laconic.statistics import mean_interval

SHAPE = Shape(
    "nano",
    "llama",
    "",
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 512,
    },
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(shapes.SHAPES, "nano", SHAPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    records = [{"question": f"{a} plus {b} ?", "answer": f"{a}"} for a in "12345" for b in "67"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def accuracy_arguments(tiny: Path, problem_file: Path, out: Path) -> list[object]:
    return [
        "bench", "accuracy", "-m", tiny, "--source", problem_file, "--n", 2, "-p", "rpc,streamingllm,oracle", "-c", "2,4",
        "--interval", 16, "--window", 8, "--oracle-pattern", "[0-9]", "--max-new-tokens", 60, "--batch", 8, "-o", out,
    ]  # fmt: skip


def test_accuracy_writes_all_it_says_and_goes_on_from_it(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [*accuracy_arguments(tiny, problem_file, out), "--keep-tokens"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["plot.png", "results.json", "table.md", "traces.jsonl"]
    report = json.loads((out / "results.json").read_text())
    rows = {row["label"]: row for row in report["rows"]}
    assert list(rows) == [
        "full", "rpc c=2", "rpc c=4", "streamingllm c=2", "streamingllm c=4", "oracle c=2", "oracle c=4",
    ]  # fmt: skip
    assert "pass@1" in result.stdout
    assert str(tiny) not in (out / "results.json").read_text()  # no directory of this machine
    assert report["settings"]["model"]["name"] == "tiny"

    lines = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    traces = [line for line in lines if line["kind"] == "trace"]
    assert len(traces) == 7 * 10 * 2
    for label, row in rows.items():
        mine = [trace for trace in traces if trace["row"] == label]
        right: dict[str, list[float]] = {}
        for trace in mine:
            right.setdefault(trace["problem"], []).append(float(trace["correct"]))
        assert row["accuracy"] == mean_interval(list(right.values()))._asdict()
        assert row["mean_kv_tokens"] == pytest.approx(sum(t["mean_kv_tokens"] for t in mine) / 20)
        assert all(len(trace["token_ids"]) == trace["length"] for trace in mine)
    before = (out / "traces.jsonl").read_bytes()
    again = invoke(*arguments, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == report["rows"]
    assert (out / "traces.jsonl").read_bytes() == before


def test_a_torn_results_file_goes_on_and_says_so(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = accuracy_arguments(tiny, problem_file, out)
    assert invoke(*arguments).exit_code == 0
    whole = json.loads((out / "results.json").read_text())["rows"]
    data = (out / "traces.jsonl").read_bytes()
    (out / "traces.jsonl").write_bytes(data[: len(data) // 2])
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "was cut short" in result.output
    assert "going on from there" in result.output
    rows = json.loads((out / "results.json").read_text())["rows"]
    for row in (*rows, *whole):
        row.pop("tokens_per_second")
    assert rows == whole


def test_results_of_other_settings_are_refused(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = accuracy_arguments(tiny, problem_file, out)
    assert invoke(*arguments).exit_code == 0
    before = (out / "traces.jsonl").read_bytes()
    result = invoke(*arguments, "--sample-seed", 5)
    assert result.exit_code == 2
    assert "sampling.seed was 0, now 5" in result.output
    assert result.output.count("\n") == 1
    assert (out / "traces.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["-p", "rpc,best"], "policy 'best' is unknown; expected one of full, rpc"),
        (["-c", "0.5"], "ratio is 0.5"),
        (["-c", "two"], "--ratios has 'two'"),
        (["-c", "3"], "interval is 16"),
        (["--interval", 0], "interval is 0"),
        (["--window", 0], "window is 0"),
        (["--n", 0], "--n is 0"),
        (["--batch", 0], "--batch is 0"),
        (["--problems", 0], "number of problems is 0"),
        (["--temperature", -1], "temperature is -1"),
        (["--oracle-pattern", "("], "no regular expression"),
        (["--oracle-pattern", "zzz"], "matches no token"),
        (["--source", "nowhere.jsonl"], "no problem file nowhere.jsonl"),
        (["--level", 3], "only the bundled problems have levels"),
        (["-m", "/no/such/model"], "no model at /no/such/model"),
        (["--engine", "vllm"], "policy oracle can't run inside vLLM: it looks at token ids"),
        (["--engine", "vllm", "-p", "rpc,h2o"], "policy h2o can't run inside vLLM: it accumulates"),
        (["--engine", "vllm", "--device", "cpu"], "--device cpu is for the hf engine"),
        (["--engine", "vllm:other"], "both name a model"),
        (["--engine-set", "max_model_len=9"], "--engine-set max_model_len=9 is for vLLM"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path, extra: list, says: str
) -> None:
    result = invoke(*accuracy_arguments(tiny, problem_file, tmp_path / "out"), *extra)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_broken_problem_file_is_named_by_its_line(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    problem_file.write_text(problem_file.read_text() + "{broken\n")
    result = invoke(*accuracy_arguments(tiny, problem_file, tmp_path / "out"))
    assert result.exit_code == 2
    assert "Line 11 of" in result.output


def test_a_benchmark_s_prompt_is_recorded_and_another_is_refused(
    invoke, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "test.jsonl", tmp_path / "out"
    path.write_text(json.dumps({"question": "1 plus 6 ?", "answer": "so #### 7"}))
    base = ["bench", "accuracy", "-m", tiny, "-p", "full", "--max-new-tokens", 5, "-o", out, "--source"]
    result = invoke(*base, f"gsm8k:{path}", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["settings"]["problems"]
    assert (told["set"], told["count"]) == ("gsm8k, test.jsonl", 1)
    assert told["prompt"] == "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
    before = (out / "traces.jsonl").read_bytes()
    assert invoke(*base, f"gsm8k:{path}").exit_code == 0

    monkeypatch.setattr("laconic.problems.sets.prompt_of", lambda source: "{question}")
    refused = invoke(*base, f"gsm8k:{path}")
    assert refused.exit_code == 2
    assert "problems.prompt was '{question}\\nPlease reason" in refused.stderr
    assert "now '{question}'" in refused.stderr
    plain = invoke(*base, path)
    assert plain.exit_code == 2
    assert "problems.set was 'gsm8k, test.jsonl', now 'test.jsonl'" in plain.stderr
    assert (out / "traces.jsonl").read_bytes() == before


def test_a_file_without_a_benchmark_s_name_records_no_prompt(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = invoke(
        "bench",
        "accuracy",
        "-m",
        tiny,
        "--source",
        problem_file,
        "-p",
        "full",
        "--max-new-tokens",
        5,
        "-o",
        out,
        "--json",
    )
    assert list(json.loads(result.stdout)["settings"]["problems"]) == ["set", "count", "digest"]


def test_what_no_answer_scores_is_refused_before_anything_is_loaded(invoke, tmp_path: Path) -> None:
    for source in ("ifeval", f"ifeval:{tmp_path / 'none.jsonl'}"):
        result = invoke("bench", "accuracy", "-m", tmp_path / "none", "--source", source, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert "ifeval has no reference answers" in result.stderr
        assert "`python -m laconic.lab.lm_eval`" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_seed_is_another_order_of_choices(invoke, tiny: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "gpqa.jsonl", tmp_path / "out"
    wrong = {f"Incorrect Answer {i}": f"{i}" for i in (1, 2, 3)}
    path.write_text(json.dumps({"Question": "1 plus 6 ?", "Correct Answer": "7", "Record ID": "r", **wrong}))
    base = ["bench", "accuracy", "-m", tiny, "--source", f"gpqa-diamond:{path}", "-p", "full", "--max-new-tokens", 5]
    result = invoke(*base, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["settings"]["problems"]["set"] == "gpqa-diamond, gpqa.jsonl, choices by seed 0"
    refused = invoke(*base, "-o", out, "--problem-seed", 1)
    assert refused.exit_code == 2
    assert "choices by seed 0', now 'gpqa-diamond, gpqa.jsonl, choices by seed 1'" in refused.stderr


def test_the_oracle_needs_a_pattern_on_other_models(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    base = ["bench", "accuracy", "-m", tiny, "--source", problem_file, "-o", tmp_path / "out", "--max-new-tokens", 20]
    result = invoke(*base, "-p", "oracle", "-c", 2, "--interval", 16, "--window", 8)
    assert result.exit_code == 2
    assert "--oracle-pattern" in result.output


def test_a_directory_of_another_engine_is_refused_before_that_one_starts(
    invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.engines.vllm.engine.client.check_installed", lambda: None)
    monkeypatch.setattr("laconic.cli.engines.VLLMReasoner.engines", lambda *a, **k: pytest.fail("vLLM is not needed"))
    out = tmp_path / "out"
    base = ["bench", "accuracy", "--problems", 1, "-p", "full", "--max-new-tokens", 20, "-o", out]
    assert invoke(*base).exit_code == 0
    before = (out / "traces.jsonl").read_bytes()
    result = invoke(*base, "--engine", "vllm", "--engine-set", "max_model_len=512")
    assert result.exit_code == 2
    assert "engine.name was 'hf', now 'vllm'" in result.stderr
    assert "engine.settings was not set, now {'max_model_len': 512}" in result.stderr
    assert "model." not in result.stderr  # the weights and their format are the same
    assert (out / "traces.jsonl").read_bytes() == before


SPEED = ["bench", "throughput", "--shapes", "nano", "--batches", "2", "--prompt", 8, "-r", 2]


def test_throughput_measures_and_goes_on(invoke, tmp_path: Path) -> None:
    out = tmp_path / "speed"
    arguments = [
        *SPEED,
        "--at",
        64,
        "--steps",
        16,
        "--lengths",
        40,
        "-p",
        "rpc:interval=16,ratio=4,window=8",
        "-o",
        out,
    ]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["plot.png", "results.json", "samples.jsonl", "table.md"]
    report = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["generate", "full", "rpc:interval=16,ratio=4,window=8"] * 2
    for row in report["rows"]:
        assert row["failed"] is None
        assert row["repeats"] == 2
        assert row["tokens_per_second"]["median"] > 0
        if row["method"] != "generate":
            assert row["live_bytes"] == row["expected_live_bytes"]
    before = (out / "samples.jsonl").read_bytes()
    assert invoke(*arguments).exit_code == 0
    assert (out / "samples.jsonl").read_bytes() == before
    refused = invoke(*SPEED, "--at", 32, "-o", out)
    assert refused.exit_code == 2
    assert "other settings" in refused.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "throughput"], "name a --preset"),
        (["bench", "throughput", "--preset", "fastest"], "rpc-paper, cpu-kv, cpu-policies, cpu-weights, cpu-parity"),
        (["bench", "throughput", "--preset", "cpu-kv", "--shapes", "nano"], "its shapes: tiny-kv"),
        (["bench", "throughput", "--preset", "cpu-kv", "--at", "9"], "leave --lengths and --at out"),
        ([*SPEED], "nothing to run"),
        ([*SPEED, "--lengths", 1], "length is 1"),
        ([*SPEED, "--lengths", "2.5"], "--lengths has 2.5"),
        ([*SPEED, "--lengths", 9, "--shapes", "huge"], "'huge' is unknown; expected one of r1-distill-qwen-7b"),
        ([*SPEED, "--lengths", 9, "-p", "best"], "policy 'best' is unknown"),
        ([*SPEED, "--lengths", 9, "-r", 0], "repeats is 0"),
        ([*SPEED, "--lengths", 9, "--dtype", "int3"], "int3"),
        ([*SPEED, "--lengths", 9, "--device", "abacus"], "abacus"),
        ([*SPEED, "--lengths", 9, "--threads", 0], "--threads is 0"),
        ([*SPEED, "--lengths", 600], "does not fit the model's context"),
    ],
)
def test_bad_speed_input_is_one_sentence_and_exit_2(invoke, tmp_path: Path, arguments: list, says: str) -> None:
    result = invoke(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0


def test_a_gpu_preset_is_refused_without_one(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("bench", "throughput", "--preset", "rpc-paper", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "made for a GPU" in result.output
    assert "--force" in result.output
    assert not (tmp_path / "out").exists()


def test_plots_without_matplotlib_are_refused_before_the_work(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.lab.shared.figure.available", lambda: False)
    arguments = accuracy_arguments(tiny, problem_file, tmp_path / "out")
    result = invoke(*arguments, "--plot")
    assert result.exit_code == 2
    assert "laconic-llm[plots]" in result.output
    assert not (tmp_path / "out").exists()
    assert invoke(*SPEED, "--lengths", 9, "-o", tmp_path / "speed").exit_code == 0
    assert not (tmp_path / "speed" / "plot.png").exists()


def test_the_bundled_reasoner_is_not_asked_what_it_can_not_read(invoke, tmp_path: Path) -> None:
    """A row of unknown tokens has an accuracy too: 0."""
    source = tmp_path / "prose.jsonl"
    source.write_text(json.dumps({"id": "p7", "question": "What is 1 + 1?", "answer": "2"}) + "\n")
    for command in (["bench", "accuracy", "-p", "full", "-o", tmp_path / "out"], ["analyze", "-m", "bundled"]):
        result = invoke(*command, "--source", source, "--max-new-tokens", 4)
        assert (result.exit_code, "problem p7: the bundled reasoner only reads" in result.stderr) == (2, True), (
            result.output
        )
