"""examples/openai_client.py against a server of the bundled model."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from .conftest import Running

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_client.py"


def test_the_example_gets_one_trace_and_two_votes(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](server.url + "/v1")
    said = capsys.readouterr().out
    assert re.search(r"one trace: \\boxed\{ \d \}, \d+ tokens", said), said
    # The answer is that with most votes.
    assert re.search(r"eight traces: \\boxed\{ (\d) \}, votes \1 \(\d\)", said), said
    assert re.search(r"by the model's name: \\boxed\{ \d \}, 8 traces at most", said), said
    server.wait_idle()
