"""A policy of your own: a scorer of ten lines on RPC's schedule, compared with RPC on one trace."""

from dataclasses import dataclass

import torch
from torch import Tensor

import laconic
from laconic.assets import reasoner_path
from laconic.compress import Custom, Evidence, Proportional, Scorer
from laconic.engines.hf import HFEngine, load
from laconic.problems import generate


@dataclass(frozen=True)
class LongKeys(Scorer):
    """Keep the tokens whose keys are longest: no attention is looked at, so no query has to be kept."""

    def score(self, evidence: Evidence) -> Tensor:
        keys = evidence.keys[:, :, : evidence.candidates]  # [rows, KV heads, candidates, head size]; the window follows
        score = keys.float().norm(dim=-1).mean(dim=1, keepdim=True)
        return score if evidence.valid is None else score.masked_fill(~evidence.valid.unsqueeze(1), 0.0)


def main() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more
    model, tokenizer = load(reasoner_path())
    question = generate(1, level=6)[0].question
    schedule = Proportional(interval=128, ratio=4, window=32)
    for policy in (laconic.RPC(interval=128, ratio=4, window=32), Custom(schedule, LongKeys())):
        engine = HFEngine(model, tokenizer, policy=policy, record_held=True)
        trace_id = engine.submit(engine.render(question), laconic.Sampling(temperature=0, max_new_tokens=300))[0]
        for _ in engine.stream():
            pass
        held = engine.held(trace_id)  # bool [layers, groups, generated tokens]
        print(f"{policy.describe()}")
        print(f"  held by some layer: {int(held.any(0).any(0).sum())} of {held.shape[2]} generated tokens")


if __name__ == "__main__":
    main()
