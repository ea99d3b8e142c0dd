from __future__ import annotations

import json
from typing import Any

import pytest

from laconic.compress import known, registry, settings_of


def test_the_listing_names_every_policy_and_setting(invoke: Any) -> None:
    result = invoke("policies", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name, cls in known().items():
        source = f" ({cls.source})" if cls.source else ""
        assert f"{name}  {cls.summary}{source}\n" in result.stdout
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


def test_one_of_them(invoke: Any) -> None:
    listing = json.loads(invoke("policies", "RPC", "--json").stdout)
    assert [(entry["name"], entry["forms"], entry["source"]) for entry in listing] == [
        ("rpc", ["rpc"], "arXiv 2505.13866")
    ]
    result = invoke("policies", "rcp")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: policy 'rcp' is unknown; expected one of full, rpc, ")
