"""``python -m laconic.lab.lm_eval``: what is handed over to lm-eval's command line, and what is said where there is none."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from laconic.errors import EngineError
from laconic.lab.harness import start
from laconic.lab.lm_eval import command


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("run --tasks gsm8k", "run --model laconic --tasks gsm8k"),
        ("--tasks gsm8k", "run --model laconic --tasks gsm8k"),
        ("run --model_args pretrained=m --tasks gsm8k", "run --model laconic --model_args pretrained=m --tasks gsm8k"),
        ("run --model laconic --tasks gsm8k", "run --model laconic --tasks gsm8k"),
        ("run --model=hf --tasks gsm8k", "run --model=hf --tasks gsm8k"),
        ("-M hf -t gsm8k", "-M hf -t gsm8k"),
        ("run --config file.yaml", "run --config file.yaml"),
        ("run --help", "run --help"),
        ("run", "run"),
        ("ls tasks", "ls tasks"),
        ("validate --tasks gsm8k", "validate --tasks gsm8k"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_a_run_that_names_no_model_is_one_of_laconics(given: str, told: str) -> None:
    assert command.arguments_for(given.split()) == told.split()


def test_lm_eval_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--tasks", "gsm8k"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: lm-eval is not installed; install it with: pip install 'laconic-llm[eval]'\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (EngineError("the engine has died"), 2, "error: the engine has died\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(3), 3, ""),
        (None, 0, ""),
    ],
)
def test_how_a_run_ends(raised: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> Any:
        if raised is not None:
            raise raised

    with pytest.raises(SystemExit) as end:
        start.run_harness(call)
    assert end.value.code == code
    assert capsys.readouterr().err == said


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        start.run_harness(lambda: 1 / 0)
