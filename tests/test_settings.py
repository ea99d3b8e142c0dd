"""The one grammar of settings: NAME:key=value,... of policies, strategies and judges."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any, Literal

import pytest

from laconic.errors import InputError
from laconic.settings import (
    OBJECT,
    Setting,
    SettingsReader,
    find_name,
    given_keys,
    parameters_of,
    setting,
    split_spec,
    typed,
)


@dataclass(frozen=True)
class Oven:
    shelf: object
    heat: int | float = setting(180, "degrees")
    minutes: int | None = setting(None, "how long; none: until it is done")
    fan: bool = setting(False, "whether it blows")
    mode: Literal["top", "all"] = setting("all", "where it is hot")
    note: str | None = setting("x", "for the cook")


class Judge:
    def __init__(self, share: float = 0.5, suffix: str | None = None) -> None:
        pass


READER = SettingsReader("oven", "big", parameters_of(Oven), {"top": "mode"})


def read(text: str, **overrides: Any) -> dict[str, Any]:
    return READER.read(f"big:{text}", text, overrides)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", {}),
        (" , ", {}),
        ("heat=200", {"heat": 200}),
        ("heat=200.5", {"heat": 200.5}),
        (" minutes = 3 , fan = TRUE ", {"minutes": 3, "fan": True}),
        ("minutes=None", {"minutes": None}),
        ("note=none", {"note": None}),  # none is none, of a text too
        ("note=a=b", {"note": "a=b"}),
        ("note=", {"note": ""}),
        ("top", {"mode": "top"}),
        ("mode=top", {"mode": "top"}),
    ],
)
def test_a_text_is_read_by_the_types_of_the_settings(text: str, want: dict[str, Any]) -> None:
    found = read(text)
    assert found == want
    assert [type(value) for value in found.values()] == [type(value) for value in want.values()]


def test_overrides_win_and_none_is_not_given() -> None:
    assert read("heat=200,minutes=3", heat=90, minutes=None) == {"heat": 90, "minutes": 3}
    assert read("", shelf=[1]) == {"shelf": [1]}  # Python values, checked by the class


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("heat", {}, "'heat' in oven 'big:heat' has no value; expected setting=value"),
        ("all", {}, "'all' in oven 'big:all' has no value; expected setting=value"),  # no word that stands alone
        ("heat=1,heat=2", {}, "heat is given twice in oven 'big:heat=1,heat=2'; give it once"),
        ("top,mode=all", {}, "mode is given twice in oven 'big:top,mode=all'; give it once"),
        ("gas=1", {}, "setting 'gas' of oven big is unknown; its settings: shelf, heat, minutes, fan, mode, note"),
        ("", {"gas": 1}, "setting 'gas' of oven big is unknown; its settings: shelf, heat, minutes, fan, mode, note"),
        ("=1", {}, "setting '' of oven big is unknown; its settings: shelf, heat, minutes, fan, mode, note"),
        ("heat=hot", {}, "heat of oven big is 'hot'; expected a number"),
        ("minutes=2.5", {}, "minutes of oven big is '2.5'; expected a whole number or none"),
        ("minutes=", {}, "minutes of oven big is ''; expected a whole number or none"),
        ("fan=1", {}, "fan of oven big is '1'; expected true or false"),
        ("mode=left", {}, "mode of oven big is 'left'; expected top or all"),
        ("shelf=1", {}, "shelf of oven big can't be written as text; make the oven in Python"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text, **overrides)
    assert str(caught.value) == said


def test_nothing_to_set_is_said_too() -> None:
    with pytest.raises(InputError, match="setting 'x' of judge perfect is unknown; its settings: none"):
        SettingsReader("judge", "perfect", {}).read("perfect:x=1", "x=1")


def test_what_can_be_set_is_listed_as_it_is_typed() -> None:
    assert READER.listed() == [
        Setting("shelf", OBJECT, "", ""),
        Setting("heat", "number", "180", "degrees"),
        Setting("minutes", "int or none", "none", "how long; none: until it is done"),
        Setting("fan", "true or false", "false", "whether it blows"),
        Setting("mode", "top or all", "all", "where it is hot"),
        Setting("note", "text or none", "x", "for the cook"),
    ]
    missing = READER.missing({})
    assert missing is not None
    assert (missing.name, missing.default) == ("shelf", MISSING)
    assert READER.missing({"shelf": 1}) is None


def test_the_arguments_of_a_class_that_is_no_dataclass() -> None:
    found = parameters_of(Judge, {"share": "of what", "suffix": "what follows"})
    reader = SettingsReader("judge", "odd", found)
    assert reader.listed() == [
        Setting("share", "number", "0.5", "of what"),
        Setting("suffix", "text or none", "none", "what follows"),
    ]
    assert reader.read("odd:share=1,suffix= so ", "share=1,suffix= so ") == {"share": 1.0, "suffix": "so"}
    with pytest.raises(KeyError):  # a setting that nobody has described is a bug of ours
        parameters_of(Judge, {"share": "of what"})


def test_names_and_keys() -> None:
    assert split_spec("oven", " big : heat = 3 ", "big:heat=200") == ("big", "heat = 3")
    assert split_spec("oven", "big", "big:heat=200") == ("big", "")
    assert split_spec("oven", "llm:a:b", "big") == ("llm", "a:b")
    with pytest.raises(
        InputError, match=r"oven is 5; expected a text \(NAME or NAME:setting=value,\.\.\., such as big:"
    ):
        split_spec("oven", 5, "big:heat=200")
    assert given_keys("big: heat = 3,top,=1") == {"heat", "top"}
    assert given_keys("big") == set()
    known = ("self-consistency", "rkv")
    assert find_name(" Self_Consistency", known) == find_name("selfconsistency", known) == "self-consistency"
    assert find_name("R-KV", known) == "rkv"
    assert find_name("SC", known, {"sc": "self-consistency"}) == "self-consistency"
    assert find_name("sc", known) is None
    assert find_name("", known) is None


@pytest.mark.parametrize(("value", "text"), [(None, "none"), (True, "true"), (1.5, "1.5"), (4, "4"), ("a", "a")])
def test_values_are_typed_as_they_are_read(value: object, text: str) -> None:
    assert typed(value) == text
