"""Draw the pictures of docs/methods.md from runs of the bundled model: `python docs/draw_methods.py`. Needs matplotlib.

Every picture is of one problem and what the model wrote about it. held.png and size.png: its greedy trace under full KV, fed to
the model as it stands under each policy, one token at a time; what every layer and KV head then holds is read off the cache.
votes.png: sixteen sampled traces of the same problem under three strategies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from laconic import DeepPrune, PricedVote, Sampling, SelfConsistency, open_judge
from laconic.assets import reasoner_path
from laconic.engines.hf import load, open_engine
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.facts import fit
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.runner import held_tokens
from laconic.lab.shared.figure import COLOURS, GREY, policy_name
from laconic.lab.shared.policies import compared_policies
from laconic.problems import Problem, generate

FOLDER = Path(__file__).parent / "pictures"
INTERVAL, RATIO, WINDOW = 64, 4, 16
POLICIES = ("rpc", "streamingllm", "learned", "random")
SAID = {
    "full": "Every token stays.",
    "rpc": "What the latest queries look at stays.",
    "streamingllm": "The first few and the latest stay.",
    "learned": "What later tokens should look at stays.",
    "random": "Tokens drawn by lot stay.",
}
PICTURES = ("held.png", "size.png", "votes.png")
SHADES = LinearSegmentedColormap.from_list("held", ["#ffffff", "#cfe3f1", COLOURS[0], "#00344f"])
FATES = {
    "finished": (COLOURS[0], "written to its end"),
    "pruned": (COLOURS[1], "stopped: should agree with another"),
    "abandoned": (COLOURS[4], "stopped: can't change the vote any more, or was not chosen"),
    "waiting": (GREY, "never started"),
}


def problem() -> Problem:
    """The one that all pictures are of."""
    return generate(1, seed=1, level=6)[0]


def held_over_time(most: int = 1024) -> dict[str, Tensor]:
    """By policy, float32 [K + 1, K]: which share of layers and KV heads holds each of the K generated tokens after 0, 1, ... K
    of them went through the model. Caches are of equal mean size, but full KV's. most: tokens of the trace."""
    model, _ = load(reasoner_path())
    engine = open_engine(reasoner_path())
    ((trace,),) = engine.generate([engine.render(problem().question)], Sampling(temperature=0, max_new_tokens=most))
    ids = list(trace.token_ids)
    rows = compared_policies(POLICIES, [RATIO], interval=INTERVAL, window=WINDOW)
    with AttentionBinding(model):
        fresh = ForcedTraces(model, [trace.prompt_ids], [ids])
        return {row.family: _held(fresh.under(fit(row.matched([len(ids)]).policy, model))) for row in rows}


def _held(traces: ForcedTraces) -> Tensor:
    found = torch.zeros(traces.longest + 1, traces.longest)
    while traces.fed < traces.longest:
        traces.feed(1)
        found[traces.fed] = held_tokens(traces.cache, 0, traces.longest).float().mean((0, 1))
    return found


def draw_held(shares: dict[str, Tensor], path: Path) -> None:
    figure, panels = _figure(11, 3.1, len(shares))
    for axes, (family, held) in zip(panels, shares.items(), strict=True):
        axes.imshow(held.numpy(), cmap=SHADES, vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="upper")
        axes.set_title(f"{policy_name(family)}\n", fontsize=10, loc="left")
        axes.text(0, 1.03, SAID[family], transform=axes.transAxes, fontsize=7, color=GREY)
        axes.set_xlabel("token", fontsize=8)
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("tokens written so far", fontsize=8)
    figure.savefig(path)


def draw_size(shares: dict[str, Tensor], path: Path) -> None:
    figure, (axes,) = _figure(6.5, 3.0, 1)
    for colour, (family, held) in zip((GREY, *COLOURS), shares.items(), strict=False):
        sizes = held.sum(1).numpy()
        if family in ("full", "rpc", "streamingllm"):  # the others are on RPC's schedule: the same line
            axes.plot(sizes, color=colour, lw=1.5)
            label = {"rpc": "RPC, learned, Random"}.get(family, policy_name(family))
            end = (len(sizes) - 1, sizes[-1])
            axes.annotate(label, end, (4, -3), textcoords="offset points", fontsize=8, color=colour)
    axes.set_xlabel("tokens written so far", fontsize=8)
    axes.set_ylabel("tokens held in a layer, prompt aside", fontsize=8)
    axes.set_xlim(0, held.shape[1] * 1.32)  # with room for the names
    axes.set_xticks(range(0, held.shape[1] + 1, 50))
    axes.set_ylim(0)
    axes.tick_params(labelsize=7)
    figure.savefig(path)


def draw_votes(path: Path) -> None:
    engine = open_engine(reasoner_path())
    sampling = Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=0)
    judge = open_judge("bundled")
    strategies = (SelfConsistency(16, early_end=False), DeepPrune(16, judge, excerpt="tokens:56"), PricedVote(16))
    titles = ("Plain vote", "DeepPrune", "Priced vote")
    figure, panels = _figure(11, 3.4, len(strategies))
    fates: list[str] = []
    for axes, title, strategy in zip(panels, titles, strategies, strict=True):
        verdict = strategy.solve(engine, problem().question, sampling)
        for trace in verdict.traces:
            axes.barh(trace.index, trace.tokens, color=FATES[trace.fate][0], height=0.75)
            shown = trace.answer or ("" if trace.tokens else "never started")
            axes.text(trace.tokens + 8, trace.index, shown, fontsize=7, va="center", color=GREY)
            fates += [trace.fate] if trace.fate not in fates and trace.tokens else []
        axes.invert_yaxis()
        axes.set_title(f"{title}: {verdict.answer} for {verdict.tokens.generated:,} tokens", fontsize=10, loc="left")
        axes.set_xlabel("tokens written; then the answer", fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("traces", fontsize=8)
    marks = [Patch(color=FATES[fate][0], label=FATES[fate][1]) for fate in fates]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
    figure.savefig(path)


def _figure(width: float, height: float, columns: int) -> tuple[Figure, list[Any]]:
    """Of so many inches, its axes side by side with one y axis; no window is opened."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def main() -> None:
    torch.set_num_threads(1)  # so small a model gains nothing from more
    FOLDER.mkdir(exist_ok=True)
    shares = held_over_time()
    draw_held(shares, FOLDER / PICTURES[0])
    draw_size(shares, FOLDER / PICTURES[1])
    draw_votes(FOLDER / PICTURES[2])
    for family, held in shares.items():
        print(
            f"{family}: {float(held.sum(1).mean()):.0f} tokens held on average, {float(held[-1].sum()):.0f} at the end"
        )


if __name__ == "__main__":
    main()
