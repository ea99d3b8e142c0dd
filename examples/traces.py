"""Several traces of one problem through laconic's own loop: chunks as they come, and the rest stopped when three agree."""

from collections import Counter

import torch

import laconic
from laconic.answers import extract
from laconic.assets import reasoner_path
from laconic.engines.hf import open_engine
from laconic.problems import generate

ENOUGH = 3


def main() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more
    engine = open_engine(reasoner_path(), policy=laconic.RPC(interval=128, ratio=4, window=32), chunk_tokens=16)
    problem = generate(1, seed=1, level=5)[0]
    sampling = laconic.Sampling(max_new_tokens=1024, temperature=1.0, top_p=1.0, seed=0)
    ids = engine.submit(engine.render(problem.question), sampling, n=8)  # one prefill for all of them

    votes: Counter[str] = Counter()
    for chunk in engine.stream():
        if chunk.finish_reason in (None, "stopped"):
            continue
        answer = extract(engine.trace(chunk.trace_id).text)
        print(f"{chunk.trace_id}: {answer} after {len(engine.trace(chunk.trace_id).token_ids)} tokens")
        if answer is not None:
            votes[answer] += 1
            if votes[answer] == ENOUGH:
                for trace_id in ids:
                    engine.stop(trace_id)  # no effect on finished ones; the others' memory is free at the next step

    states = Counter(engine.trace(i).state for i in ids)
    print(
        f"votes {dict(votes)}, right answer {problem.answer}; {states['finished']} finished, {states['stopped']} stopped"
    )
    print(f"{engine.stats.generated_tokens} tokens generated, {engine.stats.evicted} evicted")


if __name__ == "__main__":
    main()
