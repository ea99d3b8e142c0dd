"""The files beside the sources say what is true: citation, templates, workflow, model cards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

import laconic

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "laconic" / "assets"
CARDS = sorted(ASSETS.glob("*/MODEL_CARD.md"))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_names_this_version_and_both_papers() -> None:
    cited = read("CITATION.cff")
    assert cited["version"] == laconic.__version__
    assert {entry["url"].rpartition("/")[2] for entry in cited["references"]} == {"2505.13866", "2510.08483"}
    assert all(len(entry["authors"]) >= 4 for entry in cited["references"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form)
    assert {field["type"] for field in form["body"]} <= {"textarea", "input"}
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_workflow_runs_what_everybody_runs() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


@pytest.mark.parametrize(
    "folder", sorted(path for path in ASSETS.iterdir() if path.is_dir() and path.name != "__pycache__")
)
def test_every_bundled_file_has_a_card(folder: Path) -> None:
    assert folder / "MODEL_CARD.md" in CARDS


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_name_licence_limits_and_files_that_exist(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "\n## Limits\n" in text
    named = re.findall(r"`((?:benchmarks|training)/[\w./-]+)`", text)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_selectors_card_says_what_its_file_says() -> None:
    (path,) = (ASSETS / "selectors").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["laconic"])["recipe"]
    text = (ASSETS / "selectors" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert path.name in text
    assert f"{recipe['tokens']:,} tokens of {recipe['traces']['learned']} traces" in text
    names = {
        "hindsight": "hindsight (a ceiling)",
        "learned": "learned",
        "random": "random tokens",
        "rkv": "R-KV",
        "rpc": "RPC",
    }
    for name, kl in recipe["check"]["kl"].items():
        assert f"| {names[name]} | {kl['mean']:.4f} [{kl['low']:.4f}, {kl['high']:.4f}] |" in text
    for name, less in recipe["check"]["differences"].items():
        assert f"| {less['mean']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}] |" in text, name
