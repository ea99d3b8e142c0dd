from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from tests.reference.selectors import random_selector

from laconic.cli.common import (
    PUBLISHED_JUDGE,
    SMALL,
    SMALL_STRATEGY,
    choose_judge,
    choose_policy,
    choose_sampling,
    choose_strategy,
)
from laconic.cli.questions import Question, read_question
from laconic.compress import H2O, RKV, RPC, FullKV, Learned, Random, StreamingLLM
from laconic.errors import LaconicError
from laconic.judges.baselines import RandomJudge
from laconic.prune import DeepConf, DeepPrune, ParallelProbe, SelfConsistency, parse
from laconic.prune.strategies.base import Strategy
from laconic.selectors import write_selector


def test_published_defaults_for_other_models() -> None:
    assert choose_policy("rpc", False) == RPC()
    assert choose_policy("h2o", False) == H2O()


def test_small_defaults_fill_only_what_was_not_said() -> None:
    assert choose_policy("rpc", True) == RPC(interval=128, ratio=4, window=32)
    assert choose_policy("rpc:interval=32", True) == RPC(interval=32, ratio=4, window=32)
    assert choose_policy("random", True, ratio=2) == Random(interval=128, ratio=2, window=32)
    assert choose_policy("full", True) == FullKV()


def test_a_policy_that_knows_the_end_is_refused_before_anything_runs() -> None:
    with pytest.raises(LaconicError, match=r"policy hindsight reads .* use it in `laconic bench fidelity`"):
        choose_policy("hindsight", True)


def test_a_budgets_window_and_buffer_stay_the_policys_own() -> None:
    assert choose_policy("h2o", True) == H2O(budget=SMALL["budget"])
    assert choose_policy("streamingllm", True, budget=40) == StreamingLLM(budget=40)
    # R-KV's published buffer is just the small model's interval.
    assert choose_policy("rkv", True) == RKV(budget=SMALL["budget"], buffer=128)
    assert choose_policy("rkv:buffer=100,window=4", True) == RKV(budget=SMALL["budget"], buffer=100, window=4)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(LaconicError, match="interval is given both in --policy rpc:interval=32 and as --interval"):
        choose_policy("rpc:interval=32", True, interval=64)


def test_an_option_that_the_policy_lacks_is_refused() -> None:
    with pytest.raises(LaconicError, match="setting 'interval' of policy h2o is unknown"):
        choose_policy("h2o", True, interval=64)


def test_a_selectors_file_is_looked_at_at_once(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(
        LaconicError, match=r"there is no selector file .*one\.safetensors; expected one that laconic learn"
    ):
        choose_policy(f"learned:{path}", False)
    write_selector(path, random_selector())
    assert choose_policy(f"learned:{path}", True) == Learned(str(path), 128, 4, 32)
    assert choose_policy("learned", False) == Learned()


def test_sampling_prefers_options_then_the_models_own_then_the_papers() -> None:
    own = SimpleNamespace(do_sample=True, temperature=1.0, top_p=None, top_k=20, max_new_tokens=77)
    model = SimpleNamespace(generation_config=own)
    chosen = choose_sampling(model, top_k=5, seed=3, temperature=None)
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.max_new_tokens, chosen.seed) == (1.0, 0.95, 5, 77, 3)
    own.do_sample = False  # its temperature is then no advice on sampling
    chosen = choose_sampling(model)
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.max_new_tokens) == (0.6, 0.95, 0, 77)
    assert choose_sampling(SimpleNamespace()).max_new_tokens == 32768


def test_a_question_from_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_text("\n how many?\nreally \n")
    assert read_question(str(path)) == Question("how many?\nreally", None, str(path))


def test_a_question_from_json_lines_brings_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('\n{"question": "2+2?", "answer": 4}\n{"question": "other"}\n')
    assert read_question(str(path)) == Question("2+2?", "4", str(path))
    path.write_text('{"question": "2+2?"}')
    assert read_question(str(path)).answer is None
    # As --source reads it: GSM8K's worked solutions, and the other names of the field.
    path.write_text(json.dumps({"question": "2+2?", "answer": "2 and 2 are 4.\n#### 4"}) + "\n")
    assert read_question(str(path)) == Question("2+2?", "4", str(path))
    path.write_text(json.dumps({"problem": "3+3?", "answer": 6}) + "\n")
    assert read_question(str(path)) == Question("3+3?", "6", str(path))


@pytest.mark.parametrize("content", ["[1, 2]", "{}", "nonsense", '"text"', '{"question": null}', '{"question": " "}'])
def test_json_lines_without_a_question_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(LaconicError, match=r"is no problem; expected JSON|has (no|an empty) question"):
        read_question(str(path))


def test_files_that_hold_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(LaconicError, match="is no UTF-8 text"):
        read_question(str(path))
    path.write_text(" \n")
    with pytest.raises(LaconicError, match="is empty"):
        read_question(str(path))


def test_the_judge_is_asked_for_only_where_the_strategy_needs_one() -> None:
    assert choose_judge(None, "deepprune:tau=0.7", True) == "bundled"
    assert choose_judge(None, "deepprune", False) == PUBLISHED_JUDGE
    assert choose_judge("probe", "deepprune", True) == "probe"
    assert choose_judge(None, "deepconf:low", True) is None
    with pytest.raises(LaconicError, match="strategy self-consistency asks no judge; leave --judge probe out"):
        choose_judge("probe", "self-consistency", True)
    with pytest.raises(
        LaconicError, match="strategy 'magic' is unknown; expected one of self-consistency, priced-vote, "
    ):
        choose_judge(None, "magic", True)
    with pytest.raises(
        LaconicError, match="judge 'delphi' is unknown; expected one of bundled, encoder:DIRECTORY, llm:"
    ):
        choose_judge("delphi", "deepprune", True)


