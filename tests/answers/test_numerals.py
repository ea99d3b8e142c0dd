"""Numerals respelled, against long division and against English."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.answers import equivalent
from laconic.answers.normal_form import clean, normalize
from laconic.answers.numerals import respell_numerals, unify_thousands


def long_division(value: Fraction) -> tuple[str, str, str]:
    """(whole, digits before the period, the period), as by hand."""
    whole, rest = divmod(value.numerator, value.denominator)
    digits, seen = "", {}
    while rest and rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, value.denominator)
        digits += str(digit)
    start = seen[rest] if rest else len(digits)
    return str(whole), digits[:start], digits[start:]


SPELLINGS = (
    r"{}.{}\overline{{{}}}",
    r"{}.{}\bar{{{}}}",
    "{}.{}({})",
    r" {}.{} \overline{{ {} }} ",
)


@given(st.fractions(min_value=0, max_value=50, max_denominator=120), st.sampled_from(SPELLINGS), st.booleans())
def test_a_repeating_decimal_is_its_fraction(value, spelling, negative):
    whole, head, period = long_division(value)
    if not period:
        return
    text = spelling.format(whole, head, period)
    if " " in text:
        text = text.replace(" .", ".").replace(f"{head} ", head)
    form = normalize("-" + text.strip() if negative else text)
    assert (form.number, form.exact) == (-value if negative else value, True), text


@given(st.fractions(min_value=0, max_value=9, max_denominator=40))
def test_a_decimal_that_goes_on_is_its_fraction_once_the_period_is_seen(value):
    whole, head, period = long_division(value)
    if not period or (head and head[-1] in period):
        return
    shown = period * (3 if len(period) == 1 else 2)
    assert normalize(rf"{whole}.{head}{shown}\ldots").number == value
    assert normalize(f"{whole}.{head}{shown}{period[:1]}...").number == value


@given(st.integers(0, 5000))
def test_ordinals_as_english_has_them(number):
    endings = {"st", "nd", "rd", "th"}
    if number % 100 in (11, 12, 13):
        right = "th"
    else:
        right = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    for spelling in ("{}{}", "{}^{{{}}}", r"{}^{{\text{{{}}}}}", r"{}\text{{{}}}", r"{}^\text{{{}}}"):
        assert clean(spelling.format(number, right)) == str(number)
        for wrong in endings - {right}:
            assert clean(spelling.format(number, wrong)) != str(number)


@given(
    st.integers(0, 10**12), st.sampled_from([",", "{,}", r",\!", r",\! ", r"{,}\!", r"\,", r"\;", r"\ ", " ", "~", "'"])
)
def test_thousands_in_every_way(number, comma):
    text = f"{number:,}".replace(",", comma)
    assert normalize(text).number == number
    assert equivalent(text, str(number))


@pytest.mark.parametrize(
    ("text", "as_it_is"),
    [
        ("1, 200", "1, 200"),
        (r"(1,\,200)", r"(1,\,200)"),
        ("a_100", "a_100"),
        ("100, 010", "100, 010"),
        ("1,23", "1,23"),
        ("12, 0001", "12, 0001"),
    ],
)
def test_a_list_is_no_number(text, as_it_is):
    assert unify_thousands(text) == as_it_is


@pytest.mark.parametrize(
    ("text", "respelled"),
    [
        ("2½", r"2\frac{1}{2}"),
        ("⅞", r"\frac{7}{8}"),
        ("x⁻¹⁰", "x^{-10}"),
        ("x²y³", "x^{2}y^{3}"),
        (r"0.3\ldots", "0.3"),
        ("0.33...", "0.33"),
        ("0.1212…", r"\frac{4}{33}"),
        ("1.25...", "1.25"),
        (r"1,2,\dots,n", r"1,2,\ldots ,n"),
        ("0.(3)4", "0.(3)4"),
        (r"\overline{AB}", r"\overline{AB}"),
        ("f(3)", "f(3)"),
        ("5.", "5."),
    ],
)
def test_respelled(text, respelled):
    assert respell_numerals(text) == respelled
