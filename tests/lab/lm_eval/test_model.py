"""laconic's model in lm-eval, and whole runs of lm-eval's command line on it. Needs lm-eval (the extra `eval`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'laconic-llm[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from tests.lab.lm_eval.local_task import answers, cached, results, run, write_task

from laconic.answers import equivalent, extract
from laconic.errors import InputError
from laconic.lab.harness.arguments import read_arguments
from laconic.lab.harness.generation import read_generation
from laconic.lab.harness.model import HarnessModel, HarnessPrompt
from laconic.lab.lm_eval.model import LaconicLM
from laconic.problems import generate

PROBLEMS = generate(6, seed=3, level=2)


def instances(texts: list[str], **generation: Any) -> list[Instance]:
    return [
        Instance("generate_until", {}, (text, dict(generation)), place, metadata=("t", place, 1))
        for place, text in enumerate(texts)
    ]


class Recorder:
    """In the place of lm-eval's cache."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, str]] = []

    def add_partial(self, name: str, arguments: Any, answer: str) -> None:
        self.kept.append((name, arguments, answer))


@pytest.fixture(scope="module")
def bundled() -> LaconicLM:
    return LaconicLM(pretrained="bundled", policy="rpc:interval=64+ratio=4", device="cpu", batch_size=1)


def test_it_is_registered() -> None:
    assert get_model("laconic") is LaconicLM


def test_answers_in_order_and_each_into_the_cache(bundled: LaconicLM, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [bundled.apply_chat_template([{"role": "user", "content": p.question}]) for p in PROBLEMS]
    kept = Recorder()
    bundled.set_cache_hook(kept)
    requests = instances(prompts, until=["\n\n"], do_sample=False)
    found = bundled.generate_until(requests, disable_tqdm=True)
    right = [equivalent(extract(text), p.answer) for text, p in zip(found, PROBLEMS, strict=True)]
    assert sum(right) >= 4
    assert sorted(kept.kept, key=str) == sorted(
        (("generate_until", r.args, text) for r, text in zip(requests, found, strict=True)), key=str
    )
    assert "6 answers of 6 traces" in capsys.readouterr().err
    assert bundled.get_model_info()["laconic"]["policy"] == "rpc:interval=64,ratio=4,window=32"


def test_chat_templates(bundled: LaconicLM, tiny: Path) -> None:
    assert bundled.chat_template(False) is None
    assert "<|user|>" in str(bundled.chat_template(True))
    assert bundled.tokenizer_name
    assert "/" not in bundled.tokenizer_name
    begun = bundled.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
    assert begun == "<|user|> x <|assistant|> <think>"
    bundled.chat_template("other")
    with pytest.raises(InputError, match="has one chat template, which has no name"):
        bundled.apply_chat_template([{"role": "user", "content": "x"}])
    bundled.chat_template(True)
    other = LaconicLM(pretrained=str(tiny), device="cpu")
    other.model.tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template; leave --apply_chat_template out"):
        other.chat_template(True)


def test_options_of_lm_evals_own_come_beside_the_arguments(tiny: Path) -> None:
    own = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    text = f"pretrained={tiny},policy=rpc:interval=16+window=4,device=cpu,max_gen_toks=9"
    made = LaconicLM.create_from_arg_string(text, own)
    assert made.model.policy.spec() == "rpc:interval=16,ratio=4,window=4"
    assert (made.model.arguments.batch, made.model.arguments.device) == (64, "cpu")
    [answer] = made.generate_until(instances(["a b"]), disable_tqdm=True)
    again = LaconicLM.create_from_arg_obj({**own, "pretrained": str(tiny), "device": "cpu", "max_gen_toks": 9})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.generate_until(instances(["a b"]), disable_tqdm=True) == [answer]


def test_what_is_refused(bundled: LaconicLM) -> None:
    with pytest.raises(InputError, match="model argument 'ratio' is unknown"):
        LaconicLM(pretrained="bundled", policy="rpc:interval=64", ratio=4)
    for name in ("loglikelihood", "loglikelihood_rolling"):
        with pytest.raises(InputError, match="scores given texts by their log-likelihoods"):
            getattr(bundled, name)([])
    with pytest.raises(InputError, match="generation argument num_beams is 4"):
        bundled.generate_until(instances(["x"], num_beams=4), disable_tqdm=True)


# ---- lm-eval's command line -------------------------------------------------------------------------------------------


def test_a_whole_run_and_one_out_of_its_cache(tmp_path: Path) -> None:
    write_task(tmp_path, PROBLEMS)
    given = ("--model_args", "pretrained=bundled,policy=rpc:interval=64+ratio=4,strategy=priced-vote:first=4,n=6")
    more = ("--apply_chat_template", "--use_cache", str(tmp_path / "cache"))
    done = run("laconic.lab.lm_eval", tmp_path, *given, *more)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert found["config"]["laconic"]["strategy"] == "priced-vote"
    assert found["config"]["laconic"]["totals"]["traces"] > 6
    model = HarnessModel(
        read_arguments(
            {
                "pretrained": "bundled",
                "policy": "rpc:interval=64,ratio=4",
                "strategy": "priced-vote:first=4",
                "n": 6,
            }
        )
    )
    asked = [
        HarnessPrompt(
            model.render([{"role": "user", "content": p.question}]), read_generation({"until": ["=", " }"]}), True
        )
        for p in PROBLEMS
    ]
    own = [answer.text for answer in model.answer(asked)]
    assert answers(tmp_path) == own
    right = [text == f"\\boxed{{ {p.answer}" for text, p in zip(own, PROBLEMS, strict=True)]
    assert sum(right) >= 3
    score = found["results"]["laconic_notation"]["exact_match,boxed"]
    assert score == pytest.approx(sum(right) / len(right))
    assert "warning: a vote draws its traces at the model's own temperature 1" in done.stderr
    assert cached(done) == 0
    again = run("laconic.lab.lm_eval", tmp_path, *given, *more)
    assert again.returncode == 0, again.stderr
    assert cached(again) == 6
    assert answers(tmp_path) == own


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pretrained=bundled,policy=rpc:interval=64,ratio=4", "error: model argument 'ratio' is unknown; known are"),
        ("pretrained=bundled,n=8", "error: n is 8, and there is no strategy that it is for"),
    ],
)
def test_bad_arguments_end_in_a_sentence(given: str, said: str, tmp_path: Path) -> None:
    write_task(tmp_path, PROBLEMS[:1])
    done = run("laconic.lab.lm_eval", tmp_path, "--model_args", given)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(said)
    assert "Traceback" not in done.stderr
