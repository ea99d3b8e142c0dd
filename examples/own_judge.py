"""A judge of your own for DeepPrune: it reads which value each trace's draft gives to what is asked for."""

import re
from collections.abc import Sequence
from typing import Any

import torch

import laconic
from laconic.assets import reasoner_path
from laconic.engines.hf import open_engine
from laconic.problems import generate
from laconic.prune import Cost, Excerpt, TraceEngine


class SameDraft:
    """Knows the bundled reasoner's notation: `find n ?` asks, and drafts state results as `n=4`. Runs no network."""

    name = "same-draft"
    excerpt = None  # any; one that was trained for a kind names it, and is refused for others

    def __init__(self) -> None:
        self.cost = Cost()

    def read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None = None) -> list[str | None]:
        """Once a trace. The engine holds the traces, for judges that probe it or read its hidden states."""
        self.cost.excerpts += len(excerpts)
        return [self._stated(excerpt) for excerpt in excerpts]

    def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """How probably both end in the same answer. Nothing read: 0.5, which is not above DeepPrune's tau of 0.5."""
        self.cost.pairs += len(pairs)
        return [0.5 if one is None or other is None else float(one == other) for one, other in pairs]

    def _stated(self, excerpt: Excerpt) -> str | None:
        asked = re.search(r"find (\w) \?", excerpt.question)
        found = re.findall(rf"\b{asked[1]}=(\d)", excerpt.text) if asked else []
        return found[-1] if found else None


def main() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more
    engine = open_engine(reasoner_path())
    problem = generate(1, seed=1, level=6)[0]
    sampling = laconic.Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=0)
    judge = SameDraft()
    strategy = laconic.DeepPrune(n=16, judge=judge, excerpt="tokens:80")
    verdict = strategy.solve(engine, problem.question, sampling)
    for trace in verdict.traces:
        print(f"{trace.index:2} {trace.fate:9} {trace.tokens:4} tokens, {trace.answer or '-'}: {trace.reason}")
    print(f"answer {verdict.answer}, right is {problem.answer}; {judge.cost.pairs} pairs compared")
    print(f"{verdict.tokens.generated} tokens generated, about {verdict.tokens.saved} saved")


if __name__ == "__main__":
    main()
