import random

import pytest
from training.judge.renaming import rename, rename_problem
from training.reasoner.traces import FLAWLESS, prompt, write_trace
from training.reasoner.vocabulary import TOKENS, encode

from laconic.answers import extract
from laconic.problems.programs import LETTERS, sample_program
from laconic.traces import TraceRecord


@pytest.fixture
def records():
    rng = random.Random(0)
    found = []
    for number in range(3):
        program = sample_program(rng, 5)
        for index in range(2):
            trace = write_trace(program, rng, FLAWLESS)
            words = [TOKENS[i] for i in trace.ids[trace.prompt_length :]]
            found.append(
                TraceRecord(
                    problem=f"p{number}",
                    question=program.question(),
                    gold=program.answer,
                    level=5,
                    index=index,
                    seed=0,
                    settings={},
                    prompt_ids=trace.ids[: trace.prompt_length],
                    token_ids=trace.ids[trace.prompt_length :],
                    text=" ".join(words[:-1]),
                    answer=trace.answer,
                    correct=True,
                    finish_reason="stop",
                )
            )
    return found


def test_a_renamed_problem_is_the_same_problem_under_other_letters(records):
    copies = rename_problem(records, 2, seed=1)
    assert [c.problem for c in copies] == [f"{r.problem}~{copy}" for copy in (0, 1) for r in records]
    for copy, original in zip(copies, records * 2, strict=True):
        assert copy.question != original.question
        assert list(copy.prompt_ids) == encode(prompt(copy.question))
        assert " ".join(TOKENS[i] for i in copy.token_ids[:-1]) == copy.text
        assert extract(copy.text) == original.answer
        assert (len(copy.token_ids), copy.index) == (len(original.token_ids), original.index)
    for first, second in zip(copies[::2], copies[1::2], strict=True):
        assert first.question == second.question, "the traces of a problem are renamed alike"
    assert copies[0].question != copies[6].question, "two copies have other letters"
    assert rename_problem(records, 2, seed=1) == copies
    assert rename_problem(records, 1, seed=2)[0].question != copies[0].question


def test_only_keyed_tokens_are_renamed():
    table = dict(zip(LETTERS, LETTERS[1:] + LETTERS[:1], strict=True))
    assert [rename(w, table) for w in ("b=3", "b:c", "*>b", "b>.", "b", "back", "7", "hint")] == [
        "c=3", "c:d", "*>c", "c>.", "c", "back", "7", "hint",
    ]  # fmt: skip
