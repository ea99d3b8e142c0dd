r"""Where a text stops thinking and begins to answer: the marks that reasoning models put around their thoughts.

`MARKERS` is the table; `register_marker` adds a row for a model that isn't in it. `split_off_thinking` reads a text from its
first mark to its last and returns what follows, and `ends_in_thinking` tells whether a prompt ends within thinking (as the
chat templates of DeepSeek-R1 and others do, whose texts then have no mark where the thinking begins).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from laconic import checks
from laconic.errors import InputError


@dataclass(frozen=True, slots=True)
class ThinkingMarker:
    r"""How one kind of model marks its thinking.

    Raises InputError for a field that is no text, an expression that doesn't compile, has groups or matches the empty text,
    and for an empty name, sign or closing.

    >>> ThinkingMarker("pondering", r"<ponder>", r"</ponder>", "</ponder>", "</ponder>\n", "models of ours").name
    'pondering'
    """

    name: str
    begin: str
    """Regular expression, without capturing groups, of what begins the thinking."""
    end: str
    """Regular expression, without capturing groups, of what ends the thinking and begins the answer."""
    sign: str
    """A text by which a model that writes these marks is recognised: its vocabulary or chat template has it."""
    closing: str
    """What to append to thinking in order to end it and begin the answer (the probe judge does)."""
    models: str = ""
    """Which models write this, for people to read."""
    paired: bool = False
    """Whether the marks are ordinary words, so that an end without its beginning says nothing."""

    def __post_init__(self) -> None:
        for field in ("name", "begin", "end", "sign", "closing", "models"):
            value = getattr(self, field)
            if not isinstance(value, str) or (not value and field != "models"):
                raise InputError(f"{field} of a marker is {value!r}; expected a text")
        for field in ("begin", "end"):
            pattern = getattr(self, field)
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"{field} of marker {self.name} is {pattern!r}; expected a regular expression ({error})"
                ) from error
            if compiled.groups or compiled.match(""):
                raise InputError(
                    f"{field} of marker {self.name} is {pattern!r}; expected an expression without capturing groups that "
                    "doesn't match the empty text"
                )


def _tags(name: str, begin: str, end: str, models: str, closing: str | None = None) -> ThinkingMarker:
    return ThinkingMarker(name, re.escape(begin), re.escape(end), end, end if closing is None else closing, models)


# From the models' chat templates, model cards, and the reasoning parsers of vLLM 0.32 and SGLang.
MARKERS: tuple[ThinkingMarker, ...] = (
    ThinkingMarker(
        "think",
        r"<[Tt]hink(?::[^\s<>]+)?>",
        r"</[Tt]hink(?::[^\s<>]+)?>",
        "</think>",
        "\n</think>\n\n",
        "DeepSeek-R1 and V3.x, Qwen3, QwQ, GLM-4.5, Kimi-K2, MiniMax-M2, Step, Nemotron, Phi-4-reasoning, EXAONE 4, OLMo 3, "
        "ERNIE 4.5, Hunyuan, Magistral 2506, MiMo, SmolLM3, Granite 3.3 and many more",
    ),
    _tags("mistral", "[THINK]", "[/THINK]", "Magistral 2507 and later, Mistral Small 4"),
    # A message to a tool (commentary) is no answer either; only the final channel is.
    ThinkingMarker(
        "harmony",
        r"<\|channel\|>\s*(?:analysis|commentary)(?:\s*<\|message\|>)?",
        r"<\|channel\|>\s*final(?:\s*<\|constrain\|>\s*\w+)?(?:\s*<\|message\|>)?",
        "<|channel|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "gpt-oss",
    ),
    # "analysisWe need ...assistantfinalThe answer ...": what a tokenizer leaves that skips special tokens.
    ThinkingMarker(
        "harmony without special tokens",
        r"(?<![\S\s])analysis(?=[^\sa-z:.,;*_-])",
        r"assistantfinal",
        "assistantfinal",
        "assistantfinal",
        "gpt-oss, decoded with skip_special_tokens",
    ),
    _tags("gemma", "<|channel>thought", "<channel|>", "Gemma 4"),
    ThinkingMarker(
        "cohere",
        re.escape("<|START_THINKING|>"),
        re.escape("<|END_THINKING|>"),
        "<|END_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
        "Command A Reasoning",
    ),
    _tags("seed", "<seed:think>", "</seed:think>", "Seed-OSS"),
    _tags("minimax-m3", "<mm:think>", "</mm:think>", "MiniMax-M3"),
    _tags("longcat", "<longcat_think>", "</longcat_think>", "LongCat"),
    _tags("kimi", "◁think▷", "◁/think▷", "Kimi-VL-Thinking, Kimi-Dev"),
    _tags(
        "kimi-k3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        "Kimi K3",
        "<|close|>think<|sep|><|open|>response<|sep|>",
    ),
    _tags("plamo", "<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>", "PLaMo 3"),
    _tags("solar", "<|think:start|>", "<|think:end|>", "Solar Open 2"),
    _tags("apertus", "<|inner_prefix|>", "<|inner_suffix|>", "Apertus"),
    ThinkingMarker(
        "k2",
        r"<ifm\|think(?:_fast|_faster)?>",
        r"</ifm\|think(?:_fast|_faster)?>",
        "</ifm|think>",
        "</ifm|think>",
        "K2 Horizon",
    ),
    ThinkingMarker(
        "inkling",
        re.escape("<|content_thinking|>"),
        re.escape("<|content_text|>"),
        "<|content_thinking|>",
        "<|end_message|><|message_model|><|content_text|>",
        "Inkling",
    ),
    _tags("pangu", "[unused16]", "[unused17]", "openPangu"),
    ThinkingMarker(
        "sky",
        re.escape("<|begin_of_thought|>"),
        re.escape("<|end_of_thought|>"),
        "<|end_of_thought|>",
        "<|end_of_thought|>\n\n<|begin_of_solution|>\n\n",
        "Sky-T1, Bespoke-Stratos, OpenThinker",
    ),
    ThinkingMarker(
        "thought", r"<[Tt]hought>", r"</[Tt]hought>", "</thought>", "</thought>\n\n", "EXAONE Deep, Marco-o1"
    ),
    ThinkingMarker(
        "thinking", r"<[Tt]hinking>", r"</[Tt]hinking>", "</thinking>", "</thinking>\n\n", "Reflection and others"
    ),
    ThinkingMarker(
        "reasoning",
        r"<[Rr]easoning>",
        r"</[Rr]easoning>",
        "</reasoning>",
        "\n</reasoning>\n",
        "models trained by reinforcement learning to write <reasoning> and <answer>",
    ),
    ThinkingMarker(
        "granite",
        r"(?<![\S\s])Here(?: i|')s my thought process:",
        r"Here(?: i|')s my response:",
        "Here is my response:",
        "\n\nHere is my response:\n\n",
        "Granite 3.2",
        paired=True,
    ),
)

_added: dict[str, ThinkingMarker] = {}


def register_marker(marker: ThinkingMarker) -> ThinkingMarker:
    """Make a marker count in every text from now on, in this process. Returns it.

    Raises InputError if it is no ThinkingMarker, or its name is another one's.
    """
    if not isinstance(marker, ThinkingMarker):
        raise InputError(f"{checks.shown(marker)} can't be registered; expected a laconic.answers.ThinkingMarker")
    if {known.name: known for known in known_markers()}.get(marker.name, marker) != marker:
        raise InputError(f"marker name {marker.name} is taken; choose another name")
    if marker.name not in {known.name for known in MARKERS}:
        _added[marker.name] = marker
    return marker


def known_markers() -> tuple[ThinkingMarker, ...]:
    """Every marker that counts: the table's, then those that were registered."""
    return (*MARKERS, *_added.values())


