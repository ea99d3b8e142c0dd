"""How many tokens a cell generates and how many hours of one GPU that is: an estimate, and said as one."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.lab.paper.cells import AccuracyCell, Cell, PaperModel, SpeedCell, TracesCell, VotesCell
from laconic.lab.paper.commands import RunChoices
from laconic.lab.paper.deepprune import ONLINE
from laconic.lab.paper.rpc import FULL, QWEN_7B, RPC_1024, RPC_4096, SPEED

MEASURED_AT = 16, 3  # the batch size, and the place of 32,768 tokens: what RPC's paper timed on one H100
LIMIT = 32768
REPEATS = 5
HOW = (
    "Hours: generated tokens over tokens/s of one GPU. tokens/s is what RPC's paper has for its 7B model on one H100 (batch "
    "16, 32K tokens: full 343, RPC 575 or 650; H2O and TOVA are taken as full), and for other models that, divided by the "
    "parameters that a token goes through, which is a guess. vLLM is faster: --tokens-per-second says what yours does.",
    "Tokens: DeepPrune's are published; RPC's lengths are not, so every trace counts as long as its limit (at most), unless "
    "--mean-length says how long. Full KV, where a command also runs it, counts in its own cell. Training and judging are not "
    "estimated.",
)


@dataclass(frozen=True, slots=True)
class CellCost:
    """tokens: generated, in all. hours: of one GPU. bound: that both are an upper bound, as lengths are not known."""

    tokens: float
    hours: float
    bound: bool = False


def estimate(cell: Cell, how: RunChoices, rate: float | None = None) -> CellCost | None:
    """None for what generates no tokens to speak of. rate: tokens a second of one GPU, for all cells; None: as `HOW` says."""
    match cell:
        case AccuracyCell():
            if cell.lacks:
                return None
            benchmark = cell.benchmark
            problems = benchmark.problems if how.problems is None else min(how.problems, benchmark.problems)
            samples = benchmark.drawn or (benchmark.samples if how.n is None or benchmark.harness else how.n)
            tokens, bound = _length(how, None)
            return _spent(problems * samples * tokens, rate or _rate(cell.model, cell.policy), bound)
        case TracesCell() | VotesCell():
            benchmark = cell.benchmark
            problems = benchmark.problems if how.problems is None else min(how.problems, benchmark.problems)
            tokens, bound = _length(how, _published_length(cell))
            samples = benchmark.samples if how.n is None else how.n
            return _spent(problems * samples * tokens, rate or _rate(cell.model, FULL), bound)
        case SpeedCell():
            return _timed(cell, how, rate)
        case _:
            return None


def _spent(tokens: float, rate: float, bound: bool) -> CellCost:
    return CellCost(tokens, tokens / rate / 3600, bound)


def _length(how: RunChoices, published: float | None) -> tuple[float, bool]:
    """Tokens a trace, and whether that is only a bound."""
    limit = LIMIT if how.max_new_tokens is None else how.max_new_tokens
    if how.mean_length is not None:
        return min(how.mean_length, limit), False
    return (limit, True) if published is None else (min(published, limit), False)


def _published_length(cell: TracesCell | VotesCell) -> float | None:
    """Mean tokens of a trace of cons@512, as published; None for a model that has no row there."""
    found = {model.name: benchmarks for model, benchmarks in ONLINE.items()}.get(cell.model.name, {})
    for benchmark, (cons, _) in found.items():
        if benchmark.name == cell.benchmark.name:
            return 1e8 * cons[1] / (benchmark.problems * benchmark.samples)
    return None


def _rate(model: PaperModel, policy: str) -> float:
    batch, place = MEASURED_AT
    known = {FULL: FULL, RPC_4096: RPC_4096, RPC_1024: RPC_1024}
    timed = known.get(policy, RPC_4096 if policy.startswith("rpc") else FULL)
    speed = SPEED[timed][batch][0][place]
    assert speed is not None
    return speed * QWEN_7B.billions / model.billions


def _timed(cell: SpeedCell, how: RunChoices, rate: float | None) -> CellCost | None:
    """Every method that the command runs, plain generate at full KV's speed; what runs out of memory takes no time."""
    speeds = [cell.published[method].tokens_per_second for method in (FULL, *cell.published)]
    if rate is not None:
        speeds = [rate for _ in speeds]
    known = [speed for speed in speeds if speed]
    if not known:
        return None
    each = cell.batch * cell.length * (REPEATS if how.repeats is None else how.repeats)
    return CellCost(each * len(known), sum(each / speed for speed in known) / 3600)
