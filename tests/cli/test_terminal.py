"""Standard streams in every state that a shell can leave them in; each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from laconic.cli.terminal import NEAREST

LACONIC = f"{sys.executable} -m laconic"
FULL = "error: standard output can't be written: No space left on device\n"


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env | more, timeout=120)


@pytest.mark.parametrize(
    ("line", "code", "stderr"),
    [
        ("problems >&-", 0, ""),
        ("--help >&-", 0, ""),
        ("problems > /dev/full", 2, FULL),
        ("--help > /dev/full", 2, FULL),
        ("policies | head -n 1 >&2; exit ${PIPESTATUS[0]}", 0, "full  keeps everything: the baseline\n"),
        ("problems --problems 500 | read -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        ("--help | read -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        ("think --file - <&-", 2, "error: standard input is empty; expected a problem\n"),
        ("problems --split nowhere 2>&-", 2, ""),
        ("problems --split nowhere 2>/dev/full", 2, ""),
        ("problems --problems x >&- 2>&- <&-", 2, ""),
    ],
)
def test_no_state_of_the_streams_ends_in_a_traceback(line: str, code: int, stderr: str) -> None:
    done = shell(f"{LACONIC} {line}", PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr, done.stdout) == (code, stderr, "")


@pytest.mark.parametrize(
    ("line", "code"), [("problems > /dev/full", 2), ("--help | read -n 1; exit ${PIPESTATUS[0]}", 0)]
)
def test_nor_where_python_buffers_nothing(line: str, code: int) -> None:
    done = shell(f"{LACONIC} {line}", PYTHONUNBUFFERED="1")
    assert (done.returncode, done.stderr) == (code, FULL if code else "")


def test_results_go_on_where_nobody_reads_what_is_said_beside_them() -> None:
    # The warning's reader is gone at once; what the command prints still comes whole.
    line = f"{LACONIC} problems --problems 3 2> >(exec true) | wc -l"
    assert shell(line).stdout.strip() == "3"
    assert shell(f"{LACONIC} problems --problems 3 2>/dev/full | wc -l").stdout.strip() == "3"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_encoding_shows_help(encoding: str) -> None:
    done = shell(f"{LACONIC} bench --help", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")


PRINT = """
import sys
from laconic.cli.terminal import prepare
prepare()
print(sys.argv[1])
print(sys.argv[1], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "✓ KV ━━ · 5 ± 2 → é €", "+ KV == . 5 ~ 2 > e ?"),
        ("cp1252", "✓ KV ━━ · é €", "+ KV == · é €"),
        ("utf-8", "✓ KV ━━ · é €", "✓ KV ━━ · é €"),
    ],
)
def test_what_an_encoding_lacks_is_shown_by_what_is_nearest(encoding: str, text: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT, text], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    expected = (shown + os.linesep).encode(encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, expected)


def test_each_character_has_one_in_its_place() -> None:
    assert all(len(near) == 1 and ord(near) < 128 for near in map(chr, NEAREST.values()))
