"""The model behind a harness: opened from its arguments, asked in bulk, and refusing in one sentence what it can't answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import serving

from laconic.answers import equivalent, extract
from laconic.errors import InputError, LaconicWarning
from laconic.lab.harness.arguments import read_arguments
from laconic.lab.harness.generation import TaskGeneration, read_generation
from laconic.lab.harness.model import HarnessModel, HarnessPrompt
from laconic.lab.harness.run import HarnessAnswer
from laconic.problems import generate

PROBLEMS = generate(4, seed=2, level=1)
GREEDY = read_generation({"until": ["\n\n"], "do_sample": False})

Open = Callable[..., HarnessModel]


@pytest.fixture(scope="module")
def bundled() -> HarnessModel:
    return HarnessModel(read_arguments({"pretrained": "bundled", "policy": "rpc:interval=64"}))


@pytest.fixture(scope="module")
def open_tiny(tiny: Path) -> Open:
    return lambda **given: HarnessModel(read_arguments({"pretrained": str(tiny), "device": "cpu", **given}))


def asked(model: HarnessModel, generation: TaskGeneration = GREEDY) -> list[HarnessPrompt]:
    texts = [model.render([{"role": "user", "content": problem.question}]) for problem in PROBLEMS]
    return [HarnessPrompt(text, generation, templated=True) for text in texts]


def plain(*texts: str, **generation: Any) -> list[HarnessPrompt]:
    return [HarnessPrompt(text, read_generation(generation)) for text in texts]


def test_the_bundled_reasoner_answers_under_its_own_settings(bundled: HarnessModel) -> None:
    done: dict[int, HarnessAnswer] = {}
    answers = bundled.answer(asked(bundled), done.__setitem__)
    assert [done[place] for place in range(4)] == answers
    right = [equivalent(extract(a.text), p.answer) for a, p in zip(answers, PROBLEMS, strict=True)]
    assert sum(right) >= 3
    assert all(answer.closed and "</think>" not in answer.text and answer.thoughts for answer in answers)
    assert bundled.policy.spec() == "rpc:interval=64,ratio=4,window=32"
    told = json.loads(json.dumps(bundled.describe()))
    assert told["arguments"] == {"pretrained": "bundled", "policy": "rpc:interval=64"}
    assert told["totals"]["requests"] == 4
    assert told["totals"]["generated"] == sum(answer.generated for answer in answers)


def test_what_is_drawn_depends_on_the_request_alone(open_tiny: Open) -> None:
    sampled = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    model = open_tiny()
    first = [answer.token_ids for answer in model.answer(plain("a", "b c", "a", **sampled))]
    again = [answer.token_ids for answer in open_tiny(batch=1).answer(plain("b c", "a", "a", **sampled))]
    assert again == [first[1], first[0], first[2]]
    assert len(set(first)) == 3
    other = open_tiny(seed=1).answer(plain("a", **sampled))
    assert other[0].token_ids != first[0]


def test_how_many_tokens(open_tiny: Open) -> None:
    model = open_tiny()
    assert model.answer(plain("a", max_gen_toks=9))[0].generated == 9
    assert model.answer(plain("a"))[0].generated == 60  # the model's own configuration says so, not 256
    assert open_tiny(max_gen_toks=11).answer(plain("a", max_gen_toks=9))[0].generated == 11


def test_a_vote_draws_several_traces_where_the_task_is_greedy(open_tiny: Open) -> None:
    model = open_tiny(strategy="self-consistency", n=3, max_gen_toks=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that all traces would be the same, say
        [answer] = model.answer(plain("a", do_sample=False))
    assert (answer.traces, answer.generated) == (3, 30)
    with pytest.warns(
        LaconicWarning, match="a vote draws its traces at the model's own temperature 0.6 and top_p 0.95"
    ):
        model.warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_tiny(strategy="self-consistency", n=3, temperature=0.9).warn()
        open_tiny().warn()


def test_special_tokens_are_the_templates_affair_or_the_tokenizers(open_tiny: Open) -> None:
    model = open_tiny()
    given: list[bool] = []

    class Recorder:
        bos_token = "<s>"

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            given.append(add_special_tokens)
            return {"input_ids": [6]}

    model.tokenizer = Recorder()
    for prompt in (HarnessPrompt("a"), HarnessPrompt("<s> a"), HarnessPrompt("a", templated=True)):
        model.encode(prompt)
    assert given == [True, False, False]


# ---- chat templates ---------------------------------------------------------------------------------------------------


def test_a_conversation_goes_through_the_models_template(bundled: HarnessModel, open_tiny: Open) -> None:
    assert bundled.render([{"role": "user", "content": "x"}]) == "<|user|> x <|assistant|> <think>"
    model = open_tiny()
    assert model.render([{"role": "user", "content": "x"}]) == "x a b"
    assert model.template == "{{ messages[-1]['content'] }} a b"
    model.tokenizer.chat_template = {"default": "x", "short": "{{ messages[-1]['content'] }}!"}
    assert model.render([{"role": "user", "content": "x"}], "short") == "x!"
    assert json.loads(str(model.template)).keys() == {"default", "short"}
    with pytest.raises(InputError, match="has no chat template 'long'; expected one of default, short"):
        model.render([{"role": "user", "content": "x"}], "long")


def test_arguments_of_the_template(open_tiny: Open, tiny: Path) -> None:
    with pytest.raises(InputError, match="the model's chat template takes no argument depth"):
        open_tiny(chat_template_args={"depth": 2})
    with pytest.raises(InputError, match="can't switch thinking on or off"):
        open_tiny(thinking=False)


def test_no_template_a_name_for_the_only_one_and_one_that_breaks(open_tiny: Open) -> None:
    model = open_tiny()
    with pytest.raises(InputError, match="has one chat template, which has no name; leave 'short' out"):
        model.render([], "short")
    model.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(InputError, match=r"can't be applied .*no such role"):
        model.render([{"role": "user", "content": "x"}])
    model.tokenizer.chat_template = None
    assert model.template is None
    with pytest.raises(InputError, match="has no chat template; leave --apply_chat_template out"):
        model.render([{"role": "user", "content": "x"}])


# ---- what can't be answered -------------------------------------------------------------------------------------------


def test_prompts_are_checked_before_anything_runs(open_tiny: Open, bundled: HarnessModel) -> None:
    model = open_tiny()
    before = model.totals.requests
    for bad, said in (("  ", "request 1: the prompt is empty"), ("a " * 300, "request 1: the prompt has 300 tokens")):
        with pytest.raises(InputError, match=said):
            model.answer(plain("a", bad))
    assert model.totals.requests == before
    with pytest.raises(InputError, match="request 0: the bundled reasoner only reads the notation"):
        bundled.answer(plain("What is one plus one?"))
    with pytest.raises(InputError, match="request 0: temperature is 101"):
        model.answer([HarnessPrompt("a", TaskGeneration((), {"temperature": 101}))])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrained": "bundled", "policy": "rcp"}, "policy 'rcp' is unknown"),
        ({"pretrained": "bundled", "policy": "rpc:interval=0"}, "interval is 0"),
        ({"pretrained": "bundled", "strategy": "vote"}, "strategy 'vote' is unknown"),
        ({"pretrained": "bundled", "strategy": "priced-vote", "judge": "bundled"}, "asks no judge"),
        ({"pretrained": "bundled", "strategy": "priced-vote", "spend": "4x"}, "spend"),
        ({"pretrained": "bundled", "engine": "tpu"}, "engine 'tpu' is unknown"),
        ({"pretrained": "bundled", "engine_set": "a=1"}, "is for vLLM"),
        ({"pretrained": "/no/such/model"}, "/no/such/model"),
        ({"pretrained": "m", "engine": "openai:nowhere"}, "nowhere"),
    ],
)
def test_arguments_that_can_not_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        HarnessModel(read_arguments(given))
    assert "\n" not in str(caught.value)


# ---- over a server ----------------------------------------------------------------------------------------------------


def test_a_server_answers_as_the_model_in_this_process(bundled: HarnessModel) -> None:
    pytest.importorskip("httpx")
    full = HarnessModel(read_arguments({"pretrained": "bundled"}))
    with serving() as server:
        remote = HarnessModel(read_arguments({"engine": f"openai:{server.url}/v1", "batch": 4}))
        assert remote.template == ""
        # A server has its own policy; the text is compared with full KV here.
        assert [a.text for a in remote.answer(asked(remote))] == [a.text for a in full.answer(asked(full))]
        prompt = bundled.render([{"role": "user", "content": PROBLEMS[0].question}])
        [through] = remote.answer([HarnessPrompt(prompt, GREEDY)])  # as it is, without a template
        assert through.generated > 0
        with pytest.raises(InputError, match="compresses a cache that is the server's"):
            HarnessModel(read_arguments({"engine": f"openai:{server.url}/v1", "policy": "rpc"}))
        with pytest.raises(InputError, match="give it as chat_template_args"):
            HarnessModel(read_arguments({"engine": f"openai:{server.url}/v1", "thinking": False}))
        with pytest.raises(InputError, match="the template is the server's; leave the name out"):
            remote.render([], "short")
        remote.close()
