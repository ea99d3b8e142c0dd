"""A worker process is started, asked and stopped; whatever goes wrong in it comes back as one sentence. No vLLM here."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.lab.vllm import process as vllm_process
from laconic.lab.vllm.load import RequestLoad
from laconic.lab.vllm.process import Worker, WorkerFailed, check_installed, environment
from laconic.lab.vllm.worker import reason_of

HEAD = """
import json, os, signal, sys
first = json.loads(sys.stdin.readline())
def say(**what): print(json.dumps(what), flush=True)
"""
SERVES = """
say(ready={"threads": os.environ["OMP_NUM_THREADS"], "compresses": first["compresses"], "pid": os.getpid()})
for line in sys.stdin:
    order = json.loads(line)
    say(done={"repeat": order["repeat"], "output": order["load"]["output"]})
"""


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Let workers run this program instead, after reading their first order."""

    def become(program: str) -> None:
        path = tmp_path / "worker.py"
        path.write_text(HEAD + program)
        monkeypatch.setattr(vllm_process, "COMMAND", (sys.executable, str(path)))

    return become


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_answers_and_ends_with_its_context(pretend) -> None:
    pretend(SERVES)
    with Worker({}, RequestLoad(), compresses=True, threads=3) as worker:
        assert worker.about == {"threads": "3", "compresses": True, "pid": worker.about["pid"]}
        assert worker.run(RequestLoad(output=7), 2) == {"repeat": 2, "output": 7}
        assert worker.run(RequestLoad(output=8), 3) == {"repeat": 3, "output": 8}
        assert not gone(worker.about["pid"])
    assert gone(worker.about["pid"])
    worker.close()  # twice does nothing


@pytest.mark.parametrize(("kind", "refused"), [("refused", True), ("failed", False)])
def test_a_start_that_is_refused_or_fails_says_why(pretend, kind: str, refused: bool) -> None:
    pretend(f"say({kind}='there is no room')")
    with pytest.raises(WorkerFailed, match=r"^there is no room$") as error:
        Worker({}, RequestLoad(), compresses=False)
    assert error.value.refused is refused


def test_a_fault_of_ours_in_the_process_is_a_traceback_here(pretend) -> None:
    pretend("say(ready={}); sys.stdin.readline(); say(fault='Traceback: zip() argument 2 is shorter')")
    with (
        Worker({}, RequestLoad(), compresses=False) as worker,
        pytest.raises(RuntimeError, match=r"zip\(\) argument 2") as error,
    ):
        worker.run(RequestLoad(), 0)
    assert not isinstance(error.value, LaconicError)


def test_a_run_that_fails_leaves_the_worker_to_be_closed(pretend) -> None:
    pretend("say(ready={}); sys.stdin.readline(); say(failed='stuck'); sys.stdin.readline()")
    with Worker({}, RequestLoad(), compresses=False) as worker, pytest.raises(WorkerFailed, match=r"^stuck$"):
        worker.run(RequestLoad(), 0)


def test_a_process_that_dies_is_told_with_its_last_words(pretend) -> None:
    pretend("print('first', file=sys.stderr); print('ImportError: libfoo', file=sys.stderr); sys.exit(3)")
    with pytest.raises(WorkerFailed, match=r"^the engine's process ended \(exit code 3\): ImportError: libfoo$"):
        Worker({}, RequestLoad(), compresses=False)


def test_a_process_that_is_killed_is_told(pretend) -> None:
    pretend("say(ready={}); sys.stdin.readline(); os.kill(os.getpid(), signal.SIGKILL)")
    with (
        Worker({}, RequestLoad(), False) as worker,
        pytest.raises(WorkerFailed, match="SIGKILL, which is how the system ends one"),
    ):
        worker.run(RequestLoad(), 0)


def test_a_run_after_the_process_has_gone(pretend) -> None:
    pretend("say(ready={})")
    with Worker({}, RequestLoad(), False) as worker:
        worker._process.wait()
        with pytest.raises(WorkerFailed, match="ended"):
            worker.run(RequestLoad(), 0)


def test_a_process_that_does_not_end_is_made_to(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "PATIENCE", 0.2)
    pretend("import time; say(ready={'pid': os.getpid()}); time.sleep(600)")
    worker = Worker({}, RequestLoad(), compresses=False)
    start = time.monotonic()
    worker.close()
    assert gone(worker.about["pid"])
    assert time.monotonic() - start < 100


def test_the_environment_is_one_engine_a_process_without_ties_to_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("SOMETHING", "kept")
    found = environment(2)
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["SOMETHING"] == "kept"


def test_a_missing_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaconicError, match=r"vLLM is not installed beside laconic; install laconic-llm\[vllm\]"):
        check_installed()


def test_reasons_of_errors_are_one_line_without_frames_and_advice() -> None:
    pydantic = (
        "1 validation error for ModelConfig\n  Value error, max_model_len (9) is greater\nthan 8. [type=value_error, x]\n"
        "    For further information visit https://example.org"
    )
    assert reason_of(ValueError(pydantic)) == "max_model_len (9) is greater than 8."
    assert reason_of(ValueError("Too small (1). Try increasing `x` or else. See y.")) == "Too small (1)."
    assert reason_of(RuntimeError("first\nline\n\nand a long trace")) == "first line"
    assert reason_of(KeyError()) == "KeyError"
