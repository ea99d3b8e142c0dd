"""Where the reason of vLLM's failure comes from, and that its output stays out of ours. Needs no vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from laconic.engines.vllm.engine import quiet

LOG = """(EngineCore pid=11) INFO 11-22 05:40:50 [core.py:133] Initializing
(EngineCore pid=11) ERROR 11-22 05:40:51 [core.py:1500] Traceback (most recent call last):
(EngineCore pid=11) ERROR 11-22 05:40:51 [core.py:1500] ValueError: To serve at least one request 1.00 GiB is needed.
(EngineCore pid=11) ERROR 11-22 05:40:52 [core.py:1500] RuntimeError: Engine core initialization failed. See root cause above.
(EngineCore pid=11) INFO 11-22 05:40:52 [core.py:1] bye
"""
POINTER = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


class Model(BaseModel):
    dtype: int = 0

    @field_validator("dtype")
    @classmethod
    def small(cls, value: int) -> int:
        if value > 5:
            raise ValueError("too large")
        return value


def invalid(value: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Model(dtype=value)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("error", "log", "want"),
    [
        (ValueError("no such\n  thing."), LOG, "no such thing"),
        (POINTER, LOG, "To serve at least one request 1.00 GiB is needed"),
        (POINTER, "nothing of use", str(POINTER)),
        (RuntimeError("it broke, see stack trace (above)"), LOG, "To serve at least one request 1.00 GiB is needed"),
        (KeyError(), "", "KeyError"),
    ],
)
def test_the_reason_is_the_errors_own_or_the_latest_in_the_log(error: Exception, log: str, want: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(log.encode())
        assert quiet.reason(error, file) == want


def test_the_reason_of_a_refused_setting_names_it() -> None:
    with tempfile.TemporaryFile() as file:
        assert quiet.reason(invalid("x"), file).startswith("dtype: Input should be a valid integer")
        assert quiet.reason(invalid(9), file) == "dtype: Value error, too large"


def test_only_the_logs_end_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_MOST", 20)
    with tempfile.TemporaryFile() as file:
        file.write(LOG.encode() + b"\nno error here, and more than twenty characters")
        assert quiet.last_error(file) == ""


SCRIPT = """
import subprocess, sys, tempfile
from laconic.engines.vllm.engine import quiet
with tempfile.TemporaryFile() as log:
    print("before")
    with quiet.output_into(log):
        print("hidden")
        print("hidden too", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    print("after")
    log.seek(0)
    print(sorted(log.read().decode().split()))
"""


def test_output_goes_to_the_log_also_that_of_processes_and_comes_back() -> None:
    """In a process of its own: pytest replaces stdout."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n['a', 'child', 'hidden', 'hidden', 'too']\n"
    assert done.stderr == ""


def test_the_users_environment_wins_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    before = dict(os.environ)
    with quiet.environment(eager=True):
        assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stdout"
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert os.environ["TORCH_COMPILE_DISABLE"] == "1"
        os.environ["VLLM_ITSELF"] = "1"
    assert dict(os.environ) == before
    with quiet.environment(eager=False):
        assert "TORCH_COMPILE_DISABLE" not in os.environ
