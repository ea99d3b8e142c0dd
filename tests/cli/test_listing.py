"""`laconic strategies` and `laconic judges`: every one with its settings, in any width, whole in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.prune.scripted import TableJudge

from laconic.judges.registry import known, open_judge, settings
from laconic.prune.strategies.registry import listings, parse


def test_every_strategy_with_its_settings_and_paper(invoke: Any) -> None:
    out = invoke("strategies", env={"COLUMNS": "300"}).stdout
    for about in listings():
        assert f"{', '.join(about.forms)}  {about.summary} ({about.source})\n" in out
        for setting in about.settings:
            assert f"= {setting.default} " in out
            assert f"{setting.meaning} ({setting.type})\n" in out
    assert out.endswith("such as deepprune:K2=4.\n")
    assert parse("deepprune:K2=4", 8, TableJudge(lambda a, b: 1.0)).K2 == 4  # type: ignore[attr-defined]


def test_every_judge_with_its_settings(invoke: Any) -> None:
    out = invoke("judges", env={"COLUMNS": "300"}).stdout
    for name, judge in known().items():
        assert f"{judge.form}  {judge.meaning}{f' ({judge.source})' if judge.source else ''}\n" in out
        for setting in settings(name):
            assert f"{setting.meaning} ({setting.type})\n" in out
    assert "such as random:p=0.3,seed=1.\n" in out
    assert open_judge("random:p=0.3,seed=1").p == 0.3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "said"), [("random", {"p": "0.5", "seed": "0"}), ("probe", {"suffix": "none", "steps": "2"})]
)
def test_a_judges_settings_are_those_of_its_class(name: str, said: dict[str, str]) -> None:
    assert {setting.field: setting.default for setting in settings(name)} == said
    typed = ",".join(f"{field}={default}" for field, default in said.items() if default != "none")
    assert open_judge(f"{name}:{typed}").name == name


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        (
            "strategies",
            "deeprune",
            "strategy 'deeprune' is unknown; expected one of self-consistency, priced-vote, ",
        ),
        ("judges", "jacard", "judge 'jacard' is unknown; expected one of bundled, encoder, "),
    ],
)
def test_an_unknown_name_is_refused(invoke: Any, command: str, name: str, said: str) -> None:
    result = invoke(command, name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize("command", ["policies", "strategies", "judges"])
def test_a_narrow_terminal_cuts_nothing_and_a_pipe_wraps_nothing(invoke: Any, command: str) -> None:
    narrow, wide = invoke(command, env={"COLUMNS": "60"}).stdout, invoke(command).stdout
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.split() != []
    assert sorted("".join(narrow.split())) == sorted("".join(wide.split()))  # every character of it
    assert all(line == line.rstrip() for line in narrow.splitlines())
    listing = json.loads(invoke(command, "--json").stdout)
    for entry in listing:
        assert any(
            line.endswith(f"{entry['summary']} ({entry['source']})" if entry["source"] else entry["summary"])
            for line in wide.splitlines()
        )


@pytest.mark.parametrize("command", ["policies", "judges"])
def test_a_reader_that_goes_away_is_no_error(command: str) -> None:
    script = f"{sys.executable} -m laconic {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
