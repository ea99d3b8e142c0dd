import random

import pytest

from laconic.answers import extract
from laconic.answers.extraction import end_of_box
from laconic.errors import LaconicError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{ 7 } <eos>", "7"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} and an unfinished \boxed{4", "3"),
        (r"\boxed{\boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {6}", "6"),
        (r"\fbox{8}", "8"),
        (r"\boxed{1}, rather \fbox{9}", "9"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\boxed{3}. I put it into \boxed{}.", "3"),
        ("\\boxed{1 +\n 2}", "1 +\n 2"),
        ("no answer", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{4", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_counts(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("answer: (C)", "C"),
        ("the answer is C", "C"),
        ("**Answer: B**", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: (b)", "B"),
        ("ANSWER = D", "D"),
        ("The correct answer is $D$.", "D"),
        (r"The correct option is \text{(J)}.", "J"),
        (r"The answer is \(\textbf{E}\)", "E"),
        ("So the correct choice is [A].", "A"),
        ("The answer is therefore option A.", "A"),
        ("The answer to the second question is B because it is longer.", "B"),
        ("The answer is (C) 42 cm", "C"),
        ("The answer is A. No, wait: the answer is B.", "B"),
        # A letter before a number, wherever it stands.
        ("Answer: (C). The answer is 42.", "C"),
        # None of these name one choice.
        ("the answer is A train that left", None),
        ("the answers are A and B", None),
        ("The answer is A or B.", None),
        ("The answer is (A), (C)", None),
        ("Could it be that the answer is C?", None),
        ("the answer is (a+b)", None),
        ("The answer is K", None),
        ("Choose A.", None),
    ],
)
def test_else_a_choice_letter(text, letter):
    assert extract(text) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is $\boxed{5}$ nm.  Answer: B", "B"),
        ("So \\boxed{\\frac{1}{2}}.\n\n**Answer: (C)**<|im_end|>", "C"),
        (r"\boxed 5 cm, so the correct option is $D$.", "D"),
        (r"\boxed{5}. The answer is A. No: the answer is B.", "B"),
        # A box that holds a letter is the choice, whatever is said of others.
        (r"\boxed{C}. Why not B? The other answer is B.", "C"),
        (r"\boxed{\text{(C)}} Answer: B", r"\text{(C)}"),
        # A letter before the box, or none that is named as the answer.
        (r"Answer: B, that is \boxed{5}", "5"),
        (r"Answer: $\boxed{5}$", "5"),
        (r"\boxed{5}, and x is B. The answer is A = 5", "5"),
        (r"\boxed{\text{The answer is B.}} so", r"\text{The answer is B.}"),
        (r"\boxed{5}. Is the answer B?", "5"),
        (r"\boxed{5}. The answer is A or B.", "5"),
        (r"<answer>5</answer> The answer is B.", "5"),
        # A letter chosen in the thinking doesn't count against what is said after it.
        (r"<think>\boxed{5}. Answer: B</think>\boxed{6}", "6"),
    ],
)
def test_a_letter_that_is_chosen_after_a_box_is_the_answer(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the answer is 42", "42"),
        ("The final answer is: **42**.", "42"),
        ("Answer: 1,234.5 cm", "1,234.5"),
        ("The answer is -3.5, since 2 + 3 = 5.", "-3.5"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is x = 5.", "5"),
        ("The answer is 3/4.", "3/4"),
        ("The answer is 50 percent.", "50%"),
        (r"The answer is 50\%.", r"50\%"),
        ("The answer is $5.", "$5"),
        ("The answer is $5 and not $6.", None),
        ("The answer is 5!", "5"),
        ("The answer is 12 apples (see above).", "12"),
        ("The answer is 5 (see step 3).", "5"),
        ("The answer is 1, 2, 3.", "1, 2, 3"),
        (r"The answer is \frac{1}{2}.", r"\frac{1}{2}"),
        (r"The answer is $\frac{ 1 }{ 2 }$, finally.", r"\frac{ 1 }{ 2 }"),
        (r"The answer is \(x^2 + 1\).", "x^2 + 1"),
        ("The answer is\n\\[ x + 1 \\]", "x + 1"),
        ("Answer:\n$$\n2\\sqrt{3}\n$$", r"2\sqrt{3}"),
        (r"The answer is 3 \times 10^{8} m/s.", r"3 \times 10^{8} m/s"),
        ("## Final answer\n\n42\n", "42"),
        ("**Final Answer**\n\n$x$", "x"),
        ("5 + 5 = 10\n#### 10", "10"),
        ("The answer is 4. But no: the answer must be 6.", "6"),
        # A later phrase without a number doesn't take back an earlier one.
        ("The answer is 4. I am sure that the answer is right.", "4"),
        ("The answer would be 6 if we had more.", None),
        ("The answer is 3 or 5.", None),
        ("The answer is 5 million.", None),
        ("The answer is $3$ or $5$.", None),
        (r"The answer is \(-2\) or \(2\).", None),
        ("The answer is $2$ million.", None),
        ("The answer is $x=1$ and $y=2$.", None),
        ("The answer is 3, 5, or 7.", None),
        ("The answer is 3 : 2.", "3 : 2"),
        ("The answer is 5! = 120.", "120"),
        ("The answer is 4 hours 30 minutes.", None),
        ("The answer is 5 feet 6 inches.", None),
        ("The answer is 2 dozen.", None),
        ("The answer is 1 in 6.", None),
        ("The answer is 3 out of 5.", None),
        ("The answer is 5 inches.", "5"),
        ("The answer is 5, and we are done.", "5"),
        ("The answer is 3: because of that.", "3"),
        ("Is it true that the answer is 5?", None),
        ("the answer is $5x$?", None),
        ("the answer is not 5", None),
        ("the answer is unclear. Let me try 5", None),
        ("the answer is between 3 and 5", None),
        ("the answer is a number, 5", None),
        (r"the answer is \boxed{ 7", None),
        ("I have 5 apples", None),
        ("The result of the first step is 5", None),
        ("the answer is", None),
    ],
)
def test_else_a_number_after_an_answer_phrase(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} </think> \boxed{2}", "2"),
        # What follows the thinking counts, even if it states the answer less formally.
        (r"\boxed{1} </think> The answer is 2.", "2"),
        (r"so \boxed{1} </think> That's it.", "1"),
        ("the answer is 1 </think>", "1"),
        (r"<think> \boxed{1} </think> <think> again </think> \boxed{3}", "3"),
        (r"<think> so \boxed{1}, or", None),
        ("<think> the answer is 1, wait", None),
        ("<think> a </think> <think> the answer is 1, wait", None),
        ("<think> hm </think>", None),
    ],
)
def test_the_final_answer_follows_the_thinking(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed 4", "4"),
        (r"\boxed4", "4"),
        (r"$\boxed -1,234.5$", "-1,234.5"),
        (r"\boxed 50\%", r"50\%"),
        (r"\boxed 3/4.", "3/4"),
        (r"$$\boxed\frac{1}{2}$$", r"\frac{1}{2}"),
        (r"\(\boxed \sqrt{2}\)", r"\sqrt{2}"),
        (r"\boxed C.", "C"),
        (r"\boxed{3}, no: \boxed 4", "4"),
        (r"\boxed 4, no: \boxed{3}", "3"),
        (r"\framebox{6}", "6"),
        (r"in a \boxed answer", None),
        (r"\boxed", None),
        (r"\boxed{", None),
    ],
)
def test_a_box_without_braces(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>5</answer>", "5"),
        ("<Answer> 5 </ANSWER>", "5"),
        ("<final_answer>5</final_answer>", "5"),
        ("<answer>\n$\\frac{1}{2}$\n</answer>", r"\frac{1}{2}"),
        ("<answer>**12**</answer>", "12"),
        ("<answer>(B)</answer>", "(B)"),
        ("<answer>5 apples</answer>", "5 apples"),
        ("<answer>The answer is 5.</answer>", "5"),
        (r"<answer>We find \boxed{5} here.</answer>", "5"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1</answer>, between <answer> and </answer>", "1"),
        (r"\boxed{1}, rather <answer>2</answer>", "2"),
        (r"<answer>1</answer>, rather \boxed{2}", "2"),
        ("The answer is 3. <answer>4</answer>", "4"),
        ("Put it into <answer></answer>. The answer is 3.", "3"),
        ("<think>the answer is 30?</think> <answer>12</answer>", "12"),
        ("<think><answer>30</answer> hm", None),
        ("<answer>5", None),
        # Prose, and a box that isn't one.
        ("<answer>\nFirst, we add.\nThen we are done.\n</answer>", None),
        (r"<answer>\boxed{</answer>", None),
    ],
)
def test_an_answer_in_tags(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12<|im_end|>", "12"),
        ("The answer is 12<|eot_id|>", "12"),
        ("The answer is 12</s>", "12"),
        ("The answer is 12<end_of_turn>", "12"),
        ("The answer is C<|return|>", "C"),
        (r"The answer is \frac12<｜end▁of▁sentence｜>", r"\frac12"),
        ("The answer is 2 < 3", "2 < 3"),
    ],
)
def test_what_ends_a_turn_is_not_in_the_answer(text, answer):
    assert extract(text) == answer


