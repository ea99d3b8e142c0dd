from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from laconic.cli.common import SMALL, Question, choose_policy, choose_sampling, read_question
from laconic.compress import H2O, RKV, RPC, FullKV, Random, StreamingLLM
from laconic.errors import LaconicError


def test_published_defaults_for_other_models() -> None:
    assert choose_policy("rpc", False) == RPC()
    assert choose_policy("h2o", False) == H2O()


def test_small_defaults_fill_only_what_was_not_said() -> None:
    assert choose_policy("rpc", True) == RPC(interval=128, ratio=4, window=32)
    assert choose_policy("rpc:interval=32", True) == RPC(interval=32, ratio=4, window=32)
    assert choose_policy("random", True, ratio=2) == Random(interval=128, ratio=2, window=32)
    assert choose_policy("full", True) == FullKV()


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


@pytest.mark.parametrize("content", ["[1, 2]", "{}", "nonsense", '"text"', '{"question": null}', '{"question": " "}'])
def test_json_lines_without_a_question_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    with pytest.raises(LaconicError, match="is no problem; expected JSON"):
        read_question(str(path))


def test_files_that_hold_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(LaconicError, match="is no UTF-8 text"):
        read_question(str(path))
    path.write_text(" \n")
    with pytest.raises(LaconicError, match="is empty"):
        read_question(str(path))
