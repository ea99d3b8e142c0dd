"""From recorded traces to a trained judge: cut, split, train, calibrate, score; and the record of it beside the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laconic import checks
from laconic.errors import InputError, LaconicError
from laconic.files import write_text
from laconic.jsonl import read_object
from laconic.judges.encoder import open_vector_source
from laconic.judges.folds import question_digest
from laconic.judges.input_spec import EncoderInputSpec, sign_fingerprint
from laconic.judges.network import EncoderConfig
from laconic.lab.judges.pairs import PARTS, SHARES, Pairs, make_pairs, split_folds, split_problems
from laconic.lab.judges.reread import Reread
from laconic.lab.judges.scoring import Score, score
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.trainable import Trainable, TrainableEncoder
from laconic.lab.judges.training import TrainingHistory, ValidationCheck, fit, predict
from laconic.lab.shared.traces import check_tokenizer
from laconic.traces import TraceFile, tokenizer_fingerprint

FORMAT = "laconic.training/1"
RECORD = "training.json"
CHECKPOINTS = "checkpoints"
MOST_TOKENS = 4096

Watcher = Callable[[ValidationCheck], None]


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What a pair encoder is built as. vectors: "none", "states" or "model:NAME"; layers: of the states, indices into
    transformers' `hidden_states`. tokens: whether token ids are read by an embedding of its own. The others are
    those of `EncoderConfig`."""

    vectors: str = "none"
    layers: tuple[int, ...] = ()
    tokens: bool = True
    embedding: int = 192
    width: int = 64
    depth: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        if checks.text("vectors", self.vectors, "none, states or model:NAME").startswith("model:") and self.tokens:
            raise InputError(
                f"vectors {self.vectors} are of another model's tokens, so the reasoner's can't stand beside them; plan "
                "tokens=False"
            )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Pairs of excerpts of one kind, split by problem. parts: "train", "validation", "test"."""

    excerpt: str
    parts: dict[str, Pairs]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each part: how many problems and pairs, and the share of "same"."""
        return {
            name: {
                "problems": len(pairs.problem.unique()),
                "pairs": len(pairs),
                "same": round(float(pairs.same.double().mean()), 4),
            }
            for name, pairs in self.parts.items()
        }


@dataclass(frozen=True, slots=True)
class TrainedJudge:
    """A judge, how its training went, what it says of the test part's pairs (float64 [P]), and how it does there."""

    judge: Any
    fit: TrainingHistory
    said: Tensor
    test: Score


