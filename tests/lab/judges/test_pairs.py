"""Pairs: which there are, what they are labelled, and that no problem is in two parts of a split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from laconic.errors import LaconicError
from laconic.lab.judges.pairs import Pairs, make_pairs, oversampled_indices, split_problems
from laconic.traces import TraceRecord

Make = Callable[..., TraceRecord]


class Words:
    """A tokenizer whose tokens are numbers."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return " ".join(map(str, ids))


def some(make_record: Make) -> list[TraceRecord]:
    answers: dict[str, list[str | None]] = {
        "p": ["1", "1.0", None, "2", None],
        "q": ["x", "x"],
        "lonely": ["3"],
    }
    records = [
        make_record(problem, i, answer, tokens=range(10 * i, 10 * i + 6))
        for problem, row in answers.items()
        for i, answer in enumerate(row)
    ]
    return records[::-1]  # the order of a file that was written as traces ended


def test_every_pair_of_a_problem_with_its_label(make_record: Make) -> None:
    pairs = make_pairs(some(make_record), "tokens:3", Words())
    told = {
        (pairs.excerpts[a].trace_id, pairs.excerpts[b].trace_id): bool(y)
        for a, b, y in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.same, strict=True)
    }
    want = {(f"p#{a}", f"p#{b}"): (a, b) == (0, 1) for a, b in combinations(range(5), 2)} | {("q#0", "q#1"): True}
    assert told == want
    assert [pairs.problems[i] for i in pairs.problem.tolist()] == ["q"] + ["p"] * 10
    assert dict(zip([e.trace_id for e in pairs.excerpts], pairs.answers, strict=True))["p#3"] == "2"


def test_excerpts_are_cut_from_the_recorded_tokens(make_record: Make) -> None:
    records = [make_record("p", 0, "1", tokens=range(9)), make_record("p", 1, "1", tokens=(3, 4))]
    long, short = make_pairs(records, "tokens:4", Words()).excerpts
    assert (long.kind, long.token_ids, long.text, long.complete) == ("tokens:4", (0, 1, 2, 3), "0 1 2 3", False)
    assert long.question == "what is p ?"
    assert long.prompt_ids == (1, 2, 3)
    assert (short.token_ids, short.complete) == ((3, 4), True)


def test_a_part_has_only_the_excerpts_it_needs(make_record: Make) -> None:
    pairs = make_pairs(some(make_record), "tokens:3", Words())
    part = pairs.of_problems(["q", "no such problem"])
    assert [e.trace_id for e in part.excerpts] == ["q#0", "q#1"]
    assert part.same.tolist() == [True]
    again = pairs.take(torch.tensor([3, 3, 0]))
    assert [
        (again.excerpts[a].trace_id, again.excerpts[b].trace_id)
        for a, b in zip(again.left.tolist(), again.right.tolist(), strict=True)
    ] == [("p#0", "p#3"), ("p#0", "p#3"), ("q#0", "q#1")]
    assert len(again.excerpts) == len(again.answers) == 4


def test_an_excerpt_that_needs_a_decoder_says_so(make_record: Make) -> None:
    with pytest.raises(LaconicError, match="give a decoder"):
        make_pairs([make_record("p", 0, "1")], "tokens:3")


def test_unknown_kinds_are_refused(make_record: Make) -> None:
    with pytest.raises(LaconicError, match="tokens:K"):
        make_pairs([make_record("p", 0, "1")], "sentences:3", Words())


@pytest.mark.parametrize(("answers", "said"), [(["1", "1"], "1 pairs, all the same"), (["1"], "no pairs")])
def test_one_class_only_is_refused(make_record: Make, answers: list[str], said: str) -> None:
    pairs = make_pairs([make_record("p", i, a) for i, a in enumerate(answers)], "tokens:3", Words())
    with pytest.raises(LaconicError, match=f"the training part has {said}"):
        pairs.require_both_classes("the training part")


def test_both_classes_pass(make_record: Make) -> None:
    pairs = make_pairs(some(make_record), "tokens:3", Words())
    assert pairs.require_both_classes("it") is pairs


def test_a_split_is_by_problem_and_stays_as_a_file_grows() -> None:
    names = [f"problem {i}" for i in range(400)]
    parts = split_problems(names)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert [len(parts[p]) for p in ("train", "validation", "test")] == pytest.approx([280, 60, 60], abs=25)
    fewer = split_problems(names[:200])
    assert all(set(fewer[part]) <= set(parts[part]) for part in parts)
    assert split_problems(names[::-1])["test"][::-1] == parts["test"]
    assert split_problems(names, seed=1)["test"] != parts["test"]
    assert split_problems(names, (1, 0, 0))["train"] == names


@pytest.mark.parametrize("count", [3, 4, 7, 10, 20, 33, 64, 100])
@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.6, 0.15, 0.25), (0.5, 0.5, 0), (1, 0, 0)])
def test_splits_of_few_problems_are_exact(count: int, shares: tuple[float, ...]) -> None:
    names = [f"problem {i}" for i in range(count)]
    for seed in range(20):
        parts = split_problems(names, shares, seed)
        sizes = [len(parts[part]) for part in ("train", "validation", "test")]
        assert sum(sizes) == count
        for size, share in zip(sizes, shares, strict=True):
            assert abs(size - share * count) < 1 or (size == 1 > share * count) or count < 7, (sizes, shares)
            assert bool(size) == bool(share)
        assert [name for name in names if name in set(parts["train"])] == parts["train"]
    assert len({tuple(split_problems(names, (0.5, 0.25, 0.25), seed)["train"]) for seed in range(20)}) > 1


def test_growth_moves_few_of_few_problems() -> None:
    names = [f"problem {i}" for i in range(60)]
    before = {name: part for part, found in split_problems(names[:55]).items() for name in found}
    after = {name: part for part, found in split_problems(names).items() for name in found}
    assert sum(before[name] != after[name] for name in before) <= 6


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.4, 0.2), (1.2, -0.2, 0)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(LaconicError, match="add up to 1"):
        split_problems(["a"], shares)


def test_a_part_without_problems_is_refused() -> None:
    with pytest.raises(LaconicError, match="of 1 problems none fell to the"):
        split_problems(["a"])


@pytest.mark.parametrize("rare", [True, False])
def test_the_rarer_class_is_drawn_more_often(rare: bool) -> None:
    same = torch.tensor([rare, not rare, not rare, rare, not rare])
    index = oversampled_indices(same, 3)
    assert index.tolist() == [0, 0, 0, 1, 2, 3, 3, 3, 4]
    assert oversampled_indices(same, 1).tolist() == [0, 1, 2, 3, 4]


def test_oversampling_less_than_once_is_refused() -> None:
    with pytest.raises(LaconicError, match="at least 1"):
        oversampled_indices(torch.tensor([True]), 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"left": torch.tensor([0.0])}, "Pairs.left"),
        ({"right": torch.tensor([5])}, "out of range"),
        ({"same": torch.tensor([1])}, "Pairs.same"),
        ({"problem": torch.tensor([0, 0])}, "Pairs.problem"),
        ({"answers": ()}, "Pairs.answers"),
    ],
)
def test_pairs_check_themselves(make_record: Make, changes: dict[str, object], said: str) -> None:
    pairs = make_pairs([make_record("p", i, "1") for i in range(2)], "tokens:3", Words())
    fields = {name: getattr(pairs, name) for name in pairs.__slots__}
    with pytest.raises(LaconicError, match=said):
        Pairs(**fields | changes)
