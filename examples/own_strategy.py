"""A strategy of your own: all traces start, and the first answer that enough of them give ends the vote."""

from dataclasses import dataclass

import torch

import laconic
from laconic import checks
from laconic.assets import reasoner_path
from laconic.engines.hf import open_engine
from laconic.problems import generate
from laconic.prune import Needs, Strategy, TraceEngine
from laconic.prune.strategies.run import StrategyRunBase, TraceState
from laconic.prune.trace_engine import SamplingView


@dataclass(frozen=True)
class FirstTo(Strategy):
    """n traces at most; the first answer with `enough` votes wins. A record of settings: a run of it is made by `begin`."""

    name = "first-to"

    n: int
    enough: int = 3

    def __post_init__(self) -> None:
        checks.whole("n", self.n, 1, 4096, "traces")
        checks.whole("enough", self.enough, 1, self.n, "votes")

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> "FirstToRun":
        return FirstToRun(self, engine, question, sampling)


class FirstToRun(StrategyRunBase):
    """What is left to say is what happens when traces start and end; driving the engine and the verdict are the base's."""

    def __init__(self, strategy: FirstTo, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        super().__init__(strategy.name, strategy.n, {"enough": strategy.enough}, Needs(), engine, question, sampling)
        self.enough = strategy.enough

    def _start(self) -> None:
        self._say(f"{self.n} traces start")

    def _ended(self, record: TraceState) -> None:
        if record.answer is None:
            return
        record.weight = 1.0
        self.tally.add(record.index, record.answer)
        leader = self.tally.votes()[0]
        if leader.weight >= self.enough:
            for other in self.records:
                if not other.ended:
                    self._stop(other, "abandoned", f"{leader.answer} has {self.enough} votes")


def main() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more
    engine = open_engine(reasoner_path(), policy=laconic.RPC(interval=128, ratio=4, window=32))
    sampling = laconic.Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=0)
    for problem in generate(2, seed=1, level=6):
        for strategy in (FirstTo(n=16, enough=3), laconic.SelfConsistency(16)):
            verdict = strategy.solve(engine, problem.question, sampling)
            votes = {vote.answer: vote.weight for vote in verdict.votes}
            print(f"{strategy.name}: {verdict.answer} by {votes}, right is {problem.answer}")
            print(
                f"  {verdict.tokens.generated} tokens, {sum(t.fate == 'finished' for t in verdict.traces)} traces finished"
            )


if __name__ == "__main__":
    main()
