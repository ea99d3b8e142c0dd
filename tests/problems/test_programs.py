import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.problems.programs import MAX_STEPS, ArithmeticProgram, ArithmeticStep, sample_program


def solve(question: str) -> str:
    """Answers a question from its text alone, by another route than the generator: repeated substitution."""
    known = {a: int(d) for a, d in re.findall(r"(\w)=(\d)", question)}
    lines = re.findall(r"(\w):(\w) \1([+-])(\w)", question)
    for _ in lines:
        for letter, first, sign, second in lines:
            if first in known and second in known:
                known[letter] = (known[first] + (1 if sign == "+" else -1) * known[second]) % 10
    asked = re.search(r"find (\w)", question)
    assert asked is not None
    return str(known[asked[1]])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, MAX_STEPS))
def test_a_program_holds_together(seed, steps):
    program = sample_program(random.Random(seed), steps)
    assert len(program.steps) == steps
    assert solve(program.question()) == program.answer
    results = [step.letter for step in program.steps]
    operands = {x for step in program.steps for x in (step.first, step.second)}
    assert set(results[:-1]) <= operands  # every result is needed later
    arrows = dict(re.findall(r"([*\w])>([\w.])", program.question()))
    walk = ["*"]
    while walk[-1] != ".":
        walk.append(arrows[walk[-1]])
    assert walk[1:-1] == results


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, MAX_STEPS))
def test_names_order_and_hints_do_not_move_a_problem_to_the_other_split(seed, steps):
    rng = random.Random(seed)
    program = sample_program(rng, steps)
    letters = sorted({*program.facts, *(s.letter for s in program.steps)})
    shuffled = letters[:]
    rng.shuffle(shuffled)
    new = dict(zip(letters, shuffled, strict=True))
    twin = ArithmeticProgram(
        {new[a]: d for a, d in reversed(list(program.facts.items()))},
        tuple(ArithmeticStep(new[s.letter], new[s.first], s.sign, new[s.second]) for s in program.steps),
        {},
        tuple(reversed(program.listing)),
    )
    assert twin.answer == program.answer
    assert twin.canonical() == program.canonical()
    assert twin.split() == program.split()


def test_about_one_problem_in_sixteen_is_held_out():
    rng = random.Random(0)
    held = sum(sample_program(rng, 6).split() == "heldout" for _ in range(3000))
    assert 120 < held < 260


def test_a_program_checks_itself():
    step = ArithmeticStep("b", "c", "+", "d")
    with pytest.raises(ValueError, match="before they are known"):
        ArithmeticProgram({"c": 1}, (step,), {}, (0,))
    with pytest.raises(ValueError, match="twice"):
        ArithmeticProgram({"b": 1, "c": 1, "d": 2}, (step,), {}, (0,))
    with pytest.raises(ValueError, match=r"ArithmeticProgram\.listing"):
        ArithmeticProgram({"c": 1, "d": 2}, (step,), {}, (1,))
    with pytest.raises(ValueError, match=r"ArithmeticStep\.sign"):
        ArithmeticStep("b", "c", "*", "d")
