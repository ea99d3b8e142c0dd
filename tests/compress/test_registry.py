"""The registry: names, specs, and third parties that work or don't."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from laconic.compress import registry
from laconic.compress.policies import H2O, RPC, FullKV, StreamingLLM
from laconic.compress.policy import Policy
from laconic.compress.registry import broken, get, known, parse, register, settings_of
from laconic.compress.schedule import Fixed, Schedule
from laconic.compress.scorers import Recency
from laconic.errors import LaconicError
from laconic.settings import Setting, setting


@dataclass(frozen=True)
class Tail(Policy):
    """A stranger's policy."""

    name: ClassVar[str] = "tail"

    budget: int = setting(16, "tokens kept")
    loud: bool = setting(False, "whether it says so")
    label: str = setting("x", "any text")

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, 1, 1)

    def make_scorer(self) -> Recency:
        return Recency(0)


@dataclass(frozen=True)
class Usurper(Tail):
    name: ClassVar[str] = "rpc"


@dataclass(frozen=True)
class Camel(Tail):
    name: ClassVar[str] = "My-Tail"


def entry(name: str, attribute: str) -> EntryPoint:
    return EntryPoint(name, f"laconic_stranger:{attribute}", registry.GROUP)


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with one policy that works, and others that don't in every way we thought of."""
    module = types.ModuleType("laconic_stranger")
    module.Tail = Tail  # type: ignore[attr-defined]
    module.Usurper = Usurper  # type: ignore[attr-defined]
    module.Camel = Camel  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "laconic_stranger", module)
    entries = [
        entry("tail", "Tail"),
        entry("gone", "Nothing"),
        EntryPoint("absent", "laconic_no_such_module:Policy", registry.GROUP),
        entry("number", "number"),
        entry("othername", "Tail"),
        entry("rpc", "Usurper"),
        entry("My-Tail", "Camel"),
        EntryPoint("h2o", "laconic.compress.policies:H2O", registry.GROUP),
        entry("tail", "Tail"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == registry.GROUP else [])
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    registry._third_parties.cache_clear()
    yield
    registry._third_parties.cache_clear()


def test_ours() -> None:
    assert list(known())[:17] == [
        "full",
        "rpc",
        "h2o",
        "tova",
        "streamingllm",
        "rkv",
        "snapkv",
        "knorm",
        "learned",
        "expectedattention",
        "kvzap",
        "lightthinker",
        "vase",
        "randomattention",
        "random",
        "oracle",
        "hindsight",
    ]
    assert all(cls.name == name and cls.summary for name, cls in list(known().items())[:17])


@pytest.mark.parametrize("name", ["rpc", "RPC", " rpc "])
def test_names_are_forgiving(name: str) -> None:
    assert get(name) is RPC


def test_other_spellings() -> None:
    assert get("Full-KV") is get("fullkv") is FullKV
    assert get("streaming_llm") is get("streaming") is StreamingLLM
    assert get("R-KV").name == "rkv"


def test_parse() -> None:
    assert parse("rpc") == RPC()
    assert parse("rpc:") == RPC()
    assert parse("rpc:interval=1024,ratio=8,pooling=max") == RPC(interval=1024, ratio=8, pooling="max")
    assert parse(" rpc : interval = 1000 , ratio = 2.5 ").ratio == 2.5  # type: ignore[attr-defined]
    assert isinstance(parse("rpc:ratio=8").ratio, int)  # type: ignore[attr-defined]
    assert parse("h2o:window=none") == H2O()
    assert parse("h2o:window=3") == H2O(window=3)
    assert parse("rpc:ratio=8", ratio=2, window=None) == RPC(ratio=2)
    keep = lambda ids: ids > 3  # noqa: E731
    assert parse("oracle:ratio=2", keep=keep).scorer.keep is keep  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        ("rcp", {}, "policy 'rcp' is unknown; expected one of full, rpc, h2o"),
        ("", {}, "policy '' is unknown"),
        ("rpc:intervals=3", {}, "setting 'intervals' of policy rpc is unknown; its settings: interval, ratio, window"),
        ("full:budget=3", {}, "setting 'budget' of policy full is unknown; its settings: none"),
        ("rpc", {"budget": 3}, "setting 'budget' of policy rpc is unknown"),
        ("rpc:interval", {}, "'interval' in policy 'rpc:interval' has no value; expected setting=value"),
        ("rpc:ratio=2,ratio=4", {}, "ratio is given twice"),
        ("rpc:interval=many", {}, "interval of policy rpc is 'many'; expected a whole number"),
        ("rpc:interval=1024.5", {}, "interval of policy rpc is '1024.5'; expected a whole number"),
        ("rpc:ratio=four", {}, "ratio of policy rpc is 'four'; expected a number"),
        ("rpc:ratio=nan", {}, "ratio is nan; expected a number at least 1"),
        ("rpc:pooling=mean", {}, "pooling of policy rpc is 'mean'; expected avg or max"),
        ("h2o:window=half", {}, "window of policy h2o is 'half'; expected a whole number or none"),
        ("rpc:ratio=0.5", {}, "ratio is 0.5; expected a number at least 1"),
        ("rpc:interval=", {}, "interval of policy rpc is ''; expected a whole number"),
        ("oracle", {}, "keep of policy oracle is missing"),
        ("oracle:keep=odd", {}, "keep of policy oracle can't be written as text; make the policy in Python"),
    ],
)
def test_parse_refuses(spec: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        parse(spec, **overrides)


def test_settings_of() -> None:
    settings = {s.field: s for s in settings_of("rpc")}
    assert list(settings) == ["interval", "ratio", "window", "pooling", "kernel", "aggregation", "compression_ratio"]
    assert settings["interval"] == Setting("interval", "int", "4096", "generated tokens between two compressions (P)")
    assert settings["ratio"].type == "number"
    assert settings["pooling"].type == "avg or max"
    assert {s.field: s for s in settings_of("h2o")}["window"].default == "none"
    assert settings_of("oracle")[0].default == ""
    assert settings_of("full") == []
    for name in known():
        assert all(s.meaning for s in settings_of(name)), name


@pytest.mark.usefixtures("strangers")
def test_a_strangers_policy_works_like_ours() -> None:
    assert known()["tail"] is Tail
    assert list(known())[:2] == ["full", "rpc"]
    assert parse("tail:budget=4,loud=true,label=a b") == Tail(4, True, "a b")
    assert parse("tail:loud=false") == Tail()
    assert Tail(loud=True).spec() == "tail:loud=true"
    assert parse(Tail(loud=True).spec()) == Tail(loud=True)
    assert [s.type for s in settings_of("tail")] == ["int", "true or false", "text"]
    with pytest.raises(LaconicError, match="loud of policy tail is 'yes'; expected true or false"):
        parse("tail:loud=yes")


@pytest.mark.usefixtures("strangers")
def test_a_broken_one_breaks_nothing_else() -> None:
    assert get("rpc") is RPC  # not the one that a stranger put in its place
    assert set(broken()) == {"gone", "absent", "number", "othername", "rpc", "tail", "My-Tail"}
    assert "laconic_stranger:Nothing fails to import (AttributeError" in broken()["gone"]
    assert "fails to import (ModuleNotFoundError" in broken()["absent"]
    assert "is no dataclass derived from laconic.compress.Policy" in broken()["number"]
    assert "disagree on the name (othername, tail)" in broken()["othername"]
    assert "its name is taken" in broken()["rpc"]
    assert "lower-case letters and digits" in broken()["My-Tail"]
    assert all("\n" not in sentence for sentence in broken().values())
    with pytest.raises(LaconicError, match="policy absent of package an unknown package can't be used"):
        get("absent")
    with pytest.raises(LaconicError, match=r"unknown; expected one of full, rpc.*, tail"):
        get("nonesuch")


@pytest.mark.usefixtures("strangers")
def test_register() -> None:
    @register
    @dataclass(frozen=True)
    class Short(Tail):
        name: ClassVar[str] = "short"

    assert get("short") is Short
    assert register(Short) is Short  # again is no harm
    assert parse("short:budget=2") == Short(budget=2)

    with pytest.raises(LaconicError, match="policy name rpc is taken by RPC; choose another name"):
        register(Usurper)
    with pytest.raises(LaconicError, match="expected a dataclass derived from Policy"):
        register(int)  # type: ignore[arg-type]

    with pytest.raises(LaconicError, match="the name of Camel is 'My-Tail'; expected lower-case letters and digits"):
        register(Camel)

    @register
    @dataclass(frozen=True)
    class OwnTail(Tail):
        """Registered by hand under a stranger's name: what the program itself says wins."""

    assert get("tail") is OwnTail
