"""The pair encoder: one small encoding a trace, one small comparison a pair, all pairs of 512 traces in a moment.

What it reads of an excerpt: its token ids by an embedding of its own, vectors (`judges.vectors`), or both; and of every
token, what stands before the same token in the question, if it occurs there. It was trained on excerpts of one kind, of
one tokenizer and, where it reads hidden states, of one model's; others are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from laconic.errors import InputError, LaconicError, reason
from laconic.files import saving, write_text
from laconic.jsonl import read_object
from laconic.judges.calibration import platt
from laconic.judges.counted import MatrixJudge
from laconic.judges.made import Made, check_fits
from laconic.judges.network import ABSENT, Inputs, Network, Shape
from laconic.judges.pairs import Pairs
from laconic.judges.vectors import Decoder, States, Vectors
from laconic.prune.judge import Excerpt
from laconic.prune.source import Source

FORMAT = "laconic.judge/1"
ENCODED_AT_ONCE = 256
COMPARED_AT_ONCE = 16384


@dataclass(slots=True)
class _Seen:
    """An excerpt ready for the network: the last tokens that it reads, what precedes each in the question, vectors."""

    tokens: Tensor
    before: Tensor
    given: Tensor | None


class PairEncoder(MatrixJudge):
    """See the module. A reading is an encoding, float32 [E].

    Its tokens on the bill are those that went through a model: none where it reads tokens alone or states that the engine
    noted anyway. What its own small network costs is in `cost.seconds`. An excerpt of more tokens than it was trained to
    read (`shape.tokens`) is read from its end.

    Probabilities are calibrated: sigmoid(scale * logit + shift), fitted on held-out pairs by `calibrate`.
    """

    name = "encoder"

    def __init__(
        self, made: Made, shape: Shape, vectors: Vectors | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__()
        width = vectors.width if vectors is not None else 0
        if width != shape.given:
            raise InputError(f"given is {shape.given}, the vectors have {width} numbers; expected the same")
        self.made, self.shape, self.vectors, self.excerpt = made, shape, vectors, made.excerpt
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(shape).to(self.device).eval()
        self.scale, self.shift = 1.0, 0.0
        self._memory: dict[str, _Seen] = {}

    @property
    def states_wanted(self) -> tuple[int, tuple[int, ...]] | None:
        """(tokens, layers) that an engine should note while it decodes (`record_states`, `state_layers`); None for none."""
        return (self.shape.tokens, self.made.layers) if self.made.vectors == "states" else None

    # ---- judging --------------------------------------------------------------------------------------------------

    def _read(self, excerpts: Sequence[Excerpt], source: Source | None) -> list[Tensor]:
        seen, run = self._look(excerpts, source)
        self.cost.tokens += run
        self.network.eval()
        with torch.inference_mode():
            parts = [
                self.network.encode(self._inputs(seen[i : i + ENCODED_AT_ONCE])).cpu()
                for i in range(0, len(seen), ENCODED_AT_ONCE)
            ]
        return list(torch.cat(parts)) if parts else []

    def _compare(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        if not pairs:
            return []
        left, right = (torch.stack(side) for side in zip(*pairs, strict=True))
        return self._probabilities(left, right).tolist()

    def _pair(self, a: Tensor, b: Tensor) -> float:
        return self._compare([(a, b)])[0]

    def _matrix(self, readings: Sequence[Tensor]) -> Tensor:
        encodings = torch.stack(list(readings))
        upper = torch.triu_indices(len(readings), len(readings), offset=1)
        found = torch.eye(len(readings))
        found[upper[0], upper[1]] = self._probabilities(encodings[upper[0]], encodings[upper[1]])
        return found.maximum(found.T)

    def _probabilities(self, left: Tensor, right: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [
                self.network.compare(a.to(self.device), b.to(self.device)).cpu()
                for a, b in zip(left.split(COMPARED_AT_ONCE), right.split(COMPARED_AT_ONCE), strict=True)
            ]
        return (self.scale * torch.cat(parts) + self.shift).sigmoid()

    def _look(self, excerpts: Sequence[Excerpt], source: Source | None) -> tuple[list[_Seen], int]:
        """What the network reads of each excerpt, and the tokens that a model had to run for it."""
        for excerpt in excerpts:
            if excerpt.kind != self.made.excerpt:
                raise InputError(
                    f"this judge was trained for excerpts {self.made.excerpt}, it was given {excerpt.kind}; use "
                    f"{self.made.excerpt}, or train a judge for {excerpt.kind}"
                )
        most, run = self.shape.tokens, 0
        given: Sequence[Tensor | None] = [None] * len(excerpts)
        if self.vectors is not None and excerpts:
            given, run = self.vectors.of(excerpts, source, most)
        found = []
        for excerpt, rows in zip(excerpts, given, strict=True):
            if self.made.vectors.startswith("model:"):
                assert rows is not None
                # Rows are the other model's tokens: there is a place for each, and no id.
                tokens = torch.zeros(len(rows), dtype=torch.int64)
                found.append(_Seen(tokens, torch.full_like(tokens, ABSENT), rows))
                continue
            ids = excerpt.token_ids[-most:]
            if self.shape.vocabulary and ids and max(ids) >= self.shape.vocabulary:
                raise InputError(
                    f"an excerpt has the token id {max(ids)}, this judge knows {self.shape.vocabulary} tokens; it was "
                    "trained for another tokenizer"
                )
            before = dict(zip(excerpt.prompt_ids[:0:-1], excerpt.prompt_ids[-2::-1], strict=True))
            known = torch.tensor([before.get(i, ABSENT) for i in ids], dtype=torch.int64)
            found.append(_Seen(torch.tensor(ids, dtype=torch.int64), known, rows))
        return found, run

    def _inputs(self, seen: Sequence[_Seen]) -> Inputs:
        longest = max(1, *(len(s.tokens) for s in seen))
        tokens = torch.full((len(seen), longest), ABSENT)
        before = torch.full_like(tokens, ABSENT)
        given = torch.zeros(len(seen), longest, self.shape.given) if self.shape.given else None
        for i, s in enumerate(seen):
            tokens[i, : len(s.tokens)], before[i, : len(s.before)] = s.tokens, s.before
            if given is not None and s.given is not None:
                given[i, : len(s.given)] = s.given
        where = self.device
        return Inputs(tokens.to(where), before.to(where), None if given is None else given.to(where))

    # ---- training: `Trainable` ------------------------------------------------------------------------------------

    def remember(self, excerpts: Sequence[Excerpt], source: Source | None = None) -> int:
        """Look at excerpts once for all: `loss_logits` takes what it reads of them from here. Returns the tokens run."""
        seen, run = self._look(excerpts, source)
        for excerpt, s in zip(excerpts, seen, strict=True):
            # Half the bytes; states are of the order of 1 and are normalised before they are used.
            s.given = s.given.half() if s.given is not None else None
            self._memory[excerpt.trace_id] = s
        return run

    def forget(self) -> None:
        """Drop what `remember` keeps."""
        self._memory.clear()

    def parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def loss_logits(self, pairs: Pairs) -> Tensor:
        """See Trainable; not calibrated. Excerpts that were not remembered are looked at now, which needs no source only
        where tokens alone are read."""
        new = [excerpt for excerpt in pairs.excerpts if excerpt.trace_id not in self._memory]
        if new:
            self.remember(new)
        seen = [self._memory[excerpt.trace_id] for excerpt in pairs.excerpts]
        encodings = torch.cat(
            [
                self.network.encode(self._inputs(seen[i : i + ENCODED_AT_ONCE]))
                for i in range(0, len(seen), ENCODED_AT_ONCE)
            ]
        )
        return self.network.compare(encodings[pairs.left.to(self.device)], encodings[pairs.right.to(self.device)])

    def train(self, mode: bool = True) -> PairEncoder:
        self.network.train(mode)
        return self

    def calibrate(self, logits: Tensor, same: Tensor) -> None:
        """Fit scale and shift to held-out pairs (Platt 1999; Newton's method on the cross entropy). float [P], bool [P]."""
        self.scale, self.shift = platt(logits, same)

    # ---- files ----------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """config.json and model.safetensors, into a directory; a missing one is made."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "format": FORMAT,
            "made": asdict(self.made),
            "shape": asdict(self.shape),
            "scale": self.scale,
            "shift": self.shift,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        with saving(directory / "model.safetensors", SafetensorError):
            save_file(weights, directory / "model.safetensors")
        write_text(directory / "config.json", json.dumps(config, indent=1) + "\n")

    def load(self, directory: Path) -> PairEncoder:
        """Take back what `save` wrote, in place. Raises InputError where it is of another make or shape."""
        config = _config(directory)
        for key, mine in (("made", self.made), ("shape", self.shape)):
            theirs = config[key]
            if json.loads(json.dumps(asdict(mine))) != theirs:
                raise InputError(f"the judge at {directory} has {key} {theirs}, this one {asdict(mine)}")
        self.scale, self.shift = config["scale"], config["shift"]
        try:
            self.network.load_state_dict(load_file(directory / "model.safetensors"))
        except Exception as error:
            raise InputError(f"the weights of the judge at {directory} can't be loaded: {reason(error)}") from error
        return self

    @classmethod
    def open(
        cls, directory: str | Path, *, model: Any = None, tokenizer: Any = None, device: str = "auto"
    ) -> PairEncoder:
        """The judge that `save` wrote. model, tokenizer: the reasoner's, to be sure that it was trained for them.

        Raises InputError for a directory that holds none, or one that was trained for another tokenizer or model.
        """
        directory = Path(directory).expanduser()
        config = _config(directory)
        try:
            made = Made(**config["made"] | {"layers": tuple(config["made"]["layers"])})
            shape = Shape(**config["shape"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{directory}/config.json is not that of a pair encoder ({error})") from error
        check_fits(made, directory, model, tokenizer)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        judge = cls(made, shape, vectors_for(made, shape.given, device), device=device)
        return judge.load(directory)


def vectors_for(made: Made, width: int = 0, device: str = "auto") -> Vectors | None:
    """What the vectors of an encoder come from. width: of the hidden states."""
    if made.vectors == "states":
        return States(width, made.layers)
    if made.vectors.startswith("model:"):
        return Decoder(made.vectors.removeprefix("model:"), device)
    return None


def _config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    if not file.is_file():
        raise InputError(f"there is no judge at {directory}: expected a directory that `laconic judge train` wrote")
    try:
        config = read_object(file)
    except LaconicError as error:
        raise InputError(f"{error}; expected {FORMAT}, a pair encoder's") from error
    found = config.get("format")
    if found != FORMAT:
        raise InputError(f"{file} has the format {found!r}; expected {FORMAT}, a pair encoder's")
    return config
