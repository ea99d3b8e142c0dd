"""Prompts of the model behind a server."""

from __future__ import annotations

import pytest

from laconic.cli.served_model import continued


@pytest.mark.parametrize(
    ("before", "last", "prompt"),
    [
        ("U A<think>", {"content": "<think>x"}, "U A<think>x"),
        ("U A<think>\n", {"content": "x"}, "U A<think>\n\n</think>\n\nx"),
        ("U A", {"content": "x"}, "U Ax"),
        ("U A<think>", {"content": "", "reasoning_content": "t"}, "U A<think>t"),
        ("U A<think>", {"content": "x", "reasoning_content": "t"}, "U A<think>t\n</think>\n\nx"),
        ("U A", {"content": "x", "reasoning_content": "t"}, "U A<think>\nt\n</think>\n\nx"),
        ("U A<think>", {"content": "t</think>x"}, "U A<think>t</think>x"),
        ("U A<think>", {"content": ""}, "U A<think>"),
    ],
)
def test_a_message_that_is_gone_on_with(before: str, last: dict[str, str], prompt: str) -> None:
    assert continued(before, last) == prompt
