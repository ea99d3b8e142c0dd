"""`laconic collect` from the command line: a real file by a tiny model, interrupted, resumed, replayed, refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laconic.compress import parse
from laconic.engines.hf import load
from laconic.engines.replay import ReplayEngine, recorded_sampling
from laconic.lab.collect import run
from laconic.traces import TraceRecord, read_traces, tokenizer_fingerprint


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    records = [{"id": f"{a}{b}", "question": f"{a} plus {b} ?", "answer": a} for a in "12345" for b in "67"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def arguments(tiny: Path, problem_file: Path, out: Path, n: int = 3) -> list[object]:
    return [
        "collect", "-m", tiny, "--source", problem_file, "-n", n, "--temperature", 1, "--policy",
        "rpc:interval=16,ratio=4,window=8", "--confidence-top-k", 4, "--max-new-tokens", 40, "--batch", 8, "-o", out,
    ]  # fmt: skip


def places(path: Path) -> dict[tuple[str, int], TraceRecord]:
    found = read_traces(path)
    assert found.broken == ()
    by_place = {(record.problem, record.index): record for record in found.records}
    assert len(by_place) == len(found.records)
    return by_place


def test_collects_goes_on_and_is_played_back(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "traces.jsonl"
    result = invoke(*arguments(tiny, problem_file, out), "--problems", 4)
    assert result.exit_code == 0, result.output
    facts = dict(line.split(maxsplit=1) for line in result.stdout.replace("equal pairs", "equal").splitlines())
    assert (facts["problems"], facts["traces"], facts["file"]) == ("4", "12", str(out))
    assert facts["pass@1"].startswith("0.0% (95 % interval 0.0% to ")
    assert {"cons@3", "equal", "tokens", "speed"} <= set(facts)
    assert "12 of 12 traces" in result.stderr, "plain lines where stderr is no terminal"

    grown = invoke(*arguments(tiny, problem_file, out, n=4), "--json")
    assert grown.exit_code == 0, grown.output
    told = json.loads(grown.stdout)
    assert (told["problems"], told["traces"], told["new"], told["missing"]) == (10, 40, 28, 0)

    records = places(out)
    assert len(records) == 40
    _, tokenizer = load(tiny)
    first = records["16", 0]
    assert first.settings["model"] == "tiny"  # no directory of this machine
    assert str(tmp_path) not in out.read_text()
    assert first.settings["tokenizer"] == tokenizer_fingerprint(tokenizer)
    longest = next(record for record in records.values() if record.finish_reason == "length")
    assert (longest.gold, len(longest.token_ids), len(longest.confidences or ())) == (longest.problem[0], 40, 40)
    schedule, prompt = parse(longest.settings["policy"]).schedule, len(longest.prompt_ids)
    assert longest.kv["peak"] == schedule.peak(39, prompt) < prompt + 39
    assert longest.kv["mean"] == pytest.approx(schedule.mean(39, prompt), abs=1e-3)
    assert longest.kv["bytes_per_token"] == 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, float32
    assert len({record.seed for record in records.values()}) == 10, "each problem draws on its own"
    assert len({record.token_ids for record in records.values()}) == 40

    engine = ReplayEngine(list(records.values()), tokenizer=tokenizer)
    for question in ("1 plus 6 ?", "5 plus 7 ?"):
        known = [records[question[0] + question[7], i] for i in range(4)]
        ids = engine.submit(engine.render(question), recorded_sampling(known[0]), n=4)
        for _ in engine.stream():
            pass
        assert [engine.trace(i).text for i in ids] == [record.text for record in known]
        assert [engine.trace(i).peak_kv_tokens for i in ids] == [r.kv["peak"] for r in known]


# A process that gets Ctrl-C's signal once its third line is written: another process would have to guess when that is.
INTERRUPTED = """
import os, runpy, signal
from laconic.journal import Journal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
plain, written = Journal.append, []

def append(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    written.append(args)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGINT)