S = TypeVar("S", bound=Strategy)


def chosen(kind: type[S], *arguments: Any) -> S:
    """`choose_strategy`'s choice, which is of this kind."""
    made = choose_strategy(*arguments)
    assert isinstance(made, kind)
    return made


def test_a_strategys_settings_for_the_bundled_model_and_for_others() -> None:
    anyone, made_for = RandomJudge(), RandomJudge()
    made_for.excerpt = "words:10"
    small = chosen(DeepPrune, "deepprune", 64, anyone, True)
    assert small.excerpt_kind == SMALL_STRATEGY["excerpt"]
    assert (small.n, small.judge, small.tau) == (64, anyone, 0.5)
    assert chosen(DeepPrune, "deepprune", 64, made_for, True).excerpt_kind == "words:10"
    assert choose_strategy("deepprune", 64, anyone, False) == DeepPrune(64, anyone)
    assert chosen(DeepPrune, "deepprune:excerpt=words:3", 64, anyone, True).excerpt_kind == "words:3"
    assert choose_strategy("deepconf:high", 64, None, False) == DeepConf(64, "high")
    assert choose_strategy("deepconf:low", 64, None, True) == DeepConf(64, "low", window=64)
    assert chosen(DeepConf, "deepconf:low,window=5", 64, None, True).window == 5
    # A warm-up of 16 of 8 traces would leave nothing to stop.
    assert chosen(DeepConf, "deepconf:low", 8, None, True).warmup == 2
    assert chosen(DeepConf, "deepconf:low,warmup=3", 8, None, True).warmup == 3
    assert choose_strategy("self-consistency", 5, None, True) == SelfConsistency(5)
    # Its warm-up is of steps, not of traces.
    assert choose_strategy("parallel-probe", 8, None, False) == ParallelProbe(8)
    assert choose_strategy("parallel-probe", 8, None, True) == parse("parallel-probe:short", 8)
    assert choose_strategy("parallel-probe:interval=9", 8, None, True) == parse("parallel-probe:short,interval=9", 8)


def test_options_are_the_strategys_settings() -> None:
    judge = RandomJudge()
    chosen = choose_strategy("deepprune:seed=3", 8, judge, True, tau=0.7, K=4, K1=3, K2=2, K3=1, excerpt="tokens:9")
    assert chosen == DeepPrune(8, judge, tau=0.7, K=4, K1=3, K2=2, K3=1, excerpt="tokens:9", seed=3)
    with pytest.raises(LaconicError, match="K is given both in --strategy deepprune:K=3 and by an option"):
        choose_strategy("deepprune:K=3", 8, judge, True, K=4)
    with pytest.raises(
        LaconicError, match="setting 'tau' of strategy self-consistency is unknown; its settings: early"
    ):
        choose_strategy("self-consistency", 8, None, True, tau=0.5)


def test_a_whole_ratio_is_a_whole_number() -> None:
    assert choose_policy("rpc", True, ratio=4.0).spec() == choose_policy("rpc:ratio=4", True).spec()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("temperature", "0.6", "temperature is '0.6'"),
        ("top_p", 7, "top_p is 7"),
        ("top_k", [1], r"top_k is \[1\]"),
        ("max_new_tokens", "many", "max_new_tokens is 'many'"),
        ("temperature", float("nan"), "temperature is nan"),
    ],
)
def test_what_a_generation_config_has_wrong_is_named(key: str, value: object, said: str) -> None:
    own = SimpleNamespace(do_sample=True, **{key: value})
    option = "--" + key.replace("_", "-")
    with pytest.raises(LaconicError, match=rf"in the model's generation_config {said}.*; mend it, or give {option}"):
        choose_sampling(SimpleNamespace(generation_config=own))
    given = 1 if key in ("top_k", "max_new_tokens") else 0.5
    assert getattr(choose_sampling(SimpleNamespace(generation_config=own), **{key: given}), key) == given


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "is no problem|is nested too deeply"),
        (b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the first line of .* is nested too deeply"),
        (b'{"question": "\\ud800"}', "half a character"),
        (b'{"question": ' + b"9" * 5000 + b"}", "thousands of digits"),
    ],
)
def test_a_question_that_python_fails_on_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(content)
    with pytest.raises(LaconicError, match=says):
        read_question(str(file))


def test_a_byte_order_mark_is_no_part_of_a_question(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfwhat?\r\n")
    assert read_question(str(tmp_path / "q.txt")).text == "what?"
    (tmp_path / "q.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "what?", "answer": 3}\r\n')
    assert read_question(str(tmp_path / "q.jsonl")) == Question("what?", "3", str(tmp_path / "q.jsonl"))


def test_a_device_is_no_question() -> None:
    with pytest.raises(LaconicError, match="/dev/zero is a device"):
        read_question("/dev/zero")


def test_half_a_character_is_no_question() -> None:
    for make in (lambda: Question("\udcff"), lambda: Question("what?", "\ud800")):
        with pytest.raises(LaconicError, match="has half a character in it"):
            make()
