import random
import subprocess
import sys
from fractions import Fraction

import pytest

from laconic.answers import equivalence, equivalent, group_equivalent, undecided_count
from laconic.answers.normal_form import LONGEST, compare_by_string, normalize
from laconic.errors import LaconicError

SAME = [
    # Decided here.
    ("7", " 7 "),
    ("07", "7"),
    ("7.0", "7"),
    ("7.", "7"),
    ("$x$", "x"),
    ("-0", "0"),
    ("+3", "3"),
    ("−5", "-5"),
    (".5", "0.5"),
    (r"\(5\)", "5"),
    ("**5**", "5"),
    ("1,000", "1000"),
    ("1{,}000", "1000"),
    (r"1\,000", "1000"),
    (r"1\!000", "1000"),
    ("12 000", "12000"),
    ("1,234,567.80", "1234567.8"),
    ("1/2", "0.5"),
    (r"\dfrac{1}{2}", r"\tfrac12"),
    (r"\frac{2}{4}", "1/2"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    ("1 1/2", "3/2"),
    ("1/3", "0.333333"),
    (r"2\cdot 10^{3}", "2000"),
    (r"1.5 \times 10^3", "1,500"),
    ("6.02e23", r"6.02 \times 10^{23}"),
    ("10^{-7}", "0.0000001"),
    ("x = 5", "5"),
    ("5 cm", "5"),
    (r"5\text{ cm}^2", "5 square centimeters"),
    (r"5\ \mathrm{m}", "5 meters"),
    (r"60\text{ mph}", "60 miles per hour"),
    (r"9.8\text{ m/s}^2", r"9.8\text{m/s^2}"),
    (r"3 \times 10^8 m/s", r"3 \times 10^8\text{ m/s}"),
    ("12 apples", r"12\text{ apples}"),
    (r"2\text{ million}", "2000000"),
    ("2 million dollars", r"\$2,000,000"),
    (r"1.5 \text{ million dollars}", "1500000"),
    ("3 dozen eggs", "36"),
    ("$5", r"\$5"),
    (r"2\pi\text{ inches}", r"2\pi"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90 degrees"),
    (r"90\degree", "90°"),
    ("25°C", r"25^\circ\text{C}"),
    (r"\$5", "5"),
    (r"\$5.00", "5 dollars"),
    (r"50\%", "50 percent"),
    ("1011_2", "1011_{2}"),
    (r"1011_{2}", "1011"),
    ("(C)", "C"),
    ("c", "(C)"),
    (r"\text{C}", r"\textbf{(C)}"),
    ("(C) 42", "C"),
    ("B. Paris", "(b)"),
    (r"\text{Yes}", "yes"),
    ("No solution.", r"\text{no solution}"),
    (r"[1,\,2)", "[1, 2)"),
    (r"x~+~1", "x+1"),
    (r"\left(1, \dfrac{x}{2}\right]", r"(1, \frac{x}{2}]"),
    (r"\varnothing", r"\emptyset"),
    (r"\boxed{5}", "5"),
    ("Option C", "(C)"),
    # Thousands and other spacings.
    (r"45,\! 000", "45000"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    (r"1{,}\!000", "1000"),
    (r"10,\,000", "10000"),
    (r"1\;000", "1000"),
    (r"1\ 000", "1000"),
    ("1~000", "1000"),
    (r"1{\,}000", "1000"),
    ("1'000", "1000"),
    (r"\$32,\!348", "32,348"),
    (r"5\hspace{2mm}\text{cm}", "5 cm"),
    (r"90\,^{\circ}", "90^o"),
    ("5\\ ", "5"),
    ("5,", "5"),
    (r"x\,=\,5", "x:=5"),
    (r"\approx 3.14", "≈3.14"),
    # Ordinals.
    (r"12^{\text{th}}", "12"),
    ("12^{th}", "12"),
    (r"12^\mathrm{th}", "12"),
    (r"12\text{th}", "12th"),
    (r"3\textsuperscript{rd}", "3"),
    ("1st", "1"),
    (r"22^{\text{nd}}", "22"),
    ("111th", "111"),
    # Repeating decimals.
    (r"0.\overline{3}", r"\frac13"),
    (r"0.\bar3", "0.(3)"),
    (r"0.\dot{3}", "1/3"),
    (r"0.\dot{1}4285\dot{7}", r"\frac17"),
    (r"1.0\overline{6}", r"\frac{16}{15}"),
    (r".\overline{09}", r"\frac{1}{11}"),
    (r"-2.\overline{3}", r"-\frac73"),
    (r"0.\overline{9}", "1"),
    ("0.333...", "1/3"),
    (r"0.1666\ldots", "1/6"),
    (r"0.142857142857\dots", "1/7"),
    (r"3.14159\ldots", "3.14159"),
    (r"33.\overline{3}\%", r"\frac13"),
    # Percent.
    ("2 1/2 %", "2.5%"),
    (r"2\frac12\%", "0.025"),
    (r"\frac12\%", "0.005"),
    ("x = 50%", "0.5"),
    ("50%", "0.5"),
    (r"50\%", "1/2"),
    ("50%", "50"),
    ("33.3%", "0.333"),
    # Unicode and plain text.
    ("2½", "5/2"),
    ("10⁻³", "0.001"),
    ("√13", r"\sqrt{13}"),
    ("2**10", "2^{10}"),
    ("2^10", "2^{10}"),
    ("2pi", r"2\pi"),
    ("3:00 PM", "3:00 p.m."),
    (r"1, 2, \dots, 10", r"1,2,\ldots,10"),
    (r"\langle 1,2\rangle", "(1,2)"),
    # math-verify's.
    (r"5\pi\%", r"5 \pi \%"),
    ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sqrt{8}", r"2\sqrt2"),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{\frac34}"),
    (r"\pi", "3.14159265"),
    (r"\frac{3\pi}{4}", r"\frac34 \pi"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    (r"\log_2 8", "3"),
    ("3+4i", "4i+3"),
    (r"2i\sqrt{3}", r"2\sqrt{3}i"),
    (r"1 + 2i\sqrt3", r"1+2\sqrt{3}\,i"),
    ("1+2i, 1-2i", r"1 \pm 2i"),
    (r"(2i)^2", "-4"),
    (r"e^{i\pi}", "-1"),
    (r"\sum_{i=1}^{3} i", "6"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"(0.\overline{3}, 1)", r"\left(\frac13, 1\right)"),
    (r"\frac{1}{2^{60}}", "2^{-60}"),
    ("5e1", "50"),
    ("y = 2x+3", "2x+3"),
    ("a+b=5", "5"),
    (r"\{1,2\}", r"\{2, 1\}"),
    ("1, 2", r"\{1,2\}"),
    (r"x=1 \text{ or } x=2", "1,2"),
    (r"\pm 2", "-2, 2"),
    ("x=2, y=3", "(2,3)"),
    ("x=2, y=3", "2, 3"),
    ("x=2, y=3", "y=3, x=2"),
    ("y=3, x=2", "(2,3)"),
    (r"y=3 \text{ and } x=2", "2, 3"),
    ("x=2, x=3", "3, 2"),
    ("A, C", "C, A"),
    (r"(0.5, 1)", r"\left(\frac12, 1\right)"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"),
    # A relation and its set, whichever comes first.
    ("1 < x < 2", "(1,2)"),
    (r"(-\infty, 3]", r"x \le 3"),
    (r"x \leq 3", r"3 \geq x"),
    ("2<x<5", "(2,5)"),
    (r"-1 \le x < 3", "[-1,3)"),
    (r"\{x \mid x > 2\}", r"(2,\infty)"),
    (r"\{x \in \mathbb{R} : -1 < x \le 3\}", "(-1,3]"),
    (r"x \in (1,2)", "(1,2)"),
    (r"\mathbb{R}", r"(-\infty, \infty)"),
    (r"\text{all real numbers}", r"\mathbb R"),
    (r"\infty", "infinity"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
]

DIFFERENT = [
    ("2 million", "2 thousand"),
    ("2 million", "2"),
    (r"2 \text{ thirds}", "2"),
    (r"5 \text{ squared}", "5"),
    ("3 dozen", "3"),
    ("$5", "5 cents"),
    ("$5", "€5"),
    ("100, 200", "100,200"),
    # Decided here.
    ("7", "8"),
    ("-7", "7"),
    ("0.1", "0.01"),
    ("10", "1"),
    ("1", "1.5"),
    ("1/3", "0.33"),
    ("1/3", "333333/1000000"),
    ("0.0000001", "0.0000002"),
    ("1 1/2", "11/2"),
    ("1 2", "12"),
    ("1 2", "3"),
    ("50", "0.5"),
    ("1, 200", "1200"),
    ("1, 2, 345", "12345"),
    ("100, 010, 001", "100010001"),
    ("3^{nd}", "3"),
    ("12^{nd}", "12"),
    (r"0.1\overline{6}", "0.16"),
    ("0.(3)", "0.(6)"),
    ("0.3", "1/3"),
    (r"0.3\ldots", "1/3"),
    ("0.12...", "12/99"),
    ("2.5%", "2.5"),
    (r"0.5\%", "0.5"),
    ("50%", "51%"),
    ("x = 5", "y = 5"),
    # By their shape.
    ("2, 5", "2<x<5"),
    (r"2 \text{ or } 5", "2<x<5"),
    ("x=2, x=5", "2<x<5"),
    ("x=2, y=5", "2<x<5"),
    (r"\{2,5\}", "2<x<5"),
    (r"\{2,5\}", "(2,5)"),
    (r"\{2,5\}", "[2,5]"),
    ("2, 5", "(2,5)"),
    ("x = 2, 5", "(2,5)"),
    ("(2,1)", "[2,1]"),
    (r"x>1 \text{ and } x<2", r"x>1 \text{ or } x<2"),
    (r"1,2,\ldots,10", "1,2,10"),
    ("2:30 pm", "1:15 pm"),
    ("3:05", "3:5"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    (r"\angle ABC", r"\angle ACB"),
    ("5 m", "5 mm"),
    (r"5\text{ m}", "5 cm"),
    (r"5\text{ cm}", r"5\text{ cm}^2"),
    (r"5\text{ m}", r"500\text{ cm}"),
    (r"\$5", "5 cents"),
    ("25°C", "25°F"),
    ("1011_2", "1011_3"),
    ("3:00 p.m.", "3:00 a.m."),
    ("(C)", "D"),
    ("(C) 42", "D"),
    ("C", "5"),
    ("A", "A, C"),
    ("evil", "live"),
    ("even", "odd number"),
    ("no solution", "5"),
    # math-verify's.
    ("x", "y"),
    ("3c", "3"),
    ("3c", "3d"),
    ("2pa", "2"),
    ("2m/s", "2"),
    ("1,2", "12"),
    (r"\pi", "3.14"),
    (r"\frac{1}{2^{60}}", r"\frac{1}{2^{61}}"),
    (r"\frac{1}{50!}", r"\frac{1}{51!}"),
    ("e^{-40}", "e^{-41}"),
    ("2^{-60}", "0"),
    (r"\frac{\sqrt2}{2^{60}}", r"\frac{\sqrt3}{2^{60}}"),
    (r"\frac{x}{2^{60}}", r"\frac{x}{2^{61}}"),
    ("(2^{-60}, 1)", "(2^{-61}, 1)"),
    ("2^{-60}, 1", "2^{-61}, 1"),
    ("[0, 2^{-60}]", "[0, 2^{-61}]"),
    ("x < 2^{-60}", "x < 2^{-61}"),
    ("(0.00000012, 1)", "(0.00000034, 1)"),
    (r"\sqrt{10^{40}+1}", "10^{20}"),
    (r"1-2^{-100}", "1"),
    ("2^{100}", "2^{100}+1"),
    ("5e", "5e1"),
    (r"2i\sqrt{3}", r"-2\sqrt{3}i"),
    ("x=2, y=3", "3, 2"),
    ("x=2, y=3", "(3,2)"),
    ("y=3, x=2", "(3,2)"),
    ("x=2, y=3", "x=3, y=2"),
    ("(5,2)", "(7,3)"),
    ("(5,2]", "(7,3]"),
    ("x'", "x"),
    ("x'", "x''"),
    ("f'(x)", "f(x)"),
    (r"\{x \in \mathbb{Z} : -1 < x \le 3\}", "(-1,3]"),
    ("2x+z=5", "5"),
    (r"5 \text{ or more}", "5"),
    ("foo 5 bar!", "5"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("[1,2)", "[1,2]"),
    ("(C)+1", "C"),
    ("p - q", "q - p"),
    (r"\frac{a}{b}", r"\frac{b}{a}"),
    (r"\frac{", "5"),
]


@pytest.fixture(scope="module", autouse=True)
def _end_the_worker():
    yield
    equivalence._MATH_VERIFY.close()


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same(a, b):
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a, b):
    assert not equivalent(a, b)
    assert not equivalent(b, a)


def test_nothing_of_the_above_ran_out_of_time():
    assert undecided_count() == 0


def test_no_answer_is_equivalent_to_nothing():
    for nothing in (None, "", " \n"):
        for other in (None, "1", nothing):
            assert not equivalent(nothing, other)
            assert not equivalent(other, nothing)


def test_only_the_same_letter_is_the_same_choice():
    for a in "ABCDEFGHIJ":
        for b in "ABCDEFGHIJ":
            assert equivalent(f"({a})", b) is (a == b)


def test_numbers_are_compared_as_fractions_are():
    rng = random.Random(0)

    def spell(number):
        if number.denominator == 1 and rng.random() < 0.7:
            return rng.choice([f"{number.numerator:,}", f"{number.numerator}.00", f"+{number}".replace("+-", "-")])
        sign = "-" if number < 0 else ""
        return rng.choice(
            [str(number), f"{sign}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}", f"x = {number}"]
        )

    same = 0
    for _ in range(1500):
        x, y = (Fraction(rng.randint(-12, 12) * rng.choice([1, 1000]), rng.randint(1, 4)) for _ in range(2))
        if rng.random() < 0.3:
            y = x
        assert compare_by_string(normalize(spell(x)), normalize(spell(y))) is (x == y), (x, y)
        same += x == y
    assert 300 < same < 1200


def test_a_trace_that_lost_itself_is_compared_by_spelling(monkeypatch):
    monkeypatch.setattr(equivalence._MATH_VERIFY, "ask", pytest.fail)
    long = "x+" * LONGEST
    assert equivalent(long, long + " ")
    assert not equivalent(long, long + "1")
    assert not equivalent("9" * 6000, "9" * 6001)
    assert not equivalent(long, "x")


@pytest.mark.parametrize("other", [5, 5.0, b"5", ["5"]])
def test_an_answer_is_text_or_none(other):
    for pair in ((other, "5"), ("5", other)):
        with pytest.raises(LaconicError, match="expected text, or None"):
            equivalent(*pair)
    with pytest.raises(LaconicError, match="expected text, or None"):
        group_equivalent(["5", other])


# --- groups ---


def slow_groups(answers):
    """Compares every answer with the first of every class."""
    firsts: list[str] = []
    classes: list[int | None] = []
    for answer in answers:
        if answer is None:
            classes.append(None)
            continue
        for i, first in enumerate(firsts):
            if equivalent(first, answer):
                classes.append(i)
                break
        else:
            firsts.append(answer)
            classes.append(len(firsts) - 1)
    return classes


def test_groups():
    assert group_equivalent([]) == []
    assert group_equivalent([None, "", None]) == [None, None, None]
    assert group_equivalent(["1/2", None, "C", "0.5", "(C)", "2", r"\frac24"]) == [0, None, 1, 0, 1, 2, 0]
    # Not transitive: the first of a class decides.
    assert group_equivalent([r"5\text{ m}", "5", "5 cm"]) == [0, 0, 1]
    assert group_equivalent(["5", r"5\text{ m}", "5 cm"]) == [0, 0, 0]


def test_groups_as_the_slow_way_has_them():
    rng = random.Random(1)
    pool = ["7", "7.0", "8", "C", "(C)", "x+1", "1+x", "x + 1", "50%", "1/2", "0.5", r"\{1,2\}", "2,1", None, "no way"]
    for _ in range(50):
        answers = rng.choices(pool, k=rng.randint(1, 12))
        assert group_equivalent(answers) == slow_groups(answers)


def test_groups_ask_once_for_a_spelling_and_a_class(monkeypatch):
    asked = []

    def ask(a, b):
        asked.append((a, b))
        return False

    monkeypatch.setattr(equivalence._MATH_VERIFY, "ask", ask)
    answers = ["q+1", "$q+1$", "7", "q+2", "q + 2", "7", "8"] * 20
    equivalence._ask_math_verify.cache_clear()
    try:
        assert group_equivalent(answers) == [0, 0, 1, 2, 2, 1, 3] * 20
    finally:
        equivalence._ask_math_verify.cache_clear()
    assert sorted(asked) == [("7", "q+1"), ("7", "q+2"), ("8", "q+1"), ("8", "q+2"), ("q+1", "q+2")]


def test_groups_of_one_text_are_a_mistake():
    with pytest.raises(LaconicError, match="expected a sequence of answers"):
        group_equivalent("12")


# --- what math-verify can't decide ---


def test_what_takes_too_long_counts_as_different_and_is_not_tried_again(monkeypatch):
    asked = []

    def ask(a, b):
        asked.append((a, b))
        return None if "z!" in (a, b) else True

    monkeypatch.setattr(equivalence._MATH_VERIFY, "ask", ask)
    before = undecided_count()
    equivalence._ask_math_verify.cache_clear()
    try:
        assert not equivalent("z!", "y")
        # Which of the two is to blame? The one that isn't comparable with 1 either.
        assert asked == [("y", "z!"), ("y", "1"), ("z!", "1")]
        assert not equivalent("z!", "w")
        assert not equivalent("z!", "7")
        assert not equivalent("y", "z!")
        assert len(asked) == 3
        assert equivalent("y", "w")
        assert undecided_count() == before + 3
    finally:
        equivalence._ask_math_verify.cache_clear()
        equivalence._hopeless.clear()


def test_the_number_beside_it_is_not_to_blame(monkeypatch):
    asked = []
    monkeypatch.setattr(equivalence._MATH_VERIFY, "ask", lambda a, b: asked.append((a, b)))
    equivalence._ask_math_verify.cache_clear()
    try:
        assert not equivalent("z!", "5")
        assert asked == [("5", "z!"), ("z!", "1")]
    finally:
        equivalence._ask_math_verify.cache_clear()
        equivalence._hopeless.clear()


def test_plain_answers_start_no_process_and_import_nothing_heavy():
    code = """
import sys
from laconic.answers import equivalence, equivalent, extract, group_equivalent
from laconic.problems.base import Problem, is_correct
for a in map(str, range(10)):
    for b in map(str, range(10)):
        assert equivalent(a, b) is (a == b)
        assert is_correct(Problem("p", "q", b), f"so 1 + {b} . </think> \\\\boxed{{ {a} }} <eos>") is (a == b)
assert equivalent("v=3", "3") and equivalent("C", "(c)") and equivalent("1/2", "0.5") and not equivalent("yes sir", "no sir")
assert group_equivalent(["7", None, " 7 "]) == [0, None, 0]
assert equivalence._MATH_VERIFY.pid is None
print(sorted({"math_verify", "sympy", "torch", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
