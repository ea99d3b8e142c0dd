"""What a command says at once, before the imports and the weights that keep it silent for seconds."""

from __future__ import annotations

import sys

from laconic.cli.common import is_bundled
from laconic.cli.messages import print_to_stderr


def announce_loading(model: str | None, shown: bool = True) -> None:
    """A line on stderr where somebody looks; to be called before torch and transformers are imported.

    model: as in ``--model``. Nothing where they are there already, for then nobody has to wait.
    """
    if shown and sys.stderr.isatty() and "transformers.modeling_utils" not in sys.modules:
        print_to_stderr(f"loading torch, transformers and {'the bundled reasoner' if is_bundled(model) else model} ...")