Journal.append = append
runpy.run_module("laconic", run_name="__main__")
"""


def test_a_run_that_is_interrupted_goes_on(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    words = [str(word) for word in arguments(tiny, problem_file, out, n=6)]
    running = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    told = running.stderr
    assert running.returncode == 130, told
    assert "interrupted; what is finished is in" in told
    assert "Traceback" not in told
    finished = out.read_bytes()
    assert finished.endswith(b"\n")
    assert 2 <= finished.count(b"\n") - 1 < 60
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["new"] == 60 - (finished.count(b"\n") - 1)
    assert out.read_bytes().startswith(finished)
    assert len(places(out)) == 60


def test_the_bundled_problems_of_a_split(invoke, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    asked = ["collect", "-o", out, "-n", 2, "--problems", 3, "--max-new-tokens", 8, "--level", 5, "--seed", 4]
    result = invoke(*asked, "--split", "train")
    assert result.exit_code == 0, result.output
    assert {record.problem for record in read_traces(out).records} == {f"steps5-train-s4-{i}" for i in range(3)}
    assert invoke(*asked).exit_code == 2, "another split is another set"
    other = invoke(*asked, "--split", "train", "--sample-seed", 9)
    assert other.exit_code == 2
    assert "sampling.seed was 4, now 9" in other.stderr


def test_what_the_model_can_not_take_is_skipped_and_named(invoke, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    records = [
        {"id": "long", "question": "a " * 300, "answer": "1"},
        {"id": "fit", "question": "a b", "answer": "1"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "t.jsonl"
    result = invoke("collect", "-m", tiny, "--source", path, "-n", 2, "--max-new-tokens", 5, "-o", out)
    assert result.exit_code == 0, result.output
    assert "problem long is skipped: the prompt has 302 tokens, but the model's context is 256" in result.stderr
    assert "problems    1, 1 skipped" in result.stdout
    path.write_text(json.dumps({"question": "what is 2+2?", "answer": "4"}))
    strange = invoke("collect", "--source", path, "-n", 2, "-o", tmp_path / "other.jsonl")
    assert strange.exit_code == 2
    assert "None of the problems can be run" in strange.stderr
    assert "only reads the notation" in strange.stderr


def test_broken_lines_are_told(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    assert invoke(*arguments(tiny, problem_file, out), "--problems", 2).exit_code == 0
    lines = out.read_text().splitlines()
    out.write_text("\n".join([*lines[:2], lines[2][:50], *lines[3:-1], lines[-1][:60]]))
    result = invoke(*arguments(tiny, problem_file, out), "--problems", 2)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "cut short (60 bytes)" in told
    assert "(line 3 is not JSON); what they held runs again" in told
    assert "(2 new)" in result.stdout


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["-n", 0], "--n is 0; expected at least 1"),
        (["--problems", 0], "--problems is 0"),
        (["--batch", 0], "--batch is 0"),
        (["--source", "hub:a:b", "--split", "c"], "--source hub:a:b names a split, and --split c another"),
        (["--source", "none.jsonl"], "no problem file none.jsonl"),
        (
            ["--source", "gsm8k", "--split", "train"],
            "--split train was given, but gsm8k is the split test of its data set",
        ),
        (["--source", "gsm8k:a.jsonl", "--split", "train"], "a file of problems has no splits"),
        (["--source", "aime25", "--level", 5], "only the bundled problems have levels"),
        (["--source", "aime26"], "a benchmark (aime24, aime25, gpqa-diamond, math500, gsm8k, ifeval, livecodebench;"),
        (["--source", "a.jsonl", "--split", "train"], "a file of problems has no splits"),
        (["--source", "a.jsonl", "--level", 5], "only the bundled problems have levels"),
        (["--split", "test"], "split is 'test'; expected one of train, heldout"),
        (["--policy", "nothing"], "nothing"),
        (["--temperature", -1], "temperature is -1"),
        (["--confidence-top-k", -1], "confidence_top_k is -1"),
        (["--model", "./nowhere"], "no model at ./nowhere"),
    ],
)
def test_bad_input_is_one_sentence(invoke, tmp_path: Path, extra: list[object], says: str) -> None:
    result = invoke("collect", "-o", tmp_path / "t.jsonl", *extra)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "t.jsonl").exists()


def test_a_file_of_something_else_is_left_alone(invoke, tmp_path: Path) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text('{"question": "?"}\n')
    result = invoke("collect", "-o", out, "-n", 1, "--problems", 1)
    assert result.exit_code == 2
    assert "not a results file" in result.stderr
    assert out.read_text() == '{"question": "?"}\n'


def test_what_was_refused_does_not_refuse_the_corrected_command(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path
) -> None:
    """The model can't take the first problems; the corrected ones go under other settings into the same file."""
    out = tmp_path / "t.jsonl"
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"question": "a " * 400, "answer": "1"}) + "\n")
    options = ["-m", tiny, "-n", 1, "--max-new-tokens", 5, "-o", out]
    refused = invoke("collect", "--source", long, *options)
    assert (refused.exit_code, "None of the problems can be run" in refused.stderr) == (2, True)
    assert not out.exists()
    mended = invoke("collect", "--source", problem_file, "--temperature", 0.5, *options)
    assert mended.exit_code == 0, mended.output
    assert len(places(out)) == 10


