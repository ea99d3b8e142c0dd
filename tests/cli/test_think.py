from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.messages import size
from laconic.compress import RPC, FullKV
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, batch, load

RPC_OPTIONS = ("--interval", 16, "--ratio", 4, "--window", 8)


def alone(tiny: Path, policy: Any, **sampling: Any) -> tuple[HFEngine, Any, str]:
    """The same trace straight from the engine."""
    model, tokenizer = load(tiny)
    engine = HFEngine(model, tokenizer, policy=policy, record_held=True)
    prompt = engine.render("c d e")
    trace_id = engine.submit(prompt, Sampling(max_new_tokens=60, **sampling))[0]
    for _ in engine.stream():
        pass
    return engine, engine.trace(trace_id), prompt


def test_streams_the_text_and_sums_up_on_stderr(invoke: Any, tiny: Path) -> None:
    result = invoke("think", "c d e", "--model", tiny, *RPC_OPTIONS, "--temperature", 0)
    assert result.exit_code == 0, result.stderr
    _, trace, _ = alone(tiny, RPC(interval=16, window=8), temperature=0)
    assert result.stdout == trace.text + "\n"
    # Compressed at 24, 40 and 56 of 59 computed tokens, 12 evicted each time.
    assert "compressions: 3; evicted: 36 tokens" in result.stderr
    assert "tokens: 5 prompt + 60 generated" in result.stderr
    assert "KV held at the end: 28 of 64 tokens (44%)" in result.stderr
    assert result.stderr.startswith("problem: c d e\n")
    assert result.stderr.count("\n") == 2


def test_a_selector_that_is_not_there_is_told_before_the_model_is_loaded(invoke: Any) -> None:
    result = invoke(
        "think", "c d e", "--model", "./no/such/model", "--policy", "learned:no/such/file,interval=16,window=8"
    )
    assert result.exit_code == 2
    assert result.stderr == "error: there is no selector file no/such/file; expected one that laconic learn wrote\n"


def test_json_has_the_engines_figures(invoke: Any, tiny: Path) -> None:
    options = ("--temperature", 0.9, "--top-p", 1, "--seed", 5)
    result = invoke("think", "c d e", "-m", tiny, *RPC_OPTIONS, *options, "--json")
    out = json.loads(result.stdout)
    engine, trace, _ = alone(tiny, RPC(interval=16, window=8), temperature=0.9, top_p=1.0, seed=5)
    stats = engine.stats
    assert out["text"] == trace.text
    assert out["policy"] == "rpc:interval=16,ratio=4,window=8"
    assert (out["compressions"], out["evicted"]) == (stats.compressions, stats.evicted)
    assert (out["peak"], out["mean"]) == (trace.peak_kv_tokens, trace.mean_kv_tokens)
    assert out["bytes_peak"] == stats.peak_kv_bytes
    # 3 layers x 2 KV heads x 8 wide x keys and values x 4 bytes
    assert out["bytes_held"] == out["held"] * 3 * 2 * 8 * 2 * 4
    assert out["bytes_full"] == out["logical"] * 3 * 2 * 8 * 2 * 4
    assert out["generated_tokens"] == len(trace.token_ids)
    assert out["finish_reason"] == trace.finish_reason
    assert (out["expected"], out["right"]) == (None, None)


def test_full_kv_holds_everything(invoke: Any, tiny: Path) -> None:
    out = json.loads(invoke("think", "c d e", "-m", tiny, "-p", "full", "--json", "--temperature", 0).stdout)
    _, trace, _ = alone(tiny, FullKV(), temperature=0)
    assert out["text"] == trace.text
    assert (out["held"], out["compressions"], out["evicted"]) == (out["logical"], 0, 0)


def test_max_new_tokens_of_the_model_and_of_the_option(invoke: Any, tiny: Path) -> None:
    for option, count in (((), 60), (("--max-new-tokens", 9), 9)):
        out = json.loads(invoke("think", "c d e", "-m", tiny, "--json", "--temperature", 0, *option).stdout)
        assert out["generated_tokens"] == count
        assert out["finish_reason"] == "length"


def test_a_file_with_an_answer_is_checked(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "c d e", "answer": "7"}\n')
    out = json.loads(invoke("think", "--file", path, "-m", tiny, "--json", "--temperature", 0).stdout)
    assert (out["expected"], out["answer"], out["right"]) == ("7", None, False)
    result = invoke("think", "--file", "-", "-m", tiny, "--temperature", 0, input="c d e\n")
    assert result.stdout == out["text"] + "\n"


