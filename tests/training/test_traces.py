import random
from itertools import pairwise

import pytest
from training.reasoner.diagnostics import count_right
from training.reasoner.traces import FLAWLESS, Habits, prompt, write_trace
from training.reasoner.vocabulary import EOS, IDS, PARTS, TOKENS, encode

from laconic.answers import extract
from laconic.problems.programs import sample_program


def words(trace):
    return [TOKENS[i] for i in trace.ids[trace.prompt_length :]]


def test_the_vocabulary_is_without_doubles_and_every_token_has_parts():
    assert len(set(TOKENS)) == len(TOKENS) == len(IDS) == len(PARTS)
    assert (PARTS[IDS["h=6"]].kind, PARTS[IDS["h=6"]].digit) == ("=", 6)
    assert PARTS[IDS["*>h"]].argument == PARTS[IDS["h"]].key


def test_a_flawless_teacher_is_always_right():
    rng = random.Random(1)
    for _ in range(100):
        program = sample_program(rng, rng.randint(1, 8))
        trace = write_trace(program, rng, FLAWLESS)
        assert trace.answer == program.answer == extract(" ".join(words(trace)))
        assert list(trace.ids[: trace.prompt_length]) == encode(prompt(program.question()))
        assert len(trace.tags) == len(trace.ids)
        assert trace.ids[-1] == IDS[EOS]
        for kind, (right, total) in count_right(program, words(trace)).items():
            assert right == total, kind


def test_the_usual_teacher_errs_only_where_it_gambles():
    rng = random.Random(2)
    reached = []
    for _ in range(300):
        program = sample_program(rng, rng.randint(5, 8))
        trace = write_trace(program, rng)
        reached.append(trace.answer == program.answer)
        assert trace.answer == extract(" ".join(words(trace)))
        counts = count_right(program, words(trace))
        for kind in ("copy", "arrow", "recall", "store", "arithmetic"):
            right, total = counts[kind]
            assert right == total > 0, (kind, " ".join(words(trace)))
    assert 0.45 < sum(reached) / len(reached) < 0.75


def test_traces_have_what_long_thoughts_have():
    rng = random.Random(3)
    texts = [" ".join(words(write_trace(sample_program(rng, 8), rng))) for _ in range(100)]
    for phrase in ("draft", "wait", "dead end", "so far", "keep", "so now", "i had"):
        assert any(phrase in text for text in texts), phrase
    lengths = sorted(len(text.split()) for text in texts)
    assert 250 < lengths[50] < 700


def test_a_dead_end_is_a_step_that_misses_an_operand_and_is_tried_once():
    rng = random.Random(4)
    ends = 0
    for _ in range(60):
        program = sample_program(rng, 8)
        text = words(write_trace(program, rng, Habits(dead_end=0.9)))
        tried = []
        for index, word in enumerate(text):
            if word == "?" and text[index - 2] in ("do", "try"):
                letter, missing = text[index - 1], text[index + 5]
                step = next(s for s in program.steps if s.letter == letter)
                assert missing in (step.first, step.second)
                said = [
                    w for before, w in pairwise(text[:index]) if before == missing
                ]  # in sentences, not in the draft
                assert f"{missing}=" not in {w[:2] for w in said}
                assert letter not in tried
                tried.append(letter)
        ends += len(tried)
    assert ends > 60


def test_diagnostics_notice_each_kind_of_mistake():
    rng = random.Random(5)
    program = sample_program(rng, 6, hints=False)
    right = words(write_trace(program, rng, FLAWLESS))
    first = program.steps[0]
    value = program.values()[first.letter]
    drafted = right.index(f"{first.letter}={value}")
    at = right.index("=")
    assert right.index("draft") < at == drafted - 2
    for offset, kind in ((-1, "arithmetic"), (0, "store")):
        wrong = [*right]
        wrong[drafted + offset] = wrong[drafted + offset][:-1] + str((int(wrong[drafted + offset][-1]) + 1) % 10)
        counts = count_right(program, wrong)
        assert counts[kind][0] < counts[kind][1], (kind, offset)
    at = right.index("=", right.index("first", drafted))
    spoilt = {
        "arithmetic": (at + 1, str((value + 1) % 10)),
        "store": (at + 4, f"{first.letter}={(value + 1) % 10}"),
        "recall": (right.index("and") - 1, f"{first.first}={(program.facts[first.first] + 1) % 10}"),
        "arrow": (right.index(f"*>{first.letter}"), f"*>{program.steps[1].letter}"),
    }
    for kind, (index, word) in spoilt.items():
        wrong = [*right]
        wrong[index] = word
        counts = count_right(program, wrong)
        assert counts[kind][0] < counts[kind][1], kind
    assert count_right(program, right)["copy"] == (len([w for w in right if ":" in w[1:2]]) * 2,) * 2


def test_habits_check_themselves():
    with pytest.raises(ValueError, match=r"Habits\.hint .*1\.5"):
        Habits(hint=1.5)
    with pytest.raises(ValueError, match=r"Habits\.passes"):
        Habits(passes=(0.5, 0.5, 0.5))
