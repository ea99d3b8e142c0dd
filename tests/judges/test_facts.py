"""Facts read from texts as people and models write them."""

from __future__ import annotations

import pytest

from laconic.judges.facts import facts


def named(text: str) -> dict[str, str]:
    return {name: value for name, value in facts(text).items() if value}


def numbers(text: str) -> set[str]:
    return {name for name, value in facts(text).items() if not value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 5", {"x": "5"}),
        ("So $x = 5$ and $y=\\frac{1}{2}$.", {"x": "5", "y": "1/2"}),
        ("*>s s:b s-r b=1 r=9 2 s=2 s>t t:j", {"b": "1", "r": "9", "s": "2"}),
        ("S = 3 + 4 = 7", {"S": "7"}),
        ("AB = BC = 10", {"AB": "10", "BC": "10"}),
        ("x + y = 3, and f(2) = -4; a_{1} = 0.5", {"x+y": "3", "f(2)": "-4", "a_1": "1/2"}),
        ("**Total = 1,234.50**", {"Total": "2469/2"}),
        ("2x = 6 so x = 3", {"2x": "6", "x": "3"}),
        ("x^2 = 9", {"x^2": "9"}),
        ("\\alpha = 30^\\circ\nv := 7", {"\\alpha": "30", "v": "7"}),
        ("x = 5. y = 6! z = 2.5", {"x": "5", "y": "6", "z": "5/2"}),
    ],
)
def test_names_and_their_values(text: str, expected: dict[str, str]) -> None:
    assert named(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1 + 2 = 3",  # numbers only: true of everything
        "x = y + 3",  # no value
        "x = 3 + y",
        "x = 2y",
        "x <= 4, y >= 5, z != 6, w == u, x \\leq 7",  # other relations
        "x = \ny 7",  # another line
        "t = 2.5h",
        "",
    ],
)
def test_what_is_no_value_of_a_name(text: str) -> None:
    assert named(text) == {}


def test_numbers_are_facts_too() -> None:
    assert numbers("we add 2 and 1,000 and 3.50; 1 + 2 = 3") == {"2", "1000", "7/2", "1", "3"}
    assert numbers("x2 = a, b3") == set()


def test_the_last_value_holds_and_comes_last() -> None:
    found = facts("x = 4 then y = 1. Wait, x = 5")
    assert (found["x"], found["y"]) == ("5", "1")
    assert [name for name, value in found.items() if value] == ["y", "x"]


def test_spellings_of_a_number_agree() -> None:
    assert named("x = 2.50") == named("x=5/2") == named("x = \\frac{5}{2}")


def test_long_texts_take_no_time_to_speak_of() -> None:
    # The worst that was found, a sum that never ends: a search from every place in it would not end either.
    assert facts("a + " * 100_000 + "= 7") == {"7": ""}
    assert facts("a + " * 100_000 + "b = 7")["7"] == ""


def test_an_excerpt_without_a_text_is_refused() -> None:
    """A replay without a tokenizer has tokens alone: nothing in common would be said of all of them."""
    from laconic.errors import LaconicError
    from laconic.judges.registry import open_judge
    from laconic.prune.judge import Excerpt

    with pytest.raises(LaconicError, match="has no text, and the judge facts reads text"):
        open_judge("facts").read([Excerpt("a", "tokens:3", "q", (1,), (2, 3, 4), "")])
    open_judge("facts").read([Excerpt("a", "tokens:3", "q", (1,), (2,), "")])  # its end alone
