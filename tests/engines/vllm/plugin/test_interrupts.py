"""Ctrl-C reaches the process that starts vLLM, and none of vLLM's. Needs no vLLM."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import pytest

from laconic.engines.vllm.engine.start_environment import vllm_environment
from laconic.engines.vllm.plugin import interrupts

INTERRUPTED = """
import os, signal, sys
from laconic.engines.vllm.plugin import interrupts
interrupts.ignore_interrupts()
signal.raise_signal(signal.SIGINT)
print("goes on")
"""


@pytest.mark.parametrize(("inside", "goes_on"), [(True, True), (False, False)])
def test_only_processes_started_inside_ignore_ctrl_c(inside: bool, goes_on: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + INTERRUPTED
    with vllm_environment(eager=True) if inside else contextlib.nullcontext():
        interrupts.ignore_interrupts()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ("goes on" in done.stdout, "KeyboardInterrupt" in done.stderr) == (goes_on, not goes_on)
    assert signal.getsignal(signal.SIGINT) is before


MASKED = """
import signal, threading
from multiprocessing import resource_tracker
from laconic.engines.vllm.plugin import interrupts
def start():
    interrupts.block_interrupts_for_children()
    resource_tracker.ensure_running()
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_the_thread_that_starts_processes_blocks_ctrl_c_for_them_and_no_other_does() -> None:
    done = subprocess.run([sys.executable, "-c", MASKED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