def test_an_output_that_is_deleted_is_noticed_and_put_back(
    invoke, tiny: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "t.jsonl"
    real = run._CollectRun._write
    written: list[Any] = []

    def write(self, *args) -> None:
        if len(written) == 3:
            shutil.rmtree(out.parent)
        real(self, *args)
        written.append(args)

    monkeypatch.setattr(run._CollectRun, "_write", write)
    result = invoke(*arguments(tiny, problem_file, out))
    assert (result.exit_code, "was removed while this run was writing to it" in result.stderr) == (2, True)
    assert len(places(out)) == 4
    monkeypatch.undo()
    assert invoke(*arguments(tiny, problem_file, out)).exit_code == 0
    assert len(places(out)) == 30


def test_outputs_that_are_no_files_are_refused_before_a_model_runs(invoke, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for out, kind in (
        ("/dev/full", "device"),
        ("/dev/null", "device"),
        (tmp_path / "pipe", "pipe"),
        (tmp_path, "directory"),
    ):
        for command in (["collect", "-o"], ["think", "--html"], ["solve", "--out"]):
            result = invoke(*command, out)
            assert (result.exit_code, f"{out} is a {kind}" in result.stderr) == (2, True), result.output


def test_a_file_with_a_byte_order_mark_is_read(invoke, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + problem_file.read_bytes())
    options = ["-m", tiny, "--max-new-tokens", 5, "--temperature", 0]
    for path in (problem_file, marked):
        assert invoke("collect", "--source", path, "-n", 1, "-o", f"{path}.out", *options).exit_code == 0
    plain, read = (places(Path(f"{path}.out")) for path in (problem_file, marked))
    assert {place: trace.text for place, trace in plain.items()} == {place: trace.text for place, trace in read.items()}
    first = [invoke("think", "--file", path, *options, "--json") for path in (problem_file, marked)]
    assert [json.loads(result.stdout)["question"] for result in first] == ["1 plus 6 ?"] * 2


def test_a_budget_that_all_problems_share(invoke: Any, tiny: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    given = [*arguments(tiny, problem_file, out, n=6), "--spend", "3x"]
    result = invoke(*given)
    assert result.exit_code == 0, result.output
    told = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert told["budget"].startswith("3 traces a problem: ")
    assert "vote" in told
    counts: dict[str, int] = {}
    for name, _ in places(out):
        counts[name] = counts.get(name, 0) + 1
    assert len(counts) == 10
    assert min(counts.values()) >= 2
    assert json.loads(invoke(*given, "--json").stdout)["new"] == 0
    for spend, says in (
        ("0.5x", "traces is 0.5; expected a number at least 1"),
        ("lots", "the budget 'lots' is neither"),
    ):
        refused = invoke(*given[:-1], spend)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert says in refused.stderr


def test_a_benchmark_is_collected_with_its_prompt_and_not_mixed_with_another(
    invoke: Any, tiny: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "t.jsonl", tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"question": f"{a} plus 6 ?", "answer": f"#### {a}"}) + "\n" for a in "123"))
    options = ["collect", "-m", tiny, "-n", 1, "--max-new-tokens", 5, "-o", out]
    result = invoke(*options, "--source", f"gsm8k:{path}")
    assert result.exit_code == 0, result.output
    assert "0.0% (95 % interval" in result.stdout
    header = json.loads(out.read_text().partition("\n")[0])["settings"]
    asked = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert (header["problems"], header["prompt"]) == ("gsm8k, test.jsonl", "{question}" + asked)
    assert {(r.problem, r.question, r.gold) for r in read_traces(out).records} == {
        (f"gsm8k-{i}", f"{i + 1} plus 6 ?{asked}", str(i + 1)) for i in range(3)
    }
    before = out.read_bytes()
    plain = invoke(*options, "--source", path)
    assert plain.exit_code == 2
    assert "problems was 'gsm8k, test.jsonl', now 'test.jsonl'; prompt was '{question}\\nPlease" in plain.stderr
    assert out.read_bytes() == before


