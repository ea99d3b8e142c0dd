"""Pair encoders that were trained crosswise: each problem is judged by one that has learned from others only.

Few problems are recorded, and a judge may be scored on none that it knows; so they are cut into folds, and an encoder is
trained for each without it. Together they judge every recorded problem as one judge would judge a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from laconic.errors import InputError, LaconicError
from laconic.files import write_text
from laconic.jsonl import read_object
from laconic.judges.counted import MatrixJudge
from laconic.judges.encoder import PairEncoder
from laconic.prune.judge import Excerpt
from laconic.prune.needs import Needs
from laconic.prune.trace_engine import TraceEngine

FORMAT = "laconic.judge-folds/1"
FILE = "folds.json"


class FoldReading(NamedTuple):
    """An excerpt as the encoder of its problem's fold reads it."""

    fold: int
    encoding: Tensor


class CrossTrainedEncoder(MatrixJudge):
    """See the module. encoders: one a fold, for excerpts of one kind; fold_of: by `question_digest`, the fold that leaves a
    question out. A question that is in none was seen by no encoder, and the first judges it."""

    name = "encoder"

    def __init__(self, encoders: Sequence[PairEncoder], fold_of: Mapping[str, int]) -> None:
        super().__init__()
        kinds = sorted({str(encoder.excerpt) for encoder in encoders})
        if len(kinds) != 1:
            raise InputError(
                f"the encoders were trained for excerpts {' and '.join(kinds) or 'none'}; expected one kind"
            )
        if fold_of and not 0 <= min(fold_of.values()) <= max(fold_of.values()) < len(encoders):
            raise InputError(f"a question is in a fold that has no encoder; expected 0 to {len(encoders) - 1}")
        self.encoders, self.fold_of = list(encoders), dict(fold_of)
        self.excerpt = kinds[0]

    def needs(self) -> Needs:
        """Those of each: they were planned alike."""
        return self.encoders[0].needs()

    def identity(self) -> dict[str, Any]:
        """See CountedJudge."""
        return {"folds": [encoder.identity() for encoder in self.encoders]}

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[FoldReading]:
        folds = [self.fold_of.get(question_digest(excerpt.question), 0) for excerpt in excerpts]
        found: dict[int, FoldReading] = {}
        for fold in sorted(set(folds)):
            places = [place for place, of in enumerate(folds) if of == fold]
            encoder = self.encoders[fold]
            before = encoder.cost.tokens
            readings = encoder.read([excerpts[place] for place in places], engine)
            self.cost.tokens += encoder.cost.tokens - before
            found.update((place, FoldReading(fold, each)) for place, each in zip(places, readings, strict=True))
        return [found[place] for place in range(len(excerpts))]

    def _compare(self, pairs: Sequence[tuple[FoldReading, FoldReading]]) -> list[float]:
        said = [0.0] * len(pairs)
        for fold in {_fold(a, b) for a, b in pairs}:
            places = [place for place, (a, _) in enumerate(pairs) if a.fold == fold]
            told = self.encoders[fold].compare([(pairs[i][0].encoding, pairs[i][1].encoding) for i in places])
            for place, probability in zip(places, told, strict=True):
                said[place] = probability
        return said

    def _pair(self, a: FoldReading, b: FoldReading) -> float:
        return self._compare([(a, b)])[0]

    def _matrix(self, readings: Sequence[FoldReading]) -> Tensor:
        fold = {_fold(readings[0], reading) for reading in readings}.pop()
        return self.encoders[fold].matrix([reading.encoding for reading in readings])

    @classmethod
    def open(cls, directory: str | Path, *, model: Any = None, tokenizer: Any = None, device: str = "auto") -> Self:
        """The judge whose folds `write_folds` has listed. Raises InputError for a broken list, and as `PairEncoder.open`."""
        directory = Path(directory).expanduser()
        try:
            record = read_object(directory / FILE)
            if record.get("format") != FORMAT:
                raise InputError(f"{directory / FILE} has the format {record.get('format')!r}; expected {FORMAT}")
            folds = [(str(fold["directory"]), [str(each) for each in fold["questions"]]) for fold in record["folds"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{directory / FILE} is broken ({type(error).__name__}); train the judge again") from error
        except LaconicError as error:
            raise InputError(f"{error}; expected {FORMAT}, a list of folds") from error
        encoders = [
            PairEncoder.open(directory / name, model=model, tokenizer=tokenizer, device=device) for name, _ in folds
        ]
        return cls(encoders, {question: fold for fold, (_, held_out) in enumerate(folds) for question in held_out})


def open_encoder(directory: Path, *, model: Any, tokenizer: Any, device: str) -> PairEncoder | CrossTrainedEncoder:
    """The judge of a directory of `laconic judge train`, one or one a fold. Raises InputError as their `open`."""
    kind = CrossTrainedEncoder if (directory / FILE).is_file() else PairEncoder
    return kind.open(directory, model=model, tokenizer=tokenizer, device=device)


def write_folds(directory: Path, held_out: Mapping[str, Sequence[str]]) -> None:
    """The list of a directory's folds. held_out: by the fold's own directory, the questions that its encoder doesn't know."""
    folds = [
        {"directory": name, "questions": sorted({question_digest(question) for question in questions})}
        for name, questions in held_out.items()
    ]
    write_text(directory / FILE, json.dumps({"format": FORMAT, "folds": folds}, indent=1) + "\n")


def question_digest(question: str) -> str:
    """8 hex digits."""
    return hashlib.blake2b(question.encode(), digest_size=4).hexdigest()


def _fold(a: FoldReading, b: FoldReading) -> int:
    """The fold of two readings. Raises InputError for readings of two encoders, which nothing compares."""
    if a.fold != b.fold:
        raise InputError("two excerpts are of problems in different folds; expected those of one problem")
    return a.fold
