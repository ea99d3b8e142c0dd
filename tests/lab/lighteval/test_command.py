"""``python -m laconic.lab.lighteval``: what is handed over to lighteval's command line."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from laconic.errors import InputError
from laconic.lab.lighteval import command


def test_the_model_the_file_and_the_rest() -> None:
    given = ["org/name,policy=rpc:ratio=8", "aime24", "--max-samples", "3"]
    assert command.arguments_for(given) == ["custom", given[0], str(command.MODEL_FILE), *given[1:]]
    assert command.MODEL_FILE.is_file()
    assert command.arguments_for(["--help"]) == command.arguments_for([]) == ["custom", "--help"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--max-samples", "3"], "--max-samples stands where the model is named; expected NAME,key=value"),
        (["m,interval=3", "aime24"], "model argument 'interval' is unknown"),
        (["m,n=3", "aime24"], "n is 3, and there is no strategy that it is for"),
    ],
)
def test_what_is_wrong_is_said_before_lighteval_starts(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command.arguments_for(given)


def test_lighteval_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["lighteval", "bundled", "aime24"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: lighteval is not installed; install it with: ")
    assert said.count("\n") == 1