def test_prompts_without_reference_answers_are_collected_and_not_scored(
    invoke: Any, tiny: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "t.jsonl", tmp_path / "ifeval.jsonl"
    records: list[dict[str, Any]] = [
        {"key": key, "prompt": f"say {key}", "instruction_id_list": ["a"], "kwargs": [{}]} for key in (7, 8)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ["collect", "-m", tiny, "--source", f"ifeval:{path}", "-n", 2, "--max-new-tokens", 5, "-o", out]
    result = invoke(*options, "--temperature", 1)
    assert result.exit_code == 0, result.output
    told = dict(line.split(maxsplit=1) for line in result.stdout.replace("equal pairs", "equal").splitlines())
    assert told["pass@1"] == told["cons@2"] == "none, without reference answers"
    assert {(r.problem, r.gold, r.correct) for r in read_traces(out).records} == {("7", "", False), ("8", "", False)}
    again = json.loads(invoke(*options, "--temperature", 1, "--json").stdout)
    assert (again["new"], again["pass_at_1"], again["cons_at_n"]) == (0, None, None)
    refused = invoke(*options, "--temperature", 1, "--spend", "3x")
    assert refused.exit_code == 2
    assert (
        "--spend goes by votes on answers, but the problem 7 asks for a text that no answer sums up" in refused.stderr
    )
    played = invoke("bench", "parallel", "--traces", out, "--n", 2, "-o", tmp_path / "out")
    assert played.exit_code == 2
    assert "the traces of problem 7" in played.stderr
    assert "have no reference answer" in played.stderr


def test_the_seed_orders_the_choices_and_the_sample_seed_does_not(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpqa.jsonl"
    wrong = {f"Incorrect Answer {i}": f"{i}" for i in (1, 2, 3)}
    records = [{"Question": f"q{n}", "Correct Answer": "7", "Record ID": f"r{n}", **wrong} for n in range(9)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = []
    for number, seeds in enumerate(([], ["--sample-seed", 5], ["--seed", 5])):
        out = tmp_path / f"{number}.jsonl"
        options = ["collect", "-m", tiny, "--source", f"gpqa-diamond:{path}", "-n", 1, "--max-new-tokens", 2, "-o", out]
        assert invoke(*options, *seeds).exit_code == 0
        found.append({record.problem: (record.question, record.gold) for record in read_traces(out).records})
    assert found[0] == found[1] != found[2]
