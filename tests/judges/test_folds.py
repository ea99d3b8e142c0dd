"""Encoders trained crosswise: which of them judges what, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laconic.errors import InputError
from laconic.judges.encoder import PairEncoder
from laconic.judges.folds import CrossTrainedEncoder, open_encoder, question_digest, write_folds
from laconic.prune.judge import judge_pairs

from .test_encoder import excerpt, plain

A = [replace(excerpt(f"a{i}", 7, 8, i, 1, 2), question="first ?") for i in range(3)]
B = [replace(excerpt(f"b{i}", 9, i, 8, 1, 2), question="second ?") for i in range(3)]
NEW = [replace(excerpt(f"n{i}", 5, i, 8, 1, 2), question="new ?") for i in range(2)]


def crossed() -> CrossTrainedEncoder:
    return CrossTrainedEncoder(
        [plain(seed=1), plain(seed=2)], {question_digest("first ?"): 0, question_digest("second ?"): 1}
    )


def test_each_problem_is_judged_by_the_encoder_of_its_fold() -> None:
    pairs = [(A[0], A[1]), (B[0], B[1]), (A[1], A[2]), (NEW[0], NEW[1]), (B[1], B[2])]
    told = judge_pairs(crossed(), pairs)
    first, second = (judge_pairs(plain(seed=seed), pairs) for seed in (1, 2))
    assert told == pytest.approx([first[0], second[1], first[2], first[3], second[4]])
    assert told[1] != pytest.approx(first[1])


def test_a_matrix_is_that_of_the_fold_and_counts_once() -> None:
    judge, alone = crossed(), plain(seed=2)
    matrix = judge.matrix(judge.read(B))
    torch.testing.assert_close(matrix, alone.matrix(alone.read(B)))
    assert (judge.cost.excerpts, judge.cost.pairs, judge.cost.tokens) == (3, 3, 0)
    assert judge.needs() == alone.needs()
    assert judge.excerpt == alone.excerpt


def test_excerpts_of_two_folds_are_not_compared() -> None:
    judge = crossed()
    readings = judge.read([A[0], B[0]])
    with pytest.raises(InputError, match="in different folds; expected those of one problem"):
        judge.compare([(readings[0], readings[1])])


def test_a_directory_of_folds_is_opened_as_one_judge(tmp_path: Path) -> None:
    judge = crossed()
    for number, encoder in enumerate(judge.encoders, 1):
        encoder.save(tmp_path / f"fold-{number}")
    write_folds(tmp_path, {"fold-1": ["first ?", "first ?"], "fold-2": ["second ?"]})
    again = open_encoder(tmp_path, model=None, tokenizer=None, device="cpu")
    assert isinstance(again, CrossTrainedEncoder)
    assert again.fold_of == judge.fold_of
    assert again.identity() == judge.identity()
    pairs = [(A[0], A[1]), (B[0], B[1])]
    assert judge_pairs(again, pairs) == judge_pairs(judge, pairs)
    assert isinstance(open_encoder(tmp_path / "fold-1", model=None, tokenizer=None, device="cpu"), PairEncoder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "expected laconic.judge-folds/1, a list of folds"),
        (json.dumps({"format": "other"}), "has the format 'other'"),
        (json.dumps({"format": "laconic.judge-folds/1"}), r"is broken \(KeyError\)"),
        (json.dumps({"format": "laconic.judge-folds/1", "folds": [1]}), r"is broken \(TypeError\)"),
        (json.dumps({"format": "laconic.judge-folds/1", "folds": []}), "expected one kind"),
        (
            json.dumps({"format": "laconic.judge-folds/1", "folds": [{"directory": "gone", "questions": []}]}),
            "there is no judge at",
        ),
    ],
)
def test_a_broken_list_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(InputError, match=says):
        open_encoder(tmp_path, model=None, tokenizer=None, device="cpu")


def test_folds_without_an_encoder_are_refused() -> None:
    with pytest.raises(InputError, match="in a fold that has no encoder; expected 0 to 0"):
        CrossTrainedEncoder([plain()], {"x": 1})
