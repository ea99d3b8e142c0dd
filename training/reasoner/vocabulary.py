"""The tokens: words, digits, letters, and keyed tokens that carry what they are about.

A keyed token says whose it is: ``h=6`` (h's value), ``h:w`` and ``h+k`` (the two halves of h = w + k), ``h>n`` (after h
do n; ``*>h``: h is first; ``n>.``: n is last). :class:`Parts` names the components a keyed token is made of; training
builds embeddings from them, so that what is learnt about one letter serves all.
"""

from __future__ import annotations

from dataclasses import dataclass

from laconic.problems.programs import LETTERS

PAD, EOS, UNK, USER, ASSISTANT, THINK, END_THINK = SPECIALS = (
    "<pad>", "<eos>", "<unk>", "<|user|>", "<|assistant|>", "<think>", "</think>",
)  # fmt: skip
WORDS = tuple(
    """
    + - = , . : ; ? * } \\boxed{ given start find hint a about above again all also alright am an and answer as are
    at back be but by care careful carefully check compute could dead do done double draft earlier end far fine
    first for from going good gives had has have hmm here i in is it its keep know known last later leave let line
    look me moment more must need next no not now of okay on once one or over problem quick read recall result far
    right say see seems should sits so solve some step steps still sure take than that the then there these things
    think this through time to trace true try value verify wait was way we well what which with work wrong yet you
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a token is made of: its kind, and (-1: absent) the letter it is about, the letter it names, its digit."""

    kind: str
    key: int = -1
    argument: int = -1
    digit: int = -1


def _keyed() -> dict[str, Parts]:
    index = {letter: i for i, letter in enumerate(LETTERS)} | {"*": len(LETTERS), ".": len(LETTERS)}
    tokens = {str(d): Parts("digit", digit=d) for d in range(10)}
    tokens |= {a: Parts("letter", key=index[a], argument=index[a]) for a in LETTERS}
    tokens |= {f"{a}={d}": Parts("=", key=index[a], digit=d) for a in LETTERS for d in range(10)}
    for sign in ":+->":
        tokens |= {
            f"{a}{sign}{b}": Parts(sign, key=index[a], argument=index[b]) for a in LETTERS for b in LETTERS if a != b
        }
    tokens |= {f"*>{a}": Parts(">", key=index["*"], argument=index[a]) for a in LETTERS}
    tokens |= {f"{a}>.": Parts(">", key=index[a], argument=index["."]) for a in LETTERS}
    return tokens


KEYED = _keyed()
TOKENS: tuple[str, ...] = tuple(dict.fromkeys([*SPECIALS, *KEYED, *WORDS]))
IDS: dict[str, int] = {token: i for i, token in enumerate(TOKENS)}
KINDS = ("word", "digit", "letter", "=", ":", "+", "-", ">")
PARTS: tuple[Parts, ...] = tuple(KEYED.get(token, Parts("word")) for token in TOKENS)


def encode(text: str) -> list[int]:
    """Ids of blank-separated ``text``; a word outside the vocabulary raises ``KeyError`` (training text has none)."""
    return [IDS[word] for word in text.split()]
