"""What is said before torch and transformers are there."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import io, sys
class Terminal(io.StringIO):
    def isatty(self):
        return True
sys.stderr = Terminal()
from laconic.cli.loading import announce_loading
announce_loading(None)
announce_loading("some/model")
announce_loading("unseen", False)
assert "torch" not in sys.modules, "too late to say so"
sys.modules["transformers.modeling_utils"] = sys
announce_loading("loaded")
print(sys.stderr.getvalue(), end="")
"""


def test_it_names_the_model_and_needs_no_torch_to_say_so() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [
        "loading torch, transformers and the bundled reasoner ...",
        "loading torch, transformers and some/model ...",
    ]
