"""``python -m laconic.lab.lm_eval``: lm-eval's own command line, in which ``--model laconic`` is known."""

from __future__ import annotations

from laconic.lab.lm_eval.command import main

main()
