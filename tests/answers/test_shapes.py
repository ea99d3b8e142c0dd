"""Lists, sets, pairs, intervals and inequalities: what can be the same, and what is."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.answers import equivalence, equivalent, undecided_count
from laconic.answers.normal_form import clean
from laconic.answers.shapes import FormulaShape, formula_shape, may_be_same, to_ascending


@pytest.fixture(scope="module", autouse=True)
def _all_of_it_in_time():
    before = undecided_count()
    yield
    assert undecided_count() == before
    equivalence._MATH_VERIFY.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2, 5", FormulaShape("list")),
        ("2; 5", FormulaShape("list")),
        (r"2 \text{ or } 5", FormulaShape("list")),
        ("x = 2 or x = 5", FormulaShape("list")),
        ("x = 2, 5", FormulaShape("list")),
        ("(1,2), (3,4)", FormulaShape("list")),
        ("x = 2, y = 5", FormulaShape("named")),
        (r"x = 2 \text{ and } y = 5", FormulaShape("named")),
        (r"\{2, 5\}", FormulaShape("set")),
        (r"x \in \{2, 5\}", FormulaShape("set")),
        (r"\left\{ (1,2) \right\}", FormulaShape("set")),
        ("(2, 5)", FormulaShape("tuple", "()")),
        ("[2, 5)", FormulaShape("tuple", "[)")),
        (r"\left( \frac{3}{5}, \frac{8}{3} \right]", FormulaShape("tuple", "(]")),
        (r"x \in [2, 5]", FormulaShape("tuple", "[]")),
        ("(1, 2, 3)", FormulaShape("tuple")),
        ("((1, 2), 3)", FormulaShape("tuple", "()")),
        ("2 < x < 5", FormulaShape("relation")),
        (r"x \leq 5", FormulaShape("relation")),
        (r"x \ne 5", FormulaShape("relation")),
        (r"x < 2 \text{ or } x > 5", FormulaShape("relation", joined="or")),
        (r"2 < x \text{ and } x < 5", FormulaShape("relation", joined="and")),
        (r"\{x \mid x > 2\}", FormulaShape("relation")),
        (r"1, 2, \ldots, 10", FormulaShape("list", ellipsis=True)),
        (r"(-\infty, 2) \cup (5, \infty)", FormulaShape()),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", FormulaShape()),
        ("(a+5)(b+2)", FormulaShape()),
        ("f(1, 2)", FormulaShape()),
        ("(5)", FormulaShape()),
        (r"\frac{1}{2}", FormulaShape()),
        ("x = 5", FormulaShape()),
        ("((", FormulaShape()),
        ("", FormulaShape()),
    ],
)
def test_the_shape_of_a_text(text, expected):
    assert formula_shape(clean(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5>x>2", "2<x<5"),
        (r"5 \ge x > 2", r"2<x\le5"),
        (r"5 > x \gt 2", "2<x<5"),
        ("x > 2", "x>2"),
        ("2 < x < 5", "2<x<5"),
        ("5 > x > y > 2", "5>x>y>2"),
        ("5 > x, y > 2", "5>x,y>2"),
        ("5 > x or x > 2", "5>xorx>2"),
        (r"\gamma", r"\gamma"),
    ],
)
def test_a_chain_from_its_lower_end(text, expected):
    assert to_ascending(text).replace(" ", "") == expected


KINDS = ("", "list", "named", "set", "tuple", "relation")


def test_what_can_be_the_same():
    never = {
        *[("list", "relation"), ("named", "relation"), ("set", "relation"), ("set", "tuple"), ("list", "tuple")],
    }
    for a in KINDS:
        for b in KINDS:
            assert may_be_same(FormulaShape(a), FormulaShape(b)) is not ((a, b) in never or (b, a) in never)


# kind: (what it means to have the same two numbers, how to write it)
WRITTEN = {
    "set": [r"\{{{0}, {1}\}}", r"\{{{1},{0}\}}", "{0}, {1}", "{1},{0}", r"x={1} \text{{ or }} x={0}", "{0} and {1}"],
    "open": ["({0}, {1})", "{0} < x < {1}", "{1} > x > {0}", r"\left({0},{1}\right)", r"x \in ({0}, {1})"],
    "closed": ["[{0}, {1}]", r"{0} \le x \leq {1}", r"\{{x \mid {0} \le x \le {1}\}}"],
    "left": ["[{0}, {1})", r"{0} \leqslant x < {1}"],
    "right": ["({0}, {1}]", r"{0} < x \le {1}"],
    "turned": ["({1}, {0})"],
    "named": ["x={0}, y={1}", r"y={1} \text{{ and }} x={0}"],
}
numbers = st.sampled_from([(2, 5), (-3, 2), (0, 5)])
answers = st.builds(
    lambda kind, pair, at: (kind, pair, WRITTEN[kind][at % len(WRITTEN[kind])].format(*pair)),
    st.sampled_from([*WRITTEN]),
    numbers,
    st.integers(0, 5),
)
# "x = 2, y = 5" may stand for the point (2, 5), for {2, 5} and for 2, 5, which are different from each other.
NAMED = {"named", "open", "set"}


@settings(max_examples=60, deadline=None)
@given(answers, answers)
def test_two_answers_are_the_same_if_they_mean_the_same(a, b):
    (kind, pair, text), (other_kind, other_pair, other) = a, b
    if kind != other_kind and "named" in (kind, other_kind) and {kind, other_kind} <= NAMED:
        if pair != other_pair:
            assert not equivalent(text, other)
        return
    expected = kind == other_kind and pair == other_pair
    assert equivalent(text, other) is equivalent(other, text) is expected


@pytest.mark.parametrize("kind", [kind for kind, ways in WRITTEN.items() if kind != "named" and len(ways) > 1])
def test_the_ways_to_write_one_are_all_the_same(kind):
    texts = [way.format(2, 5) for way in WRITTEN[kind]]
    for a, b in itertools.combinations(texts, 2):
        assert equivalent(a, b), (a, b)
