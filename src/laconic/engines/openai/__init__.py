"""Servers with OpenAI's API as an engine: vLLM, SGLang, llama.cpp, laconic's own, a cloud."""

from __future__ import annotations

from typing import Any

__all__ = ["OpenAIEngine"]


def __getattr__(name: str) -> Any:
    """`OpenAIEngine`. Raises InputError where httpx is not installed."""
    if name == "OpenAIEngine":
        from laconic.engines.openai.endpoints import check_installed

        check_installed()
        from laconic.engines.openai.engine import OpenAIEngine

        return OpenAIEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
