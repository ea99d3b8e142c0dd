"""--system, --thinking and --chat-template-arg, wherever a question is rendered: in the prompt, and in what is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.chat import choose_chat
from laconic.engines.chat import Chat
from laconic.engines.hf.loading import load_tokenizer
from laconic.errors import LaconicError
from laconic.traces import read_traces

TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }} x {% endif %}{{ messages[-1].content }} a"
    "{% if enable_thinking is defined and enable_thinking is false %} </think>{% endif %}"
    "{% if effort is defined %} {{ effort }}{% endif %}"
)
GIVEN = ("--system", "b c", "--no-thinking", "--chat-template-arg", "effort=9")
PROMPT = "b c x 1 plus b ? a </think> 9"
HEADER = {"system": "b c", "arguments": {"effort": 9, "enable_thinking": False}}


@pytest.fixture(scope="module")
def chatty(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template that takes all three."""
    path = tmp_path_factory.mktemp("models") / "chatty"
    shutil.copytree(tiny, path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "1 plus b ?", "answer": "1"}) + "\n")
    return path


def prompt_ids(model: Path, text: str) -> tuple[int, ...]:
    return tuple(load_tokenizer(str(model))(text, add_special_tokens=False)["input_ids"])


def header(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text().splitlines()[0])["settings"]
    return found


def test_think_and_solve(invoke: Any, chatty: Path) -> None:
    common = ["1 plus b ?", "-m", chatty, "--max-new-tokens", 4, "--json"]
    for command, more in (("think", []), ("solve", ["-n", 2, "-s", "self-consistency"])):
        plain = json.loads(invoke(command, *common, *more).stdout)
        assert "chat" not in plain
        given = json.loads(invoke(command, *common, *more, *GIVEN).stdout)
        assert given["chat"] == HEADER
    result = invoke("think", "1 plus b ?", "-m", chatty, "--max-new-tokens", 4, "--json", *GIVEN)
    assert json.loads(result.stdout)["prompt_tokens"] == len(prompt_ids(chatty, PROMPT))


def test_collect_records_it_and_refuses_another(invoke: Any, chatty: Path, problem_file: Path, tmp_path: Path) -> None:
    common = ["collect", "-m", chatty, "--source", problem_file, "-n", 2, "--temperature", 1, "--max-new-tokens", 4]
    plain, out = tmp_path / "plain.jsonl", tmp_path / "given.jsonl"
    assert invoke(*common, "-o", plain).exit_code == 0
    assert invoke(*common, "-o", out, *GIVEN).exit_code == 0
    assert "chat" not in header(plain), "a file from before there was one is gone on with"
    assert header(out) == header(plain) | {"chat": HEADER}
    (first, *_), (old, *_) = read_traces(out).records, read_traces(plain).records
    assert first.prompt_ids == prompt_ids(chatty, PROMPT)
    assert first.settings["chat"] == HEADER
    assert old.prompt_ids == prompt_ids(chatty, "1 plus b ? a")
    assert "chat" not in old.settings
    assert invoke(*common, "-o", out, *GIVEN).exit_code == 0
    before = out.read_bytes(), plain.read_bytes()
    for path, options, said in (
        (out, (), "..., now not set)"),
        (out, ("--system", "c", *GIVEN[2:]), "chat.system was 'b c', now 'c'"),
        (out, (*GIVEN[:2], "--thinking", *GIVEN[3:]), "chat.arguments.enable_thinking was False, now True"),
        (plain, GIVEN, "chat was not set, now {"),
    ):
        result = invoke(*common, "-o", path, *options)
        assert result.exit_code == 2
        assert said in result.stderr
    assert (out.read_bytes(), plain.read_bytes()) == before


def test_both_benchmarks(invoke: Any, chatty: Path, problem_file: Path, tmp_path: Path) -> None:
    common = ["-m", chatty, "--source", problem_file, "--temperature", 1, "--max-new-tokens", 4, "--no-plot"]
    accuracy = ["bench", "accuracy", *common, "-p", "full", "-o", tmp_path / "a"]
    parallel = ["bench", "parallel", *common, "--n", "2", "--few", "2", "--policies", "none", "--strategies", ""]
    parallel += ["--timed", 1, "-o", tmp_path / "p"]
    for command, file in ((accuracy, tmp_path / "a" / "traces.jsonl"), (parallel, tmp_path / "p" / "results.jsonl")):
        assert invoke(*command, *GIVEN).exit_code == 0
        assert header(file)["chat"] == HEADER
        assert invoke(*command, *GIVEN).exit_code == 0
        result = invoke(*command)
        assert result.exit_code == 2
        assert "chat was {" in result.stderr
    traces = tmp_path / "p" / "traces-none.jsonl"
    assert header(traces)["chat"] == HEADER
    assert {record.prompt_ids for record in read_traces(traces).records} == {prompt_ids(chatty, PROMPT)}


def test_analyze(invoke: Any, chatty: Path, problem_file: Path) -> None:
    command = [
        "analyze",
        "-m",
        chatty,
        "--source",
        problem_file,
        "--problems",
        1,
        "--max-new-tokens",
        6,
        "--lengths",
        4,
        "--json",
    ]
    assert json.loads(invoke(*command, *GIVEN).stdout)["settings"]["chat"] == HEADER
    assert "chat" not in json.loads(invoke(*command).stdout)["settings"]
    result = invoke("analyze", problem_file, *GIVEN)
    assert (result.exit_code, "are for --model" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", ["think", "solve", "collect"])
def test_a_template_that_takes_none_is_told_before_the_weights_are_read(
    invoke: Any, tiny: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconic.engines.hf.load", lambda *_, **__: pytest.fail("the weights were read"))
    more = ["-o", tmp_path / "t.jsonl"] if command == "collect" else ["1 plus b ?"]
    for options, said in (
        (["--system", "b"], "takes no system message"),
        (["--thinking"], "can't switch thinking on or off"),
        (["--no-thinking"], "can't switch thinking on or off"),
        (["--chat-template-arg", "effort=3"], "takes no argument effort"),
        (["--chat-template-arg", "effort"], "--chat-template-arg effort has no value; expected NAME=VALUE"),
        (["--chat-template-arg", "tokenize=true"], "'tokenize' is no argument of a chat template's own"),
    ):
        result = invoke(command, *more, "-m", tiny, *options)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_bundled_reasoner_takes_none(invoke: Any) -> None:
    assert "was trained without system messages" in invoke("think", "--system", "Be brief.").stderr
    assert "can't switch thinking" in invoke("think", "--no-thinking").stderr


def test_values_and_doubles(chatty: Path) -> None:
    assert choose_chat(None, None, None, None) == Chat()
    assert choose_chat(str(chatty), None, True, ["effort=high"]) == Chat(
        None, {"effort": "high", "enable_thinking": True}
    )
    assert choose_chat(str(chatty), "", None, []) == Chat("")
    with pytest.raises(LaconicError, match="gives effort twice"):
        choose_chat(str(chatty), None, None, ["effort=1", "effort=2"])
    with pytest.raises(LaconicError, match="--no-thinking and --chat-template-arg enable_thinking say the same"):
        choose_chat(str(chatty), None, False, ["enable_thinking=true"])
