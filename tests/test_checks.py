"""The words of the checks, and what they let pass. Which constructor checks what: test_public_api.py."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass

import numpy
import pytest
import torch

from laconic import checks
from laconic.errors import LONGEST_REASON, EngineError, InputError, LaconicError, UnknownNameError, reason


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: checks.whole("K2", 0, 1), "K2 is 0; expected a whole number of at least 1"),
        (lambda: checks.whole("K2", 0, 1, meaning="traces"), "K2 is 0; expected a whole number of at least 1 (traces)"),
        # Too many is not too few.
        (lambda: checks.whole("K2", 10**20, 1), f"K2 is {10**20}; expected a whole number from 1 to {2**63 - 1}"),
        (lambda: checks.whole("n", 5000, 1, 4096), "n is 5000; expected a whole number from 1 to 4096"),
        (lambda: checks.whole("n", True, 1), "n is True; expected a whole number"),
        (lambda: checks.whole("n", numpy.bool_(True), 1), "n is True; expected a whole number"),
        (lambda: checks.whole("n", 2.0, 1), "n is 2.0; expected a whole number"),
        (lambda: checks.whole("n", "2", 1), "n is '2'; expected a whole number"),
        (lambda: checks.whole("n", None, 1), "n is None; expected a whole number"),
        (
            lambda: checks.whole("n", 10**5000, 1),
            "n is of the type int and can't be shown; expected a whole number from 1",
        ),
        (lambda: checks.seed("seed", 1 << 64), f"seed is {1 << 64}; expected a whole number of at most 64 bits"),
        (lambda: checks.number("x", math.nan, 1), "x is nan; expected a number at least 1"),
        (lambda: checks.number("x", math.inf, 1), "x is inf; expected a number at least 1"),
        (lambda: checks.number("x", 2, 0, 1), "x is 2; expected a number from 0 to 1"),
        (lambda: checks.number("x", 0, 0, 1, above=True), "x is 0; expected a number above 0 and at most 1"),
        (lambda: checks.number("x", 0, 0, above=True), "x is 0; expected a number above 0"),
        (lambda: checks.number("x", -(10**400), 0), "x is -1000"),
        (lambda: checks.number("x", False, 0), "x is False; expected a number"),
        (lambda: checks.word("mode", "lo", ("low", "high")), "mode is 'lo'; expected one of low, high"),
        (lambda: checks.word("mode", ["low"], ("low", "high")), "mode is ['low']; expected one of low, high"),
        (lambda: checks.word("mode", numpy.zeros(2), ("low",)), "mode is array([0., 0.]); expected one of low"),
        (lambda: checks.flag("end", 1), "end is 1; expected true or false"),
        (lambda: checks.text("name", b"x"), "name is b'x'; expected a text"),
        (lambda: checks.text("name", " ", some=True), "name is ' '; expected a text that is not empty"),
        (lambda: checks.texts("ids", "ab"), "ids is 'ab'; expected texts"),
        (lambda: checks.texts("ids", ["a", 1]), "ids[1] is 1; expected a text"),
        (lambda: checks.wholes("ids", [1, 2.5], 0), "ids[1] is 2.5; expected a whole number of at least 0"),
        (lambda: checks.wholes("ids", [1, -1], 0), "ids[1] is -1; expected a whole number of at least 0"),
        (lambda: checks.wholes("ids", 5, 0), "ids is 5; expected whole numbers"),
        (lambda: checks.wholes("ids", {"a": 1}, 0), "ids is {'a': 1}; expected whole numbers"),
        (lambda: checks.wholes("ids", [], 0, some=True), "ids is []; expected whole numbers, at least one"),
        (lambda: checks.wholes("ids", torch.tensor(3), 0), "ids is tensor(3); expected whole numbers"),
        (lambda: checks.wholes("ids", torch.zeros(1, 2, dtype=torch.long), 0), "ids[0] is [0, 0]; expected a whole"),
        (lambda: checks.instance("policy", "rpc", dict, "a policy"), "policy is 'rpc'; expected a policy"),
        (lambda: checks.instances("rows", [{}, 1], dict, "a row"), "rows[1] is 1; expected a row"),
        (lambda: checks.function("keep", 5, "from ids to scores"), "keep is 5; expected a function from ids to scores"),
        (lambda: checks.capable("judge", 5, ("read",), "a judge"), "judge is 5; expected a judge"),
    ],
)
def test_one_sentence_names_the_field_the_value_and_what_was_expected(call, said):
    with pytest.raises(LaconicError, match="^" + re.escape(said)):
        call()


def test_what_is_right_comes_back_as_pythons_own():
    for given in (3, numpy.int64(3), numpy.uint8(3), numpy.array(3)):
        found = checks.whole("n", given, 1)
        assert found == 3
        assert type(found) is int
    assert type(checks.number("x", numpy.float32(0.5), 0)) is float
    assert type(checks.number("x", 4, 0)) is int  # a ratio of 4 is not 4.0
    assert checks.flag("end", numpy.bool_(False)) is False
    assert checks.whole("n", sys.maxsize, 1) == sys.maxsize  # "no limit"
    assert checks.seed("seed", -1) == -1
    assert checks.seed("seed", (1 << 64) - 1) == (1 << 64) - 1
    for ids in ([1, 2], (1, 2), range(1, 3), torch.tensor([1, 2]), numpy.array([1, 2]), iter([1, 2])):
        assert checks.wholes("ids", ids, 0) == [1, 2]
    assert checks.wholes("ids", [numpy.int32(7)], 0) == [7]


def test_a_long_value_is_cut_and_a_broken_repr_is_no_error_of_its_own():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    assert len(checks.shown("x" * 500)) == checks.LONGEST
    assert checks.shown(torch.zeros(3, 3)).count("\n") == 0
    assert checks.shown(Broken()) == "of the type Broken and can't be shown"


def test_plain_makes_a_frozen_records_numbers_pythons():
    @dataclass(frozen=True, slots=True)
    class Settings:
        n: int
        name: str

    settings = Settings(numpy.int64(4), "a")  # type: ignore[arg-type]  # what a user passes
    checks.unwrap_numpy_fields(settings)
    assert repr(settings.n) == "4"


def test_a_reason_is_one_line_and_never_ends_where_a_list_begins():
    assert reason(ValueError("bad file\nlong advice")) == "bad file"
    assert reason(ValueError("from one of: \n(1) a file, \n(2) a class. \n")) == "from one of: (1) a file, (2) a class"
    assert reason(RuntimeError()) == "RuntimeError"
    assert len(reason(RuntimeError("x" * 10_000))) == LONGEST_REASON


def test_the_errors_are_what_callers_may_catch():
    assert issubclass(InputError, LaconicError)
    assert issubclass(InputError, ValueError)
    assert issubclass(EngineError, LaconicError)
    assert issubclass(EngineError, RuntimeError)
    assert not issubclass(EngineError, ValueError)
    assert not issubclass(LaconicError, ValueError)
    error = UnknownNameError("there is no trace 'x'")
    assert isinstance(error, InputError)
    assert isinstance(error, KeyError)
    assert str(error) == "there is no trace 'x'"  # a KeyError's would be quoted
