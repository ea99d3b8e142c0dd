"""Ctrl-C, which a terminal sends to all processes at once, and vLLM's processes: it is for ours to end them.

Imported in every process of vLLM's: the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing import resource_tracker

STARTER = "LACONIC_VLLM_STARTER"
"""The variable that holds the number of the process that ends vLLM's processes; theirs have another number."""


def block_interrupts_for_children() -> None:
    """Processes that this thread starts don't see Ctrl-C, which a terminal sends to all of them: it is ours to end them.

    The block holds from their first moment, but is lost where Python's resource tracker dies and is started again meanwhile;
    `ignore_interrupts` holds from where they load laconic.
    """
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # where it isn't, starting a process starts it, and lifts the block
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def ignore_interrupts() -> None:
    """In a process that vLLM started with STARTER in its environment: Ctrl-C does nothing. Anywhere else this does nothing."""
    if os.environ.get(STARTER, str(os.getpid())) != str(os.getpid()):
        with contextlib.suppress(ValueError):  # not in its main thread, where alone this can be said
            signal.signal(signal.SIGINT, signal.SIG_IGN)
