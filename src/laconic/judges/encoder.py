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
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from laconic.errors import InputError, LaconicError, reason
from laconic.files import name_write_errors, write_text
from laconic.fingerprint import fingerprint
from laconic.jsonl import read_object
from laconic.judges.counted import MatrixJudge
from laconic.judges.input_spec import EncoderInputSpec, check_trained_for
from laconic.judges.network import ABSENT, EncoderBatch, EncoderConfig, EncoderNetwork
from laconic.judges.vectors import DecoderStates, ReasonerStates, VectorSource
from laconic.prune.judge import Excerpt
from laconic.prune.needs import Needs
from laconic.prune.trace_engine import TraceEngine

FORMAT = "laconic.judge/1"
ENCODED_AT_ONCE = 256
COMPARED_AT_ONCE = 16384


@dataclass(slots=True)
class EncoderInput:
    """One excerpt ready for the network; a row of an `EncoderBatch`."""

    tokens: Tensor
    """int64 [l]: the last tokens of the excerpt, as many as the network reads."""
    before: Tensor
    """int64 [l]: the token that stands before the same token in the question, ABSENT for none."""
    given: Tensor | None
    """Vectors [at most l, D], where the network reads them."""


class PairEncoder(MatrixJudge):
    """See the module. A reading is an encoding, float32 [E].

    `cost.tokens` counts what went through a model: nothing where the network reads tokens alone, or states that the engine
    recorded anyway. What the small network itself costs is in `cost.seconds`. An excerpt of more tokens than the network
    was trained to read (`config.tokens`) is read from its end.

    Probabilities are calibrated: sigmoid(scale * logit + shift), fitted to held-out pairs when it was trained.
    """

    name = "encoder"

    def __init__(
        self,
        input_spec: EncoderInputSpec,
        config: EncoderConfig,
        vectors: VectorSource | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        width = vectors.width if vectors is not None else 0
        if width != config.given:
            raise InputError(f"given is {config.given}, the vectors have {width} numbers; expected the same")
        self.input_spec, self.config, self.vectors = input_spec, config, vectors
        self.excerpt = input_spec.excerpt
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = EncoderNetwork(config).to(self.device).eval()
        self.scale, self.shift = 1.0, 0.0

    def needs(self) -> Needs:
        """Hidden states, where it was trained on the reasoner's; nothing of the reasoner where it reads another model's; else
        token ids."""
        if self.input_spec.vectors != "states":
            return Needs(token_ids=self.input_spec.vectors == "none")
        return Needs(state_tokens=self.config.tokens, state_layers=self.input_spec.layers)

    def identity(self) -> dict[str, Any]:
        """See CountedJudge."""
        return {"weights": fingerprint(self.network), "calibration": [self.scale, self.shift]}

    # ---- judging --------------------------------------------------------------------------------------------------

    def _read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> list[Tensor]:
        inputs, tokens_run = self.prepare(excerpts, engine)
        self.cost.tokens += tokens_run
        self.network.eval()
        with torch.inference_mode():
            parts = [
                self.network.encode(self.batch(inputs[i : i + ENCODED_AT_ONCE])).cpu()
                for i in range(0, len(inputs), ENCODED_AT_ONCE)
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

    def prepare(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None) -> tuple[list[EncoderInput], int]:
        """What the network reads of each excerpt, and the tokens that a model had to run for it."""
        for excerpt in excerpts:
            if excerpt.kind != self.input_spec.excerpt:
                raise InputError(
                    f"this judge was trained for excerpts {self.input_spec.excerpt}, it was given {excerpt.kind}; use "
                    f"{self.input_spec.excerpt}, or train a judge for {excerpt.kind}"
                )
        most, tokens_run = self.config.tokens, 0
        given: Sequence[Tensor | None] = [None] * len(excerpts)
        if self.vectors is not None and excerpts:
            given, tokens_run = self.vectors.fetch(excerpts, engine, most)
        found = []
        for excerpt, rows in zip(excerpts, given, strict=True):
            if self.input_spec.vectors.startswith("model:"):
                assert rows is not None
                # Rows are the other model's tokens: there is a place for each, and no id.
                tokens = torch.zeros(len(rows), dtype=torch.int64)
                found.append(EncoderInput(tokens, torch.full_like(tokens, ABSENT), rows))
                continue
            ids = excerpt.token_ids[-most:]
            if self.config.vocabulary and ids and max(ids) >= self.config.vocabulary:
                raise InputError(
                    f"an excerpt has the token id {max(ids)}, this judge knows {self.config.vocabulary} tokens; it was "
                    "trained for another tokenizer"
                )
            before = dict(zip(excerpt.prompt_ids[:0:-1], excerpt.prompt_ids[-2::-1], strict=True))
            known = torch.tensor([before.get(i, ABSENT) for i in ids], dtype=torch.int64)
            found.append(EncoderInput(torch.tensor(ids, dtype=torch.int64), known, rows))
        return found, tokens_run

    def batch(self, inputs: Sequence[EncoderInput]) -> EncoderBatch:
        longest = max(1, *(len(one.tokens) for one in inputs))
        tokens = torch.full((len(inputs), longest), ABSENT)
        before = torch.full_like(tokens, ABSENT)
        given = torch.zeros(len(inputs), longest, self.config.given) if self.config.given else None
        for i, one in enumerate(inputs):
            tokens[i, : len(one.tokens)], before[i, : len(one.before)] = one.tokens, one.before
            if given is not None and one.given is not None:
                given[i, : len(one.given)] = one.given
        where = self.device
        return EncoderBatch(tokens.to(where), before.to(where), None if given is None else given.to(where))

    # ---- files ----------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """config.json and model.safetensors, into a directory; a missing one is made."""
        directory.mkdir(parents=True, exist_ok=True)
        saved = {  # the keys are the file's format, older than the names of the fields
            "format": FORMAT,
            "made": asdict(self.input_spec),
            "shape": asdict(self.config),
            "scale": self.scale,
            "shift": self.shift,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        with name_write_errors(directory / "model.safetensors", SafetensorError):
            save_file(weights, directory / "model.safetensors")
        write_text(directory / "config.json", json.dumps(saved, indent=1) + "\n")

    def load(self, directory: Path) -> Self:
        """Take back what `save` wrote, in place. Raises InputError where its input specification or its network is another."""
        saved = _read_config(directory)
        for key, mine in (("made", self.input_spec), ("shape", self.config)):
            theirs = saved[key]
            if json.loads(json.dumps(asdict(mine))) != theirs:
                raise InputError(f"the judge at {directory} has {key} {theirs}, this one {asdict(mine)}")
        self.scale, self.shift = saved["scale"], saved["shift"]
        try:
            self.network.load_state_dict(load_file(directory / "model.safetensors"))
        except Exception as error:
            raise InputError(f"the weights of the judge at {directory} can't be loaded: {reason(error)}") from error
        return self

    @classmethod
    def open(cls, directory: str | Path, *, model: Any = None, tokenizer: Any = None, device: str = "auto") -> Self:
        """The judge that `save` wrote. model, tokenizer: the reasoner's, to be sure that it was trained for them.

        Raises InputError for a directory that holds none, or one that was trained for another tokenizer or model.
        """
        directory = Path(directory).expanduser()
        saved = _read_config(directory)
        try:
            input_spec = EncoderInputSpec(**saved["made"] | {"layers": tuple(saved["made"]["layers"])})
            config = EncoderConfig(**saved["shape"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{directory}/config.json is not that of a pair encoder ({error})") from error
        check_trained_for(input_spec, directory, model, tokenizer)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        judge = cls(input_spec, config, open_vector_source(input_spec, config.given, device), device=device)
        return judge.load(directory)


def open_vector_source(input_spec: EncoderInputSpec, width: int = 0, device: str = "auto") -> VectorSource | None:
    """What the vectors of an encoder come from. width: of the hidden states."""
    if input_spec.vectors == "states":
        return ReasonerStates(width, input_spec.layers)
    if input_spec.vectors.startswith("model:"):
        return DecoderStates(input_spec.vectors.removeprefix("model:"), device)
    return None


def _read_config(directory: Path) -> dict[str, Any]:
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
