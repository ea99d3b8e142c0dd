from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from laconic.cli.html import STEPS, TracePage, render
from laconic.errors import LaconicError


class Reader(HTMLParser):
    """What a browser would make of a page: text by class, and every address it would ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tokens: list[tuple[str, str]] = []
        self.cuts: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.addresses += [values[key] for key in ("src", "href", "action", "data", "srcset") if key in values]
        self.scripts += tag == "script"
        if tag not in ("meta", "line", "polyline", "wbr"):
            self.open.append((tag, values.get("class", "")))
        if self.open and self.open[-1][1].startswith("t ") and self._in_trace():
            self.tokens.append((values["class"], ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self._in_trace():
            if self.open[-1][1].startswith("t "):
                self.tokens[-1] = (self.tokens[-1][0], self.tokens[-1][1] + data)
            elif self.open[-1][1] == "c":
                self.cuts.append(data)

    def _in_trace(self) -> bool:
        return ("div", "trace") in self.open


def page(**changes: Any) -> TracePage:
    held = torch.tensor([[[1, 0, 0, 1, 1, 1]], [[0, 0, 0, 1, 0, 1]]], dtype=torch.bool)  # 2 layers, 1 group, 6 tokens
    values: dict[str, Any] = {
        "title": "a trace",
        "prompt": "<b>2 < 3 & $title</b>",
        "prompt_tokens": 4,
        "pieces": ["so", " <script>", "&amp;", "\n", "", "</think>"],
        "held": held,
        "compressions": [3, 5],
        "kv_tokens": [4, 5, 6, 5, 6, 6],
        "facts": [("policy", "rpc:a=1,b=2"), ("<dt>", "x")],
    }
    return TracePage(**values | changes)


def read(made: TracePage) -> tuple[str, Reader]:
    text, reader = render(made), Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return text, reader


def test_every_token_with_its_text_and_shade() -> None:
    _, reader = read(page())
    half = f"t s{STEPS // 2}"
    assert reader.tokens == [
        (half, "so"),
        ("t s0", " <script>"),
        ("t s0", "&amp;"),
        (f"t s{STEPS}", "\n"),
        (half, "·"),  # a token without text, such as the end token, can still be pointed at
        (f"t s{STEPS}", "</think>"),
    ]


def test_compressions_are_marked_after_their_token() -> None:
    text, reader = read(page())
    assert reader.cuts == ["1", "2"]
    assert re.search(r'&amp;amp;</span><b class="c">1</b><span', text)


def test_shades_never_hide_that_a_layer_still_holds_a_token() -> None:
    held = torch.zeros(48, 2, 3, dtype=torch.bool)
    held[0, 0, 1] = True
    held[:, :, 2] = True
    held[0, 0, 2] = False
    _, reader = read(page(pieces=["a", "b", "c"], held=held, kv_tokens=[4, 5, 6], compressions=[]))
    assert [shade for shade, _ in reader.tokens] == ["t s0", "t s1", f"t s{STEPS - 1}"]


def test_shares_are_over_layers_and_heads() -> None:
    generator = torch.Generator().manual_seed(1)
    held = torch.rand(5, 4, 9, generator=generator) < 0.4
    shares = page(pieces=["x"] * 9, held=held, kv_tokens=[5] * 9, compressions=[]).shares
    assert len(shares) == 9
    for token, share in enumerate(shares):
        count = sum(bool(held[layer, group, token]) for layer in range(5) for group in range(4))
        assert share == pytest.approx(count / 20)


def test_nothing_is_fetched_and_nothing_is_injected() -> None:
    text, reader = read(page(title="</title><script>alert(1)</script>", verdict="<img src=x onerror=alert(1)>"))
    assert reader.addresses == []
    assert reader.scripts == 2  # the data and the code, both ours
    assert "url(" not in text
    assert "http" not in text
    assert "@import" not in text
    assert "alert(1)" in reader.text  # shown as text


def test_the_data_survives_whatever_it_holds() -> None:
    text, _ = read(page())
    block = text.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in block
    data = json.loads(block)
    assert [data["patterns"][i] for i in data["of"]] == [[1, 0], [0, 0], [0, 0], [1, 1], [1, 0], [1, 1]]
    assert (data["prompt"], data["compressions"], data["kv"]) == (4, [3, 5], [4, 5, 6, 5, 6, 6])


def test_the_verdict_says_right_wrong_or_nothing() -> None:
    for right, kind, mark in ((True, "right", "✓ "), (False, "wrong", "✗ "), (None, "unknown", "")):
        assert f'<p class="verdict {kind}">{mark}answer 3</p>' in render(page(verdict="answer 3", right=right))


def test_the_chart_bends_where_the_cache_does() -> None:
    text = render(page())
    kept = re.search(r'class="kept" points="([^"]*)"', text)
    full = re.search(r'class="full" points="([^"]*)"', text)
    assert kept
    assert full
    points = [float(number) for point in kept[1].split() for number in point.split(",")]
    # x: tokens 0, 2, 3, 4, 5 of 0..5 on 640 units; y: down from 9 tokens at the top of 150 units.
    expected = [(0, 4), (2, 6), (3, 5), (4, 6), (5, 6)]
    assert points == pytest.approx([n for x, y in expected for n in (x / 5 * 640, 150 - y / 9 * 150)], abs=0.06)
    assert full[1] == f"0.0,{150 - 4 / 9 * 150:.1f} 640.0,0.0"


def test_a_trace_of_one_token_has_no_chart() -> None:
    text, reader = read(page(pieces=["x"], held=torch.ones(2, 1, 1, dtype=torch.bool), kv_tokens=[4], compressions=[]))
    assert "<svg" not in text
    assert len(reader.tokens) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"held": torch.ones(2, 1, 5, dtype=torch.bool)}, r"TracePage.held has the shape \(2, 1, 5\)"),
        ({"held": torch.ones(2, 6, dtype=torch.bool)}, "TracePage.held has the shape"),
        ({"kv_tokens": [1, 2]}, "TracePage.kv_tokens has 2 counts; expected 6"),
        ({"layers": [0, 1, 2]}, "TracePage.layers has 3 numbers; expected 2"),
        ({"compressions": [7]}, "TracePage.compressions has 7; expected counts from 1 to 6"),
    ],
)
def test_lengths_that_disagree_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        page(**changes)