def prepare(
    traces: TraceFile,
    excerpt: str,
    tokenizer: Any,
    engine: Any = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> TrainingData:
    """All pairs, cut and split. tokenizer: the one that the traces were written with; engine: needed for `kept` excerpts.

    Raises InputError for traces of another tokenizer, naming both, and as `make_pairs`, `split` and `Pairs.check`.
    """
    check_tokenizer(traces.records, tokenizer, None if engine is None else engine.model)
    pairs = make_pairs(traces, excerpt, tokenizer, engine)
    return _parts(excerpt, pairs, split_problems(_by_question(pairs), shares, seed))


def prepare_folds(
    traces: TraceFile, excerpt: str, tokenizer: Any, engine: Any, folds: int, seed: int = 0
) -> list[TrainingData]:
    """The same, a split a fold, so that every problem is in one test part (`pairs.split_folds`). Raises as `prepare`."""
    check_tokenizer(traces.records, tokenizer, None if engine is None else engine.model)
    pairs = make_pairs(traces, excerpt, tokenizer, engine)
    return [_parts(excerpt, pairs, parts) for parts in split_folds(_by_question(pairs), folds, seed)]


def _parts(excerpt: str, pairs: Pairs, parts: Mapping[str, Sequence[str]]) -> TrainingData:
    alike = _by_question(pairs)
    found = {name: [each for problem in parts[name] for each in alike[problem]] for name in PARTS}
    return TrainingData(
        excerpt, {name: pairs.of_problems(found[name]).require_both_classes(f"the {name} part") for name in PARTS}
    )


def _by_question(pairs: Pairs) -> dict[str, list[str]]:
    """By the first problem of each question, all that ask the same, itself included: they fall to one part."""
    questions = {pairs.problems[place]: "" for place in range(len(pairs.problems))}
    for place, left in zip(pairs.problem.tolist(), pairs.left.tolist(), strict=True):
        questions[pairs.problems[place]] = pairs.excerpts[left].question
    first: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for problem, question in questions.items():
        # A problem with one trace has no pairs: nothing of it is in any part.
        found.setdefault(first.setdefault(question or f"\0{problem}", problem), []).append(problem)
    return found


def new_encoder(
    data: TrainingData, plan: EncoderPlan, model: Any, tokenizer: Any, seed: int = 0, device: str = "cpu"
) -> TrainableEncoder:
    """An untrained encoder for such data. Its token embedding begins as the reasoner's own, scaled to unit variance, through
    a random projection where that is wider."""
    states = plan.vectors == "states"
    layers = plan.layers or (-1,) if states else ()
    input_spec = EncoderInputSpec(
        data.excerpt,
        plan.vectors,
        layers,
        tokenizer=tokenizer_fingerprint(tokenizer) if plan.tokens else "",
        model=sign_fingerprint(model) if states else "",
    )
    table = model.get_input_embeddings().weight.detach().float().cpu() if plan.tokens else None
    width = int(model.config.get_text_config().hidden_size) * len(layers)
    vectors = open_vector_source(input_spec, width, device)
    longest = max(len(excerpt.token_ids) for pairs in data.parts.values() for excerpt in pairs.excerpts)
    config = EncoderConfig(
        given=vectors.width if vectors is not None else 0,
        vocabulary=len(table) if table is not None else 0,
        embedding=min(plan.embedding, table.shape[1]) if table is not None else 1,
        tokens=min(MOST_TOKENS, max(1, longest)),
        width=plan.width,
        layers=plan.depth,
        dropout=plan.dropout,
    )
    judge = TrainableEncoder(input_spec, config, vectors, seed, device)
    if table is not None:
        judge.network.embedding.weight.data.copy_(_projected(table, config.embedding, seed))
    return judge


def train_encoder(
    data: TrainingData,
    plan: EncoderPlan,
    settings: TrainSettings,
    model: Any,
    tokenizer: Any,
    engine: Any = None,
    directory: Path | None = None,
    watch: Watcher | None = None,
    device: str = "cpu",
) -> TrainedJudge:
    """A pair encoder, trained on one part, stopped early and calibrated on the second, scored on the third.

    model, tokenizer: the reasoner's. engine: an HFEngine on it with `state_layers` as the plan's, for hidden states.
    directory: for checkpoints; an interrupted training goes on there. Raises InputError as `fit`.
    """
    judge = new_encoder(data, plan, model, tokenizer, settings.seed, device)
    for pairs in data.parts.values():
        source: Any = Reread(engine, pairs.excerpts) if plan.vectors == "states" else None
        judge.remember(pairs.excerpts, source)
    done = fit(judge, data.parts["train"], data.parts["validation"], settings, directory, watch)
    judge.calibrate(predict(judge, data.parts["validation"]), data.parts["validation"].same)
    logits = judge.scale * predict(judge, data.parts["test"]) + judge.shift
    return _trained(judge, done, logits, data)


def train_other(
    judge: Trainable,
    data: TrainingData,
    settings: TrainSettings,
    directory: Path | None = None,
    watch: Watcher | None = None,
) -> TrainedJudge:
    """Any other judge that can be trained, an LLM made ready by `tune`, say; its probabilities are not calibrated."""
    done = fit(judge, data.parts["train"], data.parts["validation"], settings, directory, watch)
    return _trained(judge, done, predict(judge, data.parts["test"], settings.micro), data)


def without_known(data: TrainingData, known: frozenset[str]) -> TrainingData:
    """Without the validation's and the test's problems whose questions are among `known` (digests): those that the model
    begun with was trained on. Raises InputError where a class is lacking then."""
    if not known:
        return data
    parts = {
        name: pairs
        if name == PARTS[0]
        else unknown_to(pairs, known).require_both_classes(f"the {name} part, without problems that --base knows,")
        for name, pairs in data.parts.items()
    }
    return TrainingData(data.excerpt, parts)


def write_record(
    directory: Path,
    kind: str,
    data: TrainingData,
    settings: TrainSettings,
    trained: TrainedJudge,
    known_before: frozenset[str] = frozenset(),
    **more: Any,
) -> None:
    """training.json: settings, figures, and which problems the judge must not be scored on. known_before: digests of those that
    the model begun with was trained on. more: ready for JSON."""
    known = [excerpt for part in ("train", "validation") for excerpt in data.parts[part].excerpts]
    record = {
        "format": FORMAT,
        "kind": kind,
        "excerpt": data.excerpt,
        **more,
        "settings": asdict(settings),
        "parts": data.describe(),
        "looks": [asdict(look) for look in trained.fit.looks],
        "best_step": trained.fit.best.step,
        "test": trained.test.to_dict(),
        "trained_on": sorted(known_before | {question_digest(excerpt.question) for excerpt in known}),
    }
    write_text(directory / RECORD, json.dumps(record, indent=1) + "\n")


def trained_on(place: Path) -> frozenset[str]:
    """Digests of the questions that the judge at a path was trained on; none where there is no record of it."""
    file = place / RECORD
    if not file.is_file():
        return frozenset()
    try:
        record = read_object(file)
    except LaconicError as error:
        raise InputError(f"the record of a judge is broken: {error}; remove it, or copy the judge again") from error
    try:
        return frozenset(record["trained_on"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is broken ({type(error).__name__}); remove it, or copy the judge again") from error


def unknown_to(pairs: Pairs, known: Iterable[str]) -> Pairs:
    """The pairs of those problems whose questions are not among `known` (digests)."""
    seen = set(known)
    asked = (pairs.excerpts[i].question for i in pairs.left.tolist())
    questions = dict(zip(pairs.problem.tolist(), asked, strict=True))
    return pairs.of_problems(
        pairs.problems[i] for i, question in questions.items() if question_digest(question) not in seen
    )


def _trained(judge: Any, done: TrainingHistory, logits: Tensor, data: TrainingData) -> TrainedJudge:
    said, test = logits.double().sigmoid(), data.parts["test"]
    return TrainedJudge(judge, done, said, score(said, test.same, test.problem))


def describe_folds(folds: Sequence[TrainingData], trained: Sequence[TrainedJudge]) -> dict[str, Any]:
    """Ready for JSON: of each fold its parts and its test's figures; and the test parts of all as one, each pair by the judge
    that doesn't know its problem."""
    tests = [data.parts["test"] for data in folds]
    together = score(
        torch.cat([each.said for each in trained]),
        torch.cat([test.same for test in tests]),
        torch.cat([test.problem for test in tests]),
    )
    return {
        "excerpt": folds[0].excerpt,
        "folds": [
            {"parts": data.describe(), "best_step": each.fit.best.step, "test": each.test.to_dict()}
            for data, each in zip(folds, trained, strict=True)
        ],
        "test": together.to_dict(),
    }


def _projected(table: Tensor, width: int, seed: int) -> Tensor:
    if table.shape[1] > width:
        generator = torch.Generator().manual_seed(seed)
        table = table @ torch.randn(table.shape[1], width, generator=generator) / width**0.5
    return table / table.std().clamp(min=1e-6)
