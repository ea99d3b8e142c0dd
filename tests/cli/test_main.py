"""The frame: versions, exit codes, and that an error is one sentence."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic.cli
import laconic.problems
from laconic.cli import COMMANDS, build, command_in
from laconic.errors import EngineError, InputError, LaconicError


def shell(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "laconic", *args], capture_output=True, text=True, **kwargs)


def failing(error: BaseException) -> Any:
    """The real frame around a command that raises `error`."""
    app = build()

    @app.command("fail")
    def fail() -> None:
        raise error

    return app


def test_version_names_ours_torchs_and_transformers(invoke: Any) -> None:
    expected = f"laconic {laconic.__version__}, torch {version('torch')}, transformers {version('transformers')}\n"
    assert invoke("--version").stdout == expected
    assert shell("--version").stdout == expected


def test_help_lists_every_command_and_imports_no_torch() -> None:
    code = "import sys; sys.argv = ['laconic', '--help']\nfrom laconic.cli import main\ntry: main()\nfinally: "
    code += "print('heavy:', sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "heavy: []" in done.stdout
    for name, _, _ in COMMANDS:
        assert f" {name} " in done.stdout


def test_every_command_helps_when_it_is_the_only_one() -> None:
    for name, _, _ in COMMANDS:
        result = CliRunner().invoke(build(name), [name, "--help"])
        assert result.exit_code == 0, name
        assert result.stdout == CliRunner().invoke(build(), [name, "--help"]).stdout


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["think", "bench"], "think"),
        (["--debug", "bench", "accuracy"], "bench"),
        (["--help"], None),
        (["thnik"], None),
        ([], None),
    ],
)
def test_which_command_is_called(arguments: list[str], command: str | None) -> None:
    assert command_in(arguments) == command


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LaconicError("ratio is 0; expected 1 or more"), "error: ratio is 0; expected 1 or more\n"),
        (InputError("two\n  lines."), "error: two lines\n"),
        (InputError("given: a, b, ..."), "error: given: a, b, ...\n"),
        (EngineError("vLLM has died"), "error: vLLM has died\n"),
        (FileNotFoundError(2, "No such file or directory", "x.jsonl"), "error: No such file or directory: x.jsonl\n"),
        (PermissionError(13, "Permission denied", "y"), "error: Permission denied: y\n"),
        (OSError("odd"), "error: odd\n"),
        (InputError(), "error: InputError\n"),
        (MemoryError(), "error: out of memory: use a smaller model, fewer traces or fewer new tokens\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(error: Exception, said: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (2, said, "")


def test_debug_also_shows_the_traceback() -> None:
    result = CliRunner().invoke(failing(InputError("deep")), ["--debug", "fail"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: deep\n")


def test_interrupt_is_one_line_and_exit_130() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("ours"), KeyError("ours"), TypeError("ours")])
def test_our_own_bugs_keep_their_traceback(error: Exception) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exception is error


def test_a_zip_that_does_not_fit_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault deep in a command that is given nothing wrong: what it raises leaves the program as it is."""

    def uneven(*args: Any, **kwargs: Any) -> list[Any]:
        return list(zip([1, 2], [3], strict=True))

    monkeypatch.setattr(laconic.problems, "generate", uneven)
    result = CliRunner().invoke(build(), ["problems"])
    assert type(result.exception) is ValueError
    assert "argument 2 is shorter" in str(result.exception)
    assert result.exit_code == 1
    assert "error:" not in result.stderr

    code = "import sys, laconic.problems as p; sys.argv = ['laconic', 'problems']\n"
    code += "p.generate = lambda *a, **k: list(zip([1, 2], [3], strict=True))\nfrom laconic.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.rstrip().endswith("ValueError: zip() argument 2 is shorter than argument 1")


@pytest.mark.parametrize(
    "args", [["--nonsense"], ["nonsense"], ["think", "--nonsense"], ["problems", "--problems", "x"]]
)
def test_usage_errors_exit_2_without_a_traceback(invoke: Any, args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_reader_that_goes_away_is_no_error() -> None:
    # 500 lines of JSON are more than a pipe holds, so the write that fails does come.
    command = (
        f"{sys.executable} -m laconic problems --problems 500 --level 8 --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('{"id": ')
