from __future__ import annotations

import json
from typing import Any

import pytest

from laconic.compress import known, registry, settings_of


def test_the_listing_names_every_policy_and_setting(invoke: Any) -> None:
    result = invoke("policies", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name, cls in known().items():
        assert f"{name}  {cls.summary}" in result.stdout
        for setting in settings_of(name):
            assert f"{setting.meaning} ({setting.type})" in result.stdout


def test_json(invoke: Any) -> None:
    listing = {entry["name"]: entry for entry in json.loads(invoke("policies", "--json").stdout)}
    assert set(listing) == set(known())
    interval = next(s for s in listing["rpc"]["settings"] if s["field"] == "interval")
    assert (interval["type"], interval["default"]) == ("int", "4096")


def test_a_broken_third_party_policy_is_told_beside_the_listing(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_third_parties", lambda: ({}, {"theirs": "policy theirs can't be used: no reason"}))
    result = invoke("policies", "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: policy theirs can't be used: no reason\n"
    assert json.loads(result.stdout)
