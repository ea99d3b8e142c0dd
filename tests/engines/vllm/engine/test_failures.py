"""Where the reason of vLLM's failure comes from, and of which kind it is. Needs no vLLM."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from laconic import errors
from laconic.engines.vllm.engine import failures
from laconic.errors import EngineError, InputError, LaconicError

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
        assert failures.failure_reason(error, file) == want


def test_the_reason_of_a_refused_setting_names_it() -> None:
    with tempfile.TemporaryFile() as file:
        assert failures.failure_reason(invalid("x"), file).startswith("dtype: Input should be a valid integer")
        assert failures.failure_reason(invalid(9), file) == "dtype: Value error, too large"


def test_only_the_logs_end_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_SEARCHED", 20)
    with tempfile.TemporaryFile() as file:
        file.write(LOG.encode() + b"\nno error here, and more than twenty characters")
        assert failures.last_logged_error(file) is None


HERE = str(Path(errors.__file__).parent / "engines" / "vllm" / "plugin" / "scheduler.py")


def logged(kind: str, file: str = "/somewhere/vllm/v1/engine/core.py") -> str:
    lines = ["Traceback (most recent call last):", f'  File "{file}", line 7, in schedule', f"{kind}: it is so"]
    return "".join(f"(EngineCore pid=11) ERROR 11-22 05:40:51 [core.py:1500] {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("error", "log", "kind"),
    [
        (ValueError("no such thing"), "", InputError),
        (OSError("no such file"), "", InputError),
        (invalid(9), "", InputError),
        (RuntimeError("CUDA error: an illegal memory access"), "", EngineError),
        (AssertionError(), "", EngineError),
        (POINTER, logged("ValueError"), InputError),
        (POINTER, logged("torch.OutOfMemoryError"), InputError),
        (POINTER, logged("RuntimeError"), EngineError),
        (POINTER, "killed without a word", EngineError),
        # In vLLM's processes our sentences are the user's to mend; a fault of ours is not.
        (POINTER, logged("laconic.errors.InputError", HERE), InputError),
        (POINTER, logged("ValueError", HERE), EngineError),
    ],
)
def test_what_was_refused_can_be_mended_and_what_died_can_not(
    error: Exception, log: str, kind: type[LaconicError]
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(log.encode())
        said = failures.start_error(error, file, "some/model")
    assert type(said) is kind
    assert str(said).startswith("vLLM can't run some/model: ")


def raised(file: str, error: str) -> Exception:
    """An error that a function in such a file raises."""
    space: dict[str, Any] = {}
    exec(compile(f"def play():\n    {error}", file, "exec"), space)
    with pytest.raises(Exception) as found:  # noqa: PT011 - of any kind
        space["play"]()
    return found.value


class VLLMValidationError(Exception):
    """As vLLM's, by which our hook in the front end refuses a request."""


VLLMValidationError.__module__ = "vllm.exceptions"


def test_a_fault_of_ours_stays_what_it_is() -> None:
    shorter = "list(zip([1], [], strict=True))"
    ours, theirs = raised(HERE, shorter), raised("/somewhere/vllm/v1/core/sched/scheduler.py", shorter)
    assert (failures.is_fault(ours), failures.is_fault(theirs)) == (True, False)
    with tempfile.TemporaryFile() as file:
        assert failures.start_error(ours, file, "some/model") is None
        assert isinstance(failures.start_error(theirs, file, "some/model"), InputError)
        assert failures.start_error(InputError("say it so"), file, "some/model") is None


def test_a_refusal_by_our_hooks_is_no_fault() -> None:
    assert not failures.is_fault(raised(HERE, "from laconic.errors import InputError; raise InputError('no')"))
    refusal = "from tests.engines.vllm.engine.test_failures import VLLMValidationError; raise VLLMValidationError('no')"
    assert not failures.is_fault(raised(HERE, refusal))
    assert failures.is_fault(raised(HERE, "raise RuntimeError('beyond a compression that nobody did')"))