class TextAfterThinking(NamedTuple):
    """What a text says after its thinking."""

    said: str
    """"" in thinking that hasn't ended."""
    after: bool
    """Whether thinking came before it."""
    thinking: bool
    """Whether the text ends within thinking."""
    marker: ThinkingMarker | None = None
    """Whose mark began that thinking; None where the prompt did."""


def split_off_thinking(text: str, thinking: bool = False) -> TextAfterThinking:
    """The text after the last thinking. thinking: whether the text begins within it (`ends_in_thinking` of its prompt).

    An end without a beginning says that the prompt had begun it. Another marker's marks within thinking are quotations.
    """
    text = text.lstrip()
    at, after, opener = 0, False, None
    for _, end, begins, marker in _marks(text):
        if begins:
            opener = opener if thinking else marker
            thinking = True
        elif opener is marker or (opener is None and not marker.paired):
            thinking, opener, after, at = False, None, True, end
    return TextAfterThinking("" if thinking else text[at:], after, thinking, opener)


def ends_in_thinking(prompt: str) -> bool:
    """Whether a prompt ends in thinking that has just begun, so that the text that follows begins within it."""
    end = checks.text("prompt", prompt).rstrip()[-_LONGEST:]
    marks = _marks(end)
    return bool(marks) and marks[-1][1] == len(end) and marks[-1][2]


_LONGEST = 200  # characters, of any mark


def _marks(text: str) -> list[tuple[int, int, bool, ThinkingMarker]]:
    """(start, end, whether thinking begins there, by which marker) of all marks in a text, in order."""
    # One expression a mark, since each then begins with a literal that can be searched for: ten times as fast as all in one.
    found = [
        (match.start(), match.end(), begins, marker)
        for marker in known_markers()
        for begins, mark in ((True, marker.begin), (False, marker.end))
        for match in re.finditer(mark, text)
    ]
    return sorted(found, key=lambda mark: mark[:2])