def test_the_bundled_problem_by_seed_is_a_held_out_one(
    invoke: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laconic.problems import generate

    problem = generate(1, seed=4, level=2)[0]
    options = ("--bundled", 4, "--level", 2, "-m", tiny, "--json", "--temperature", 0, "--max-new-tokens", 4)
    out = json.loads(invoke("think", *options).stdout)
    assert (out["question"], out["expected"]) == (problem.question, problem.answer)


def test_the_page_shows_what_the_engine_held(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "trace.html"
    result = invoke("think", "c d e", "-m", tiny, *RPC_OPTIONS, "--temperature", 0, "--html", path)
    assert result.exit_code == 0, result.stderr
    assert f"wrote {path}" in result.stderr
    text = path.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    engine, trace, _ = alone(tiny, RPC(interval=16, window=8), temperature=0)
    held = engine.held(trace.id).sum(dim=1).T.tolist()
    assert [data["patterns"][k] for k in data["of"]] == held
    assert data["compressions"] == engine.compression_points(trace.id) == [24, 40, 56]
    assert data["kv"][-1] == 28
    assert data["layers"] == [0, 1, 2]


def test_bad_input_is_one_sentence(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"no weights")
    cases: list[tuple[list[Any], str]] = [
        (["c", "-m", tmp_path / "nowhere"], "there is no model at"),
        (["c", "-m", tmp_path], "is not a model directory"),
        (["c", "-m", broken], "weights of"),
        (["-m", tiny], "there is no problem"),
        (["  ", "-m", tiny], "the problem is empty"),
        (["c", "--bundled", 1, "-m", tiny], "PROBLEM and --bundled each name a problem"),
        (["--file", tmp_path / "none.txt", "-m", tiny], "No such file or directory"),
        (["--file", tmp_path, "-m", tiny], "Is a directory"),
        (["--file", empty, "-m", tiny], "is empty"),
        (["c " * 300, "-m", tiny], "the model's context is 256"),
        (["c", "-m", tiny, "-p", "nonsense"], "policy 'nonsense' is unknown"),
        (["c", "-m", tiny, "--ratio", 0.5], "ratio is 0.5"),
        (["c", "-m", tiny, "--interval", 8, "--window", 16], "interval is 8, smaller than window 16"),
        (["c", "-m", tiny, "--interval", 18, "--window", 4], "use interval 16 or 20"),
        (["c", "-m", tiny, "-p", "rpc:kernel=4"], "kernel is 4"),
        (["c", "-m", tiny, "--budget", 9], "setting 'budget' of policy rpc is unknown"),
        (["c", "-m", tiny, "--temperature", -1], "temperature is -1"),
        (["c", "-m", tiny, "--max-new-tokens", 0], "max_new_tokens is 0"),
        (["c", "-m", tiny, "--dtype", "int3"], "dtype is 'int3'"),
        (["c", "-m", tiny, "--device", "abacus"], "device 'abacus' can't be used here"),
        (["c", "-m", tiny, "--html", tmp_path], "is a directory"),
        (["c", "-m", tiny, "--html", empty / "x.html"], "can't be made a directory, as a file is in the way"),
        (["what is 2+2?"], "only reads the notation that `laconic problems` prints"),
    ]
    for args, said in cases:
        result = invoke("think", *args)
        assert result.exit_code == 2, (args, result.output, result.exception)
        assert result.stdout == "", args
        assert said in result.stderr, (args, result.stderr)
        assert result.stderr.startswith("error: "), args
        assert result.stderr.count("\n") == 1, (args, result.stderr)


def test_a_page_that_could_not_be_written_is_refused_before_the_work(
    invoke: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = invoke("think", "c", "-m", tiny, "--html", tmp_path / "x.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "can't be written" in result.stderr


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_the_trace_where_it_is(
    invoke: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    draw_next, steps = batch.draw_next, []

    def pressed(entries: Any, logits: Any, policy: Any) -> Any:
        steps.append(len(entries))
        if len(steps) == 30:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return draw_next(entries, logits, policy)

    monkeypatch.setattr(batch, "draw_next", pressed)
    before = signal.getsignal(signal.SIGINT)
    page = tmp_path / "x.html"
    result = invoke("think", "c d e", "-m", tiny, *RPC_OPTIONS, "--temperature", 0, "--html", page)
    assert result.exit_code == 130, (result.output, result.exception)
    assert signal.getsignal(signal.SIGINT) is before
    last = result.stderr.splitlines()[-1]
    if presses == 2:  # in the middle of the step: nothing is whole
        assert last == "interrupted; nothing is kept; the same command begins anew"
        return
    assert last.startswith("interrupted after 30 tokens; the trace so far is in ")
    assert last.endswith("the same command begins anew and draws the same tokens")
    assert "no final answer (interrupted)" in result.stderr
    _, whole, _ = alone(tiny, RPC(interval=16, window=8), temperature=0)
    assert whole.text.startswith(result.stdout.rstrip("\n"))
    data = json.loads(page.read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0])
    assert len(data["of"]) == 30
    monkeypatch.undo()


def test_size() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 5 << 20, 3 << 30, 5 << 40)] == [
        "0 B", "1,023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB", "5,120.0 GiB",
    ]  # fmt: skip
