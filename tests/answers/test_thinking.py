"""Drafts and answers of every kind of model that the table lists, written as the models write them."""

from types import SimpleNamespace

import pytest

from laconic.answers import (
    MARKERS,
    ThinkingMarker,
    answer_of,
    ends_in_thinking,
    extract,
    known_markers,
    register_marker,
    thinking,
)
from laconic.errors import LaconicError

DRAFT = r"Try \boxed{30}? The answer is 30? No, 12 fits."

# marker: (what begins the thinking, what ends it and begins the answer), from the models' templates and vLLM's parsers.
WRITTEN = {
    "think": ("<think>\n", "\n</think>\n\n"),
    "mistral": ("[THINK]", "[/THINK]"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "harmony without special tokens": ("analysis", "assistantfinal"),
    "gemma": ("<|channel>thought\n", "\n<channel|>"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "minimax-m3": ("<mm:think>", "</mm:think>"),
    "longcat": ("<longcat_think>\n", "\n</longcat_think>\n"),
    "kimi": ("◁think▷", "◁/think▷"),
    "kimi-k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    "plamo": ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    "solar": ("<|think:start|>", "<|think:end|>"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "k2": ("<ifm|think_fast>", "</ifm|think_fast>"),
    "inkling": ("<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>"),
    "pangu": ("[unused16]", "[unused17]"),
    "sky": ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n"),
    "thought": ("<thought>\n", "\n</thought>\n\n"),
    "thinking": ("<thinking>", "</thinking>"),
    "reasoning": ("<reasoning>\n", "\n</reasoning>\n<answer>\n"),
    "granite": ("Here is my thought process:\n\n", "\n\nHere is my response:\n\n"),
}


def test_every_marker_is_written_here():
    assert set(WRITTEN) == {marker.name for marker in MARKERS}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_draft_is_not_the_answer(name):
    begin, end = WRITTEN[name]
    assert extract(f"{begin}{DRAFT}{end}The answer is **12**.") == "12"
    assert extract(f"{begin}{DRAFT}{end}So it is \\boxed{{12}}.") == "12"


@pytest.mark.parametrize("name", WRITTEN)
def test_thinking_that_was_cut_off_gives_none(name):
    begin, end = WRITTEN[name]
    assert extract(begin + DRAFT) is None
    assert extract(f"{begin}So the answer is 30, hmm, wait") is None
    # It began anew after an answer, and was cut off there.
    if name not in ("granite", "harmony without special tokens"):  # whose marks are words, or stand at the start only
        assert extract(f"{begin}hm{end}The answer is 5. {begin}Wait, {DRAFT}") is None


@pytest.mark.parametrize("name", WRITTEN)
def test_a_prompt_that_ends_in_its_mark_leaves_the_thinking_open(name):
    begin, end = WRITTEN[name]
    if name in ("granite", "harmony without special tokens"):
        return  # no template ends in them
    prompt = f"<|user|>What does {begin} mean? {end}<|assistant|>"
    assert not ends_in_thinking(prompt)
    assert ends_in_thinking(prompt + begin)
    assert ends_in_thinking(prompt + begin + "\n")
    assert not ends_in_thinking(prompt + begin + "\n\n" + end + "\n\n")  # thinking that was switched off
    # And the text that follows has no beginning.
    assert extract(DRAFT, thinking=True) is None
    assert extract("the answer is 30, hmm, wait", thinking=True) is None
    assert extract(f"{DRAFT}{end}The answer is **12**.", thinking=True) == "12"
    # Nor does one whose prompt isn't known.
    assert extract(f"{DRAFT}{end}The answer is **12**.") == "12"


@pytest.mark.parametrize("marker", MARKERS, ids=lambda marker: marker.name)
def test_what_a_probe_appends_ends_the_thinking(marker):
    begin, _ = WRITTEN[marker.name]
    assert extract(begin + DRAFT + marker.closing + r"\boxed{12}") == "12"


def test_gpt_oss():
    """Its messages to tools are no answers, whatever order they come in."""
    tool = r'<|channel|>commentary to=functions.python <|constrain|>json<|message|>{"code": "\\boxed{7}"}<|call|>'
    assert extract(f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant{tool}") is None
    text = "<|channel|>final <|constrain|>json<|message|>The answer is 12.<|return|>"
    assert (
        extract(f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant{tool}<|start|>assistant{text}") == "12"
    )
    assert extract("<|channel|>final<|message|>The answer is 12<|return|>") == "12"
    assert extract(f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant") is None


def test_a_mark_within_another_kind_of_thinking_is_a_quotation():
    assert extract(r"<think>They write [/THINK] or Here is my response: \boxed{30}</think> \boxed{12}") == "12"
    assert extract(r"<think>They write [/THINK] or assistantfinal \boxed{30}, hm") is None
    assert extract("[THINK]<think>hm</think> the answer is 30, no[/THINK]The answer is 12.") == "12"


@pytest.mark.parametrize("text", ["{} The answer is 5.", r"{} so \boxed{{5}}."])
@pytest.mark.parametrize(
    "words", ["Here is my response:", "analysis of it:", "The analysis", "Let me think.", "I [think]"]
)
def test_ordinary_words_mark_no_thinking(words, text):
    assert extract(text.format(words)) == "5"


def test_who_came_to_an_end_within_thinking_has_answered_in_a_box():
    assert extract(r"<think> so \boxed{1}. ", ended=True) == "1"
    assert extract(r"so \boxed{1}. ", thinking=True, ended=True) == "1"
    assert extract("<think> the answer is 1.", ended=True) is None
    # Anyone may begin a whole text like this.
    assert extract("Here's my thought process: 2 + 3 = 5. The answer is 5.", ended=True) == "5"


@pytest.mark.parametrize(
    ("thinking", "finish_reason", "answer"),
    [
        (False, "length", "3"),
        (False, "stop", "3"),
        (True, "length", None),
        (True, "stop", "3"),
        (True, "stopped", None),
    ],
)
def test_the_answer_of_a_trace(thinking, finish_reason, answer):
    trace = SimpleNamespace(text=r"so \boxed{3}", finish_reason=finish_reason, thinking=thinking)
    assert answer_of(trace) == answer


def test_the_answer_of_a_trace_whose_engine_does_not_tell():
    assert answer_of(SimpleNamespace(text=r"so \boxed{3}", finish_reason="length")) == "3"


def test_a_marker_of_one_s_own(monkeypatch):
    monkeypatch.setattr(thinking, "_added", {})
    mine = ThinkingMarker("ponder", "<ponder>", "</ponder>", "</ponder>", "</ponder>\n")
    text = f"<ponder>{DRAFT}"
    assert extract(text) == "30"
    assert register_marker(mine) is mine
    assert register_marker(mine) is mine
    assert known_markers() == (*MARKERS, mine)
    assert extract(text) is None
    assert extract(text + "</ponder> The answer is 12.") == "12"
    assert ends_in_thinking("<user> hi <ponder>")
    for other in (ThinkingMarker("ponder", "a", "b", "c", "d"), ThinkingMarker("think", "a", "b", "c", "d")):
        with pytest.raises(LaconicError, match=f"marker name {other.name} is taken"):
            register_marker(other)
    with pytest.raises(LaconicError, match=r"expected a laconic\.answers\.ThinkingMarker"):
        register_marker("<ponder>")  # type: ignore[arg-type]
    assert register_marker(MARKERS[0]) is MARKERS[0]
    assert known_markers() == (*MARKERS, mine)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", "a", "b", "c", "d"), "name of a marker is ''"),
        (("x", 5, "b", "c", "d"), "begin of a marker is 5"),
        (("x", "(", "b", "c", "d"), r"begin of marker x is '\('; expected a regular expression"),
        (("x", "a", "(b)", "c", "d"), "without capturing groups"),
        (("x", "a", "b*", "c", "d"), "doesn't match the empty text"),
        (("x", "a", "b", "", "d"), "sign of a marker is ''"),
        (("x", "a", "b", "c", ""), "closing of a marker is ''"),
    ],
)
def test_a_marker_that_marks_nothing(fields, message):
    with pytest.raises(LaconicError, match=message):
        ThinkingMarker(*fields)
