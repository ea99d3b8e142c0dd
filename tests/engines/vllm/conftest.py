"""What the tests of the vLLM engine share; importing `tiny` also sets the environment that vLLM wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.vllm.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model with its tokenizer."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))
