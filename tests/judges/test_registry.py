"""Judges by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.judges.registry import known, open_judge, place_of
from laconic.prune.judge import Excerpt, judge_pairs


def excerpt(name: str, *ids: int) -> Excerpt:
    return Excerpt(name, "tokens:3", "q", (1,), ids, " ".join(map(str, ids)))


A, B = excerpt("a", 1, 2, 3), excerpt("b", 1, 2, 4)


@pytest.mark.parametrize(
    "spec", ["jaccard", "jaccard:ngram=2", "facts", "facts:decay=0.5", "random:p=0.3,seed=4", " Random "]
)
def test_a_judge_from_text_judges(spec: str) -> None:
    judge = open_judge(spec)
    (found,) = judge_pairs(judge, [(A, B)])
    assert 0 <= found <= 1
    assert judge.name in spec.lower()
    assert judge.cost.pairs == 1


def test_settings_reach_the_judge() -> None:
    assert judge_pairs(open_judge("jaccard"), [(A, B)]) == [0.5]
    assert judge_pairs(open_judge("jaccard:ngram=2"), [(A, B)]) == [pytest.approx(1 / 3)]
    assert open_judge("probe:steps=3,suffix= so ").steps == 3  # type: ignore[attr-defined]


def test_the_perfect_judge_needs_answers() -> None:
    judge = open_judge("perfect", answers={"a": "1", "b": "1.0"})
    assert judge_pairs(judge, [(A, B)]) == [1.0]
    for spec in ("perfect", "simulated:auroc=0.9"):
        with pytest.raises(LaconicError, match="needs the answers of finished traces"):
            open_judge(spec)
    simulated = open_judge("simulated:auroc=0.9,shared=0.5,seed=2", answers={"a": "1", "b": "1.0"})
    assert (simulated.auroc, simulated.shared, simulated.seed) == (0.9, 0.5, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", known())
def test_every_known_name_is_dealt_with(name: str) -> None:
    # Each is either made, or refused for what it lacks, never for its name.
    try:
        assert open_judge(name).name
    except LaconicError as error:
        said = str(error)
    else:
        return
    assert "unknown" not in said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "oracle",
            r"judge 'oracle' is unknown; expected one of bundled, encoder:DIRECTORY, llm:NAME_OR_DIRECTORY, probe",
        ),
        ("", "judge '' is unknown"),
        ("encoder", "write encoder:DIRECTORY"),
        ("llm:", "write llm:NAME"),
        ("encoder:/no/such/place", "no judge at /no/such/place"),
        ("random:q=1", "setting 'q' of judge random is unknown; its settings: p, seed"),
        ("random:p", "has no value"),
        ("random:p=1,p=0", "p is given twice"),
        ("random:p=x", "p of judge random is 'x'; expected a number"),
        ("random:seed=1.5", "seed of judge random is '1.5'; expected a whole number"),
        ("perfect:x=1", "its settings: none"),
        ("simulated:answers=1", "its settings: auroc, shared, seed"),
        ("bundled:x=1", "its settings: none"),
    ],
)
def test_bad_specs_are_refused(spec: str, said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        open_judge(spec)


def test_importing_it_loads_no_model_library() -> None:
    code = "import sys, laconic.judges.registry; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_record_of_a_described_judge_is_its_bases(tmp_path: Path) -> None:
    """What the base was trained on must not be what the judge is scored on."""
    (tmp_path / "mine.json").write_text(json.dumps({"base": str(tmp_path / "base"), "settings": {"same": "A"}}))
    assert place_of(f"llm:{tmp_path / 'mine.json'}") == tmp_path / "base"
    (tmp_path / "served.json").write_text(json.dumps({"base": "openai:http://127.0.0.1:1#m"}))
    assert place_of(f"llm:{tmp_path / 'served.json'}") is None
