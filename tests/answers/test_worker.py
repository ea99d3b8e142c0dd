import os
import signal
import subprocess
import sys
import threading

import pytest

from laconic.answers import equivalence, equivalent, undecided_count
from laconic.answers import worker as worker_module
from laconic.answers.worker import MathVerifyProcess
from laconic.errors import LaconicError

ENDLESS = "9^{9^{9}}"


@pytest.fixture(scope="module")
def warm():
    worker = MathVerifyProcess(cpu_seconds=1.0)
    yield worker
    worker.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_starts_when_asked_and_stays(warm):
    warm.close()
    assert warm.pid is None
    assert warm.ask("x+1", "1+x") is True
    pid = warm.pid
    assert warm.ask("x+1", "x+2") is False
    assert warm.pid == pid


def test_close_ends_the_process():
    worker = MathVerifyProcess()
    worker.close()
    assert worker.ask("x", "x") is True
    pid = worker.pid
    worker.close()
    assert not alive(pid)
    assert worker.pid is None


def test_what_takes_too_long_is_killed_and_the_next_call_works(monkeypatch, warm):
    monkeypatch.setattr(equivalence, "_MATH_VERIFY", warm)
    before = undecided_count()
    assert warm.ask("x+1", "1+x") is True
    pid = warm.pid
    try:
        assert not equivalent(ENDLESS, "5")
        assert not alive(pid)
        assert undecided_count() == before + 1
        assert equivalence._hopeless == {ENDLESS}
        assert equivalent("a-b", "-(b-a)")
        assert undecided_count() == before + 1
    finally:
        equivalence._ask_math_verify.cache_clear()
        equivalence._hopeless.clear()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to halt a process here")
def test_a_process_that_waits_instead_of_computing_is_killed_by_the_clock(monkeypatch, warm):
    assert warm.ask("x+1", "1+x") is True
    monkeypatch.setattr(worker_module, "_PATIENCE", 0.2)
    pid = warm.pid
    os.kill(pid, signal.SIGSTOP)
    assert warm.ask("y+1", "1+y") is None
    assert not alive(pid)


def test_one_that_died_in_between_is_replaced(warm):
    assert warm.ask("x+1", "1+x") is True
    os.kill(warm.pid, signal.SIGKILL)
    warm._process.wait()
    assert warm.ask("x+1", "1+x") is True


def test_an_interrupted_question_leaves_no_reply_behind(monkeypatch, warm):
    assert warm.ask("x+1", "1+x") is True

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(worker_module, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            warm.ask("x+1", "1+x")
    assert warm.pid is None
    # Were that True still in the pipe, it would be taken for this answer.
    assert warm.ask("x+1", "x+2") is False


def test_threads_take_turns(warm):
    right = []  # not the wrong ones: a thread that fails has none of those either

    def work(i):
        for k in range(6):
            if warm.ask(f"x+{i}", f"{i + k % 2}+x") is (k % 2 == 0):
                right.append((i, k))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(right) == [(i, k) for i in range(6) for k in range(6)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_parent_and_child_have_their_own():
    code = """
import os
from laconic.answers import equivalence, equivalent
assert equivalent("x+1", "1+x")
pid = equivalence._MATH_VERIFY.pid
child = os.fork()
if child == 0:
    assert equivalence._MATH_VERIFY.pid is None
    assert equivalent("y+1", "1+y") and not equivalent("y+1", "y+2")
    assert equivalence._MATH_VERIFY.pid != pid
    raise SystemExit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert equivalent("z+1", "1+z") and not equivalent("z+1", "z+2")
assert equivalence._MATH_VERIFY.pid == pid
print(pid)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert not alive(int(done.stdout))


def test_a_script_without_a_main_guard_and_with_threads(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\n"
        "from laconic.answers import equivalence, equivalent\n"
        "print('once')\n"
        "got = []\n"
        "thread = threading.Thread(target=lambda: got.append(equivalent('x+1', '1+x')))\n"
        "thread.start(); thread.join()\n"
        "print(got, equivalence._MATH_VERIFY.pid)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    once, rest = done.stdout.splitlines()
    assert once == "once"
    got, pid = rest.rsplit(" ", 1)
    assert got == "[True]"
    assert done.stderr == ""
    assert not alive(int(pid))


def test_the_other_end_imports_neither_torch_nor_transformers():
    code = """
import sys
from laconic.answers import verifier
agree = verifier._load()
assert agree("x+1", "1+x") and not agree("x", "y")
print(sorted({"numpy", "torch", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_other_end_says_when_it_failed():
    """A pair that makes math-verify raise is undecided, and the next one is answered."""
    code = """
from laconic.answers import verifier
def agree(a, b):
    print("noise")
    if a == b:
        raise RecursionError
    return a < b
verifier._load = lambda: agree
verifier.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input='[1, "a", "b"]\n[1, "a", "a"]\n[1, "b", "a"]\n',
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ready\n1\n?\n0\n"


def test_a_missing_math_verify_is_said(monkeypatch, tmp_path):
    package = tmp_path / "math_verify"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('math-verify has gone fishing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LaconicError, match=r"can't start \(math-verify has gone fishing\); reinstall laconic"):
        MathVerifyProcess().ask("x", "y")


def test_an_end_without_a_word_is_said(monkeypatch):
    monkeypatch.setattr(worker_module, "_MODULE", "laconic.answers.nobody")
    with pytest.raises(LaconicError, match=r"can't start \(it ended without a word\)"):
        MathVerifyProcess().ask("x", "y")


def test_no_python_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LaconicError, match=r"can't start .*No such file"):
        MathVerifyProcess().ask("x", "y")


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_the_limit_is_above_zero(seconds):
    with pytest.raises(LaconicError, match=r"cpu_seconds is .*; expected a number above 0"):
        MathVerifyProcess(seconds)
