"""What the pages say is tried: Python blocks and examples run, commands and options exist, links and paths lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding

from laconic.assets import reasoner_path
from laconic.cli import build

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RUN = [ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "design.md"]  # policies.md has its own test
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Examples that need more than this process, and the tests that run them.
ELSEWHERE = {
    "openai_client": "tests/server/test_client_example.py",
    "vllm_engine": "tests/engines/vllm/test_live_example.py",
}
SLOW = 48  # new tokens are enough to see a block run


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, "" for those that name none."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [code for name, code in fenced if name == language]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bundled model's class, whose `generate` stops early whatever it is asked for."""
    model = AutoModelForCausalLM.from_pretrained(reasoner_path())
    original = type(model).generate

    def short(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["max_new_tokens"] = min(kwargs.get("max_new_tokens", SLOW), SLOW)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", short)
    return model


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, quick: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's own definitions come first; `model`, `tokenizer` and `inputs` are given, as the README assumes."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(reasoner_path())
    chat = [{"role": "user", "content": "given b=1 c=2 ; d:b d+c d>. ; start *>d ; find d ?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert isinstance(inputs, BatchEncoding)
    names: dict[str, Any] = {"model": quick, "tokenizer": tokenizer, "inputs": inputs}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)
    if page.name == "README.md":
        prompt = inputs["input_ids"].shape[1]
        # Nothing is evicted in so few tokens, and the newest one's KV is never computed.
        assert names["run"].stats.live_kv_tokens == names["out"].shape[1] - 1 > prompt


def test_pages_have_python_to_run() -> None:
    assert [len(blocks(page, "python")) for page in RUN[:2]] == [1, 5]


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.stem not in ELSEWHERE], ids=lambda example: example.stem)
def test_examples_run(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert re.search(EXPECTED[example.stem], capsys.readouterr().out)


EXPECTED = {
    "generate": r"evicted \d+ tokens, \d+ held at the end",
    "traces": r"finished, \d+ stopped\n\d+ tokens generated",
    "own_policy": r"rpc:(.|\n)*held by some layer(.|\n)*LongKeys(.|\n)*held by some layer: \d+ of \d+",
    "own_judge": r"pruned .* agrees with cluster(.|\n)*\d+ pairs compared\n\d+ tokens generated, about \d+ saved",
    "own_strategy": r"first-to: \d by (.|\n)*self-consistency: \d by ",
}


def test_every_example_says_what_to_expect() -> None:
    assert {example.stem for example in EXAMPLES} == set(EXPECTED) | set(ELSEWHERE)
    assert not set(EXPECTED) & set(ELSEWHERE)
    for stem, test in ELSEWHERE.items():
        assert f"{stem}.py" in (ROOT / test).read_text(encoding="utf-8")


def test_the_cli_page_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("make_cli_page", ROOT / "docs" / "make_cli_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `make docs`"


def commands() -> list[tuple[str, str]]:
    """Every line in a shell block, and in the Makefile, that calls laconic."""
    makefile = (ROOT / "Makefile").read_text()
    found = [("Makefile", f"laconic {rest}") for rest in re.findall(r"\$\(BIN\)/laconic (.+)", makefile)]
    for page in PAGES:
        for block in [*blocks(page, "sh"), *blocks(page, "bash"), *blocks(page, "console")]:
            for line in block.splitlines():
                text = line.strip().removeprefix("$ ")
                if text.startswith("laconic "):
                    found.append((page.name, text))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_and_options_in_the_pages_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(build())
    while words and not words[0].startswith("-") and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not getattr(command, "commands", {}) or words[0].startswith("-"), f"{page}: {line}"
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in options, f"{page}: {word} in {line}"


def test_no_two_commands_in_the_pages_write_other_results_into_one_place() -> None:
    """A directory or file of results goes on with its own settings alone, so a reader's second command would be refused."""
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for _, line in commands():
        words = shlex.split(line, comments=True)[1:]
        command: Any = typer.main.get_command(build())
        path = []
        while words and not words[0].startswith("-") and words[0] in getattr(command, "commands", {}):
            path.append(words.pop(0))
            command = command.commands[path[-1]]
        if path[:1] not in (["bench"], ["judge"], ["collect"]):
            continue
        taken = next((i for i, word in enumerate(words) if word in ("-o", "--out")), None)
        preset = words[words.index("--preset") + 1] if "--preset" in words else None
        default = next(parameter.default for parameter in command.params if parameter.name == "out")
        named = f"paper-{words[0]}" if path == ["bench", "paper"] else preset or path[-1]
        place = words[taken + 1] if taken is not None else str(default or f"runs/{named}")
        rest = words if taken is None else words[:taken] + words[taken + 2 :]
        if path == ["bench", "paper"] and not {"--model", "--source", "--problems"} & set(words):
            rest = words[
                :1
            ]  # it lists cells, or runs more of them at the published settings: a directory of its own each
        if path == ["collect"]:  # a file of traces grows by these
            rest = re.sub(r"(--n|--problems) \d+ ?", "", " ".join(rest)).split()
        found.setdefault((place,), set()).add((*path, *rest))
    assert len(found) > 10
    assert {place: lines for place, lines in found.items() if len(lines) > 1} == {}


def links(page: Path) -> list[str]:
    """Where a page leads within the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.partition("#")[0] for target in found if not target.startswith(("http:", "https:", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pages_have_links_to_follow() -> None:
    assert sum(len(links(page)) for page in PAGES) > 20


def test_commands_are_found() -> None:
    assert {page for page, _ in commands()} >= {"Makefile", "README.md", "quickstart.md"}


def test_make_targets_in_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    said = {
        target
        for page in PAGES
        for target in re.findall(r"\bmake ([a-z-]+)\b(?=[ `\n])", "\n".join(blocks(page, "sh")))
    }
    assert said
    assert said <= targets


def test_the_tree_of_design_names_what_is_there() -> None:
    tree = next(block for block in blocks(ROOT / "docs" / "design.md", "") if block.startswith("src/laconic/"))
    for line in tree.splitlines():
        name = line.split()[0]
        base = ROOT / "src" / "laconic" if line.startswith("  ") else ROOT
        assert (base / name).exists(), name
    packages = {path.name for path in (ROOT / "src" / "laconic").iterdir() if (path / "__init__.py").exists()}
    assert packages <= {line.split()[0].rstrip("/") for line in tree.splitlines()}
