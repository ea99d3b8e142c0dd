"""``python -m laconic.lab.lighteval NAME,key=value,... TASKS``: lighteval's `custom` command on laconic's model."""

from __future__ import annotations

from laconic.lab.lighteval.command import main

main()
