import pytest

from laconic.answers import equivalent, extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{ 7 } <eos>", "7"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} and an unfinished \boxed{4", "3"),
        (r"\boxed{\boxed{5}", "5"),
        ("no answer", None),
        (r"\boxed{}", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_counts(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("a", "b"), [("7", " 7 "), ("07", "7"), ("7.0", "7"), ("1,000", "1000"), ("$x$", "x"), ("-0", "0"), ("+3", "3")]
)
def test_spellings_of_one_answer_are_equivalent(a, b):
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), [("7", "8"), ("-7", "7"), ("0.1", "0.01"), ("10", "1"), ("x", "y"), ("1", "1.5")])
def test_different_answers_are_not(a, b):
    assert not equivalent(a, b)


def test_no_answer_is_equivalent_to_nothing():
    assert not equivalent(None, None)
    assert not equivalent("1", None)
    assert not equivalent(None, "1")