def test_many_open_tags_cost_no_square():
    # Were each opener matched to the end of the text, this would take minutes.
    assert extract("<answer>1</answer> " + "<answer> 1 + " * 30_000) == "1"


def test_as_a_slow_search_over_all_boxes_finds_it():
    """Every opener tried from the back, each scanned to the end of the text."""

    def slow(text):
        for start in range(len(text), -1, -1):
            if text.startswith("\\boxed{", start):
                depth = 1
                for end in range(start + 7, len(text)):
                    depth += {"{": 1, "}": -1}.get(text[end], 0)
                    if depth == 0:
                        if text[start + 7 : end].strip():
                            return text[start + 7 : end].strip()
                        break
        return None

    rng = random.Random(0)
    found = 0
    for _ in range(2000):
        text = "".join(rng.choices(["\\boxed{", "{", "}", "1", " "], [2, 1, 3, 2, 1], k=rng.randint(0, 14)))
        assert extract(text) == slow(text), text
        found += slow(text) is not None
    assert 300 < found < 1700


def test_a_loop_of_unfinished_boxes_costs_no_square():
    # Were every opener scanned to the end, this would be 4.5e9 steps, and no test run would see its end.
    assert extract("\\boxed{1} " + "\\boxed{ 1 + " * 30_000) == "1"


def test_text_is_expected():
    with pytest.raises(LaconicError, match=r"the text to extract an answer from is 5; expected a str"):
        extract(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("5}", 1),
        ("\\frac{1}{2}} so", 11),
        ("\\{1\\}} so", 5),
        ("a\\\\} b", 3),
        ("", None),
        ("5", None),
        ("{5}", None),
        ("}}", 0),
    ],
)
def test_where_an_open_box_ends(text: str, end: int | None) -> None:
    assert end_of_box(text) == end
