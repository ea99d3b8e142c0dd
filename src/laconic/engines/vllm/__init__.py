"""laconic inside stock vLLM: KV-cache compression as a plugin, and vLLM as an engine.

Nothing here changes vLLM by being installed: a launch opts in with `--additional-config '{"laconic": {...}}'`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["VLLMEngine"]


def __getattr__(name: str) -> Any:
    """`VLLMEngine`. Raises InputError where vLLM is not installed."""
    if name == "VLLMEngine":
        from laconic.engines.vllm.engine.client import check_installed
        from laconic.engines.vllm.engine.engine import VLLMEngine

        check_installed()
        return VLLMEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
