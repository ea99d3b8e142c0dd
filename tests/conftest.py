"""One thread a test process: tests run side by side, and their models are too small to share a core's work.

Tests that need vLLM, in files named test_live_*.py anywhere under engines/vllm and test_live_vllm_*.py elsewhere, are
collected only where it is installed. `make test-vllm` sets LACONIC_NEED_VLLM=1: there a missing vLLM is an error, not a skip.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# Test processes that run side by side are told the size of a terminal that they don't have.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)

HERE = Path(__file__).parent
NEED_VLLM = "LACONIC_NEED_VLLM"


def needs_vllm(path: Path) -> bool:
    """Whether a test file is one of those that import vLLM."""
    live = path.name.startswith("test_live_") and HERE / "engines" / "vllm" in path.parents
    return path.suffix == ".py" and (live or path.name.startswith("test_live_vllm_"))


def pytest_configure() -> None:
    if os.environ.get(NEED_VLLM) == "1" and importlib.util.find_spec("vllm") is None:
        raise pytest.UsageError(
            f"{NEED_VLLM}=1, but vLLM is not installed here: run `make test-vllm`, which installs it"
        )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if needs_vllm(collection_path) and importlib.util.find_spec("vllm") is None else None
