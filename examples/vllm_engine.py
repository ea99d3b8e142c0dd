"""The same vote inside vLLM, compressed: a strategy drives vLLM's requests, and those that can't matter are aborted.

python examples/vllm_engine.py [MODEL]

Without a model it is the bundled reasoner. Needs vLLM, on a GPU or its CPU build: docs/vllm.md.
"""

import sys

import laconic
from laconic.assets import reasoner_path
from laconic.problems import generate


def main(model: str = str(reasoner_path())) -> None:
    problem = generate(1, seed=1, level=6)[0]
    policy = laconic.RPC(interval=128, ratio=4, window=32)  # RPC() itself has the published 4096
    with laconic.VLLMEngine(model, policy=policy, max_batch=16, max_model_len=2048) as engine:
        sampling = laconic.Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=0)
        verdict = laconic.SelfConsistency(8).solve(engine, problem.question, sampling)
        for trace in verdict.traces:
            print(f"{trace.index} {trace.fate:9} {trace.tokens:4} tokens, {trace.answer or '-'}: {trace.reason}")
        print(f"answer {verdict.answer}, right is {problem.answer}")
        print(f"{engine.stats.compressions} compressions evicted {engine.stats.evicted} tokens")


if __name__ == "__main__":  # vLLM starts processes that import this file again
    main(*sys.argv[1:])
