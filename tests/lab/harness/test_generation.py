"""How a task's generation arguments are read: lm-eval's rules for greedy, and the model's own arguments above them."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.errors import InputError
from laconic.lab.harness.generation import read_generation


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": True}, {}),
        ({"do_sample": True, "temperature": 0.0}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 1, "top_p": 0.9, "top_k": 5}, {"temperature": 1, "top_p": 0.9, "top_k": 5}),
        ({"do_sample": True, "top_k": -1}, {"top_k": 0}),
        ({"do_sample": True, "max_gen_toks": 256}, {"max_new_tokens": 256}),
        ({"do_sample": True, "max_tokens": 7, "max_new_tokens": 9}, {"max_new_tokens": 9}),
        (
            {"do_sample": True, "max_gen_toks": 1024.0, "num_beams": 1, "repetition_penalty": 1.0},
            {"max_new_tokens": 1024},
        ),
    ],
)
def test_how_a_task_draws(given: dict[str, Any], sampling: dict[str, Any]) -> None:
    assert read_generation(given).sampling == sampling


@pytest.mark.parametrize(("until", "read"), [(None, ()), ("x", ("x",)), (["\n\n", "", "Q:"], ("\n\n", "Q:")), ([], ())])
def test_stop_texts(until: Any, read: tuple[str, ...]) -> None:
    assert read_generation({"until": until}).until == read


def test_the_models_own_arguments_win_over_the_tasks() -> None:
    task = read_generation({"do_sample": False, "max_gen_toks": 256})
    assert task.options({}, votes=False) == {"temperature": 0.0, "max_new_tokens": 256}
    own = {"max_new_tokens": 9000, "temperature": 0.6}
    assert task.options(own, votes=False) == own


def test_a_vote_draws_as_the_model_does_and_heeds_the_tasks_limit() -> None:
    task = read_generation({"do_sample": False, "top_p": 0.5, "max_gen_toks": 256})
    assert task.options({}, votes=True) == {"max_new_tokens": 256}
    assert task.options({"top_k": 3}, votes=True) == {"max_new_tokens": 256, "top_k": 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4}, "generation argument num_beams is 4, which laconic doesn't serve; leave it out"),
        ({"min_tokens": 4}, "it takes until, do_sample, temperature"),
        ({"until": 5}, "until is 5; expected texts"),
        ({"until": ["a", None]}, r"until\[1\] is None"),
        ({"do_sample": "yes"}, "do_sample is 'yes'; expected true or false"),
        ({"temperature": "x"}, "temperature is 'x'; expected a number"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'"),
    ],
)
def test_what_is_not_served_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_generation(given)
