"""What the judge commands share: the reasoner behind the traces, options that become settings, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.common import SMALL_STRATEGY, is_bundled, model_path
from laconic.cli.messages import print_to_stderr

if TYPE_CHECKING:
    from laconic.cli.tables import Table
    from laconic.lab.judges.recipe import EncoderPlan, TrainingData
    from laconic.lab.judges.run import ComparedJudge
    from laconic.lab.judges.training import ValidationCheck
    from laconic.prune.judge import Judge
    from laconic.traces import TraceFile


class Reasoner:
    """The model of --model and an engine on it, with the compression policy of the traces and the layers that are read."""

    def __init__(self, model: str | None, device: str, *traces: TraceFile, layers: Sequence[int] = ()) -> None:
        from laconic.compress import parse
        from laconic.engines.hf import load
        from laconic.errors import InputError

        policies = sorted({str(r.settings.get("policy", "full")) for file in traces for r in file.records})
        if len(policies) > 1:
            raise InputError(
                f"the traces were written under {' and '.join(policies)}; give those of one policy at a time"
            )
        self.model, self.tokenizer = load(model_path(model), device=device, fix_rotation=True)
        self.policy = parse(policies[0])
        self.where = str(self.model.device)
        self.engine = self.engine_of(layers or (-1,))

    def engine_of(self, layers: Sequence[int]) -> Any:
        """An engine that tells the hidden states of these layers."""
        from laconic.engines.hf import HFEngine

        return HFEngine(self.model, self.tokenizer, self.policy, state_layers=layers)


def read_file(path: Path) -> TraceFile:
    """The traces of a file; broken lines are told on stderr."""
    from laconic.traces import read_traces

    found = read_traces(path)
    if found.broken:
        print_to_stderr(found.describe_broken(path))
    return found


def describe_traces(traces: TraceFile) -> dict[str, Any]:
    """What traces were used, for the record: how many, and what wrote them."""
    first = traces.records[0].settings
    return {
        "problems": len(traces.by_problem()),
        "traces": len(traces.records),
        **{key: first.get(key) for key in ("model", "weights", "tokenizer", "policy", "temperature", "top_p")},
    }


def split_shares(text: str) -> tuple[float, float, float]:
    """`0.7,0.15,0.15`. Raises InputError for anything but three numbers; what they must add up to is checked by `split`."""
    from laconic.cli.lists import split_numbers
    from laconic.errors import InputError

    numbers = split_numbers("--shares", text)
    if len(numbers) != 3:
        raise InputError(f"--shares is {text}; expected three numbers, for training, validation and test")
    return numbers[0], numbers[1], numbers[2]


@dataclass(frozen=True, slots=True)
class Split:
    """How problems fall to training, validation and test. shares: of the three, once; folds: from 3 on, crosswise instead."""

    shares: tuple[float, float, float]
    folds: int
    seed: int

    def __len__(self) -> int:
        return self.folds or 1

    def prepare(self, traces: TraceFile, excerpt: str, tokenizer: Any, engine: Any) -> list[TrainingData]:
        """The pairs, split as often as there are folds. Raises InputError as `recipe.prepare`."""
        from laconic.lab.judges.recipe import prepare, prepare_folds

        if self.folds:
            return prepare_folds(traces, excerpt, tokenizer, engine, self.folds, self.seed)
        return [prepare(traces, excerpt, tokenizer, engine, self.shares, self.seed)]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: what there is of the two."""
        chosen: dict[str, Any] = {"folds": self.folds} if self.folds else {"shares": list(self.shares)}
        return {**chosen, "seed": self.seed}


def choose_split(shares: str, folds: int, seed: int) -> Split:
    """--shares or --folds. Raises InputError for both, or as `split_shares`."""
    from laconic import checks
    from laconic.cli.unused import refuse_unused

    if checks.whole("--folds", folds, 0):
        refuse_unused("with --folds", "shares")
    return Split(split_shares(shares), folds, seed)


def choose_plan(vectors: str, layers: str, width: int, depth: int) -> EncoderPlan:
    from laconic.cli.lists import split_whole
    from laconic.lab.judges.recipe import EncoderPlan

    chosen = tuple(split_whole("--layers", layers)) if vectors == "states" else ()
    return EncoderPlan(vectors, chosen, not vectors.startswith("model:"), width=width, depth=depth)


def choose_excerpt(excerpt: str | None, model: str | None) -> str:
    """The kind of --excerpt, checked; without it the bundled model's own."""
    from laconic.errors import InputError
    from laconic.prune.excerpts import parse

    if excerpt is None and not is_bundled(model):
        raise InputError("say with --excerpt what the judge sees of a trace, such as tokens:500 or words:25")
    return parse(excerpt if excerpt is not None else str(SMALL_STRATEGY["excerpt"])).kind


def tunable_llm(base: str, excerpt: str, lora: int, seed: int, device: str) -> Any:
    """A language model ready to be trained as a judge of such excerpts."""
    import torch

    from laconic.judges.adapters import LoRA
    from laconic.lab.judges.trainable import TrainableLLMJudge

    judge = TrainableLLMJudge.from_pretrained(base, excerpt=excerpt, device=device)
    torch.manual_seed(seed)
    return judge.tune(LoRA(rank=lora, alpha=2 * lora) if lora else None)


def open_judges(
    specs: Sequence[str], excerpt: str | None, model: str | None, reasoner: Reasoner, device: str, answers: Any
) -> tuple[list[ComparedJudge], frozenset[str]]:
    """The judges, each with its excerpts and an engine; and digests of the questions that one of them was trained on.

    answers: what an excerpt's trace ended in, for the perfect judge.
    """
    from laconic.judges.registry import open_judge, place_of
    from laconic.lab.judges.recipe import trained_on
    from laconic.lab.judges.run import ComparedJudge, excerpt_for
    from laconic.prune.excerpts import parse
    from laconic.prune.needs import needs_of

    given = None if excerpt is None else parse(excerpt).kind
    judges: dict[str, Judge] = {}
    known: frozenset[str] = frozenset()
    for spec in dict.fromkeys(specs):
        judges[spec] = open_judge(
            spec, model=reasoner.model, tokenizer=reasoner.tokenizer, answers=answers, device=device
        )
        place = place_of(spec)
        known |= trained_on(place) if place is not None else frozenset()
    default = str(SMALL_STRATEGY["excerpt"]) if is_bundled(model) else None
    entries = []
    for spec, judge in judges.items():
        layers = needs_of(judge).state_layers
        engine = reasoner.engine if layers is None else reasoner.engine_of(layers)
        entries.append(ComparedJudge(spec, judge, excerpt_for(judge, given, judges.values(), default), engine))
    return entries, known


def tell(look: ValidationCheck) -> None:
    """A look at the validation part, as a line on stderr."""
    best = ", the best so far" if look.best else ""
    print_to_stderr(f"step {look.step:,} of {look.of:,}: loss {look.loss:.4f}, validation AUROC {look.auroc:.4f}{best}")


def show(record: dict[str, Any], tables: Sequence[Table], as_json: bool) -> None:
    """Tables on stdout, or the record as JSON."""
    from laconic.cli.tables import print_tables

    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        print_tables(tables)
