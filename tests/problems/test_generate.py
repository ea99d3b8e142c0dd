import pickle

import pytest

from laconic.errors import LaconicError
from laconic.problems import LEVELS, Problem, generate, is_correct
from laconic.problems.generate import MIXTURE, generate_programs


def test_problems_depend_on_the_arguments_only():
    assert generate(12, seed=3) == generate(12, seed=3)
    assert generate(12, seed=3)[:5] == generate(5, seed=3)
    assert generate(12, seed=3) != generate(12, seed=4)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_the_number_of_steps(level):
    made = generate(20, level=level)
    assert {p.level for p in made} == {level}
    assert len({p.question for p in made}) == len({p.id for p in made}) == 20
    assert all(p.question.count(">") == level + 1 for p in made)


def test_the_mixture_holds_its_levels_evenly():
    levels = [p.level for p in generate(40)]
    assert {level: levels.count(level) for level in MIXTURE} == {5: 10, 6: 10, 7: 10, 8: 10}


def test_the_splits_share_no_problem():
    canonical = {
        split: {p.canonical() for level in (None, 1, 2) for p in generate_programs(300, 5, level, split)}
        for split in ("train", "heldout")
    }
    assert canonical["train"]
    assert not canonical["train"] & canonical["heldout"]


def test_check_reads_the_final_answer():
    problem = generate(1)[0]
    other = str((int(problem.answer) + 1) % 10)
    assert is_correct(problem, f"the answer is {problem.answer} . </think> \\boxed{{ {problem.answer} }}")
    assert not is_correct(problem, f"\\boxed{{ {problem.answer} }} no , \\boxed{{ {other} }}")
    assert not is_correct(problem, f"so it is {problem.answer} .")


def test_problems_travel_between_processes():
    problem = generate(1)[0]
    assert pickle.loads(pickle.dumps(problem)) == problem


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"count": -1}, "-1"),
        ({"count": 2.0}, r"2\.0"),
        ({"count": 1, "level": 0}, "level is 0; expected a whole number from 1 to 8"),
        ({"count": 1, "level": 9}, "level is 9; expected a whole number from 1 to 8"),
        ({"count": 1, "split": "test"}, "split is 'test'; expected one of train, heldout"),
    ],
)
def test_bad_input_is_one_sentence(arguments, named):
    with pytest.raises(LaconicError, match=named):
        generate(**arguments)


def test_a_problem_checks_itself():
    with pytest.raises(ValueError, match=r"Problem\.answer is ' '; expected a text that is not empty"):
        Problem(id="a", question="b", answer=" ")
