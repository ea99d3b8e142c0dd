"""What the cells of a paper's tables are: data alone. `commands` makes commands of them, `merge` finds their results.

A cell is what one command fills: one figure, or several that it measures together. Figures are as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HARNESSES = {"lm_eval": "lm-eval", "lighteval": "lighteval"}


@dataclass(frozen=True, slots=True)
class PaperModel:
    """A model of a paper. hub: its name on the Hub. billions: parameters that a token goes through. The rest is how the paper
    samples; None: not known, the model's own generation_config says it."""

    name: str
    hub: str
    billions: float
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PaperBenchmark:
    """A benchmark of a paper. name: as `--source` has it. problems: how many; part: the first of more. samples: traces of each
    problem, as published. harness, task: what scores it where laconic can't; scores: the harness's names of its figures, the
    table's first; drawn: samples that this draws, 0 for as many as published. note: what differs from the paper."""

    name: str
    problems: int
    samples: int
    harness: str = ""
    task: str = ""
    scores: tuple[str, ...] = ()
    drawn: int = 0
    note: str = ""
    part: bool = False


@dataclass(frozen=True, slots=True)
class AccuracyCell:
    """pass@1 of a model under a policy on a benchmark.

    method: the cell's last name. policy: the spec, without a budget where `share` says it; "" where there is no command. share:
    of full KV's mean generated length, which is the budget. published: pass@1 in per cent. lacks: why there is no command.
    """

    model: PaperModel
    benchmark: PaperBenchmark
    method: str
    policy: str
    published: float
    share: float | None = None
    lacks: str = ""

    @property
    def place(self) -> str:
        """Its results, below the directory of all."""
        return f"accuracy/{self.model.name}/{self.benchmark.name}"

    @property
    def name(self) -> str:
        return f"{self.place}/{self.method}"


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """Published for one method: generated tokens a second over all rows, peak memory in GB, tokens/s over full KV's. None: not
    told. out_of_memory: that it did not run."""

    tokens_per_second: float | None = None
    gigabytes: float | None = None
    to_full: float | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class SpeedCell:
    """Speed and memory of a shape at one batch size and length. published: by method, a policy's spec."""

    shape: str
    batch: int
    length: int
    prompt: int
    published: Mapping[str, SpeedFigures]

    @property
    def place(self) -> str:
        return f"speed/{self.shape}/{self.batch}x{self.length}"

    @property
    def name(self) -> str:
        return self.place


@dataclass(frozen=True, slots=True)
class VotesFigures:
    """Published for one strategy: accuracy in per cent, generated tokens over all problems in units of 1e8."""

    accuracy: float | None = None
    tokens: float | None = None


@dataclass(frozen=True, slots=True)
class VotesCell:
    """Strategies on the same n traces of every problem. published: by strategy, its spec; `cons` is the vote over all."""

    model: PaperModel
    benchmark: PaperBenchmark
    published: Mapping[str, VotesFigures]

    @property
    def place(self) -> str:
        return f"votes/{self.model.name}/{self.benchmark.name}"

    @property
    def name(self) -> str:
        return self.place


@dataclass(frozen=True, slots=True)
class TracesCell:
    """Recorded traces of one model that judges are trained or scored on. use: train or test."""

    model: PaperModel
    benchmark: PaperBenchmark
    use: str

    @property
    def place(self) -> str:
        return f"traces/{self.model.name}.jsonl"

    @property
    def name(self) -> str:
        return self.place.removesuffix(".jsonl")


@dataclass(frozen=True, slots=True)
class JudgeCell:
    """A judge trained in one way on one kind of excerpts, scored on models that it has not seen. base: what is trained; judge:
    instead, the spec of one that is not trained. published: AUROC and TNR at FNR 0.2 as shares, means over the models; None:
    not told. read: the models' traces that it is scored on; trained: those that it is trained on."""

    excerpt: str
    variant: str
    published: tuple[float | None, float | None]
    read: tuple[TracesCell, ...]
    trained: TracesCell | None = None
    base: str = ""
    focal: bool = True
    oversample: int = 2
    judge: str = ""

    @property
    def place(self) -> str:
        return f"judge/{self.excerpt.replace(':', '-')}-{self.variant}"

    @property
    def name(self) -> str:
        return self.place


Cell = AccuracyCell | SpeedCell | VotesCell | TracesCell | JudgeCell


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper's cells. choices: what the paper does not say and what stands here instead, in sentences."""

    name: str
    title: str
    arxiv: str
    cells: tuple[Cell, ...]
    choices: tuple[str, ...] = ()

    @property
    def cited(self) -> str:
        return f"{self.title}, arXiv {self.arxiv}"
