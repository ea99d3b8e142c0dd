"""laconic as a custom model of lighteval. Where lighteval is not installed its few classes are stood in for.

What stands in for them is as small as what the model uses of them: a base class, a record, and prompts.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from laconic.answers import equivalent, extract
from laconic.errors import InputError
from laconic.lab.harness.arguments import parse_arguments, read_arguments
from laconic.lab.harness.generation import TaskGeneration
from laconic.lab.harness.model import HarnessModel, HarnessPrompt
from laconic.lab.lighteval import command
from laconic.problems import generate

INSTALLED = importlib.util.find_spec("lighteval") is not None
PROBLEMS = generate(4, seed=2, level=1)


class _Base:
    """Of lighteval.models.abstract_model."""

    disable_tqdm = True


@dataclass
class _Response:
    """Of lighteval.models.model_output."""

    input: Any = None
    input_tokens: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    output_tokens: list[list[int]] = field(default_factory=list)
    reasonings: list[Any] = field(default_factory=list)


class _Prompts:
    """Of lighteval.tasks.prompt_manager."""

    def __init__(self, use_chat_template: bool, tokenizer: Any) -> None:
        self.chat = use_chat_template

    def prepare_prompt(self, doc: Any) -> str:
        assert not self.chat
        return str(doc.query)

    def prepare_prompt_api(self, doc: Any) -> list[dict[str, str]]:
        assert self.chat
        return [{"role": "user", "content": doc.query}]


@pytest.fixture(
    params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not INSTALLED, reason="no lighteval"))]
)
def model_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Made as `lighteval custom` makes it: the file is run, and the class in it that derives from theirs is taken."""
    if request.param == "stand-in":
        parts: dict[str, dict[str, Any]] = {
            "models.abstract_model": {"LightevalModel": _Base},
            "models.model_output": {"ModelResponse": _Response},
            "tasks.prompt_manager": {"PromptManager": _Prompts},
        }
        for name in ("lighteval", "lighteval.models", "lighteval.tasks"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, content in parts.items():
            module = ModuleType(f"lighteval.{name}")
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, f"lighteval.{name}", module)
    spec = importlib.util.spec_from_file_location("custom_model_module", command.MODEL_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    base: Any = importlib.import_module("lighteval.models.abstract_model").LightevalModel
    classes = [
        each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base) and each is not base
    ]
    [found] = classes
    return found


def config(name: str) -> Any:
    return SimpleNamespace(model_name=name)


def docs(size: int | None = None, samples: int = 1, stops: Any = ("=",)) -> list[Any]:
    """As lighteval makes them of a task."""
    return [
        SimpleNamespace(
            query=problem.question,
            choices=[problem.answer],
            gold_index=0,
            instruction=None,
            fewshot_samples=[],
            generation_size=size,
            stop_sequences=list(stops) if stops is not None else None,
            num_samples=samples,
        )
        for problem in PROBLEMS
    ]


def test_samples_of_each_problem_in_order(model_class: Any) -> None:
    model = model_class(config("bundled,policy=rpc:interval=64,device=cpu,temperature=0.6"))
    found = model.greedy_until(docs(samples=3))
    own = HarnessModel(read_arguments(parse_arguments("bundled,policy=rpc:interval=64,device=cpu,temperature=0.6")))
    prompts = [own.render([{"role": "user", "content": problem.question}]) for problem in PROBLEMS for _ in range(3)]
    expected = own.answer([HarnessPrompt(text, TaskGeneration(), templated=True) for text in prompts])
    assert [text for response in found for text in response.text] == [answer.text for answer in expected]
    assert [len(response.text) for response in found] == [3] * 4
    assert [response.input for response in found] == prompts[::3]
    right = [equivalent(extract(text), p.answer) for r, p in zip(found, PROBLEMS, strict=True) for text in r.text]
    assert sum(right) >= 8
    for response in found:
        assert all(
            "</think>" not in text and thoughts
            for text, thoughts in zip(response.text, response.reasonings, strict=True)
        )
        assert len(set(map(tuple, response.output_tokens))) > 1  # a seed of its own for each sample
    model._cache._init_registry(None)
    assert model.max_length == 4096
    assert model.tokenizer is not None
    assert not model.add_special_tokens
    model.cleanup()


def test_a_tasks_size_is_a_limit_that_the_models_argument_wins_over(model_class: Any) -> None:
    short = model_class(config("bundled,device=cpu")).greedy_until(docs(size=7))
    assert [len(response.output_tokens[0]) for response in short] == [7] * 4
    assert [response.text for response in short] == [[""]] * 4
    own = model_class(config("bundled,device=cpu,max_gen_toks=9,unclosed=whole")).greedy_until(docs(size=7))
    assert [len(response.output_tokens[0]) for response in own] == [9] * 4
    assert all(response.text[0] for response in own)


def test_a_model_without_a_chat_template_is_given_plain_text_and_its_stop_texts(
    model_class: Any, tiny: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "chat_template.jinja").unlink()
    name = f"{base},device=cpu,max_gen_toks=60,temperature=1"
    model = model_class(config(name))
    assert model.add_special_tokens
    assert not model_class(config(f"{tiny},device=cpu")).add_special_tokens
    before = model.greedy_until(docs(stops=None))
    assert [response.input for response in before] == [problem.question for problem in PROBLEMS]
    longest = max(before, key=lambda response: len(response.text[0]))
    stop = " " + longest.text[0].split()[6]
    after = model.greedy_until(docs(stops=[stop, ""]))
    # The random model writes an end of thinking now and then; what comes before is thoughts, once it is there.
    pairs = [(now, was) for now, was in zip(after, before, strict=True) if not was.reasonings[0]]
    assert len(pairs) >= 2
    assert [now.text[0] for now, _ in pairs] == [was.text[0].partition(stop)[0] for _, was in pairs]
    assert sum(len(r.output_tokens[0]) for r in after) < sum(len(r.output_tokens[0]) for r in before)


def test_what_is_refused(model_class: Any) -> None:
    with pytest.raises(InputError, match="model argument 'ratio' is unknown"):
        model_class(config("bundled,policy=rpc:interval=64,ratio=4"))
    model = model_class(config("bundled,device=cpu"))
    for name in ("loglikelihood", "loglikelihood_rolling"):
        with pytest.raises(InputError, match="scores given texts by their log-likelihoods"):
            getattr(model, name)([])
