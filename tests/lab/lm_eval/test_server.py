"""lm-eval's own client of chat servers on `laconic serve`, for real. Needs lm-eval and what its extra `api` has."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'laconic-llm[eval]'")
pytest.importorskip("aiohttp", reason="needs lm-eval's client: pip install 'lm-eval[api]'")
pytest.importorskip("tenacity", reason="needs lm-eval's client: pip install 'lm-eval[api]'")

from tests.lab.lm_eval.local_task import answers, results, run, write_task
from tests.server.conftest import serving

from laconic.problems import generate

PROBLEMS = generate(6, seed=3, level=2)


def test_lm_evals_client_is_answered(tmp_path: Path) -> None:
    """By one trace each, and by votes: the name of the model says which."""
    write_task(tmp_path, PROBLEMS)
    with serving() as server:
        for name in ("bundled", "bundled:priced-vote-6+rpc"):
            done = run(
                "lm_eval",
                tmp_path,
                *("--model", "local-chat-completions", "--apply_chat_template"),
                *("--gen_kwargs", "max_gen_toks=600", "do_sample=true", "temperature=0.6"),
                *(
                    "--model_args",
                    f"model={name},base_url={server.url}/v1/chat/completions,num_concurrent=4,timeout=600",
                ),
            )
            assert done.returncode == 0, done.stderr
            given = answers(tmp_path)
            right = [text == f"\\boxed{{ {p.answer}" for text, p in zip(given, PROBLEMS, strict=True)]
            assert sum(right) >= 3, given
            score = results(tmp_path)["results"]["laconic_notation"]["exact_match,boxed"]
            assert score == pytest.approx(sum(right) / len(right))
        server.wait_idle()
