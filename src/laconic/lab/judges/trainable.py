"""Judges that can be trained: what the training loop needs of one, and the encoder and the language model as such.

Each says the same as the judge of `laconic.judges` that it is; what it is trained to say is in its weights, which `save`
writes for that one to open.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from laconic.errors import InputError
from laconic.fingerprint import digest_in_any_format
from laconic.judges.adapters import LoRA, add_adapter
from laconic.judges.encoder import ENCODED_AT_ONCE, EncoderInput, PairEncoder
from laconic.judges.llm import CleanExcerpt, LLMJudge
from laconic.judges.prompts import batches_by_length
from laconic.lab.judges.calibration import fit_platt_scaling
from laconic.lab.judges.pairs import Pairs
from laconic.prune.judge import Excerpt
from laconic.prune.trace_engine import TraceEngine


class Trainable(Protocol):
    """What `fit` needs of a model; what else the model is (a `Judge`, say) is its own affair."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the optimizer steps: the same tensors in the same order every time, frozen ones left out or not."""
        ...

    def loss_logits(self, pairs: Pairs) -> Tensor:
        """log P(same) / P(different) of each pair, float [P], with a gradient unless that is switched off.

        `pairs` is a batch: each excerpt of it is there once, so a model that encodes excerpts does so once each.
        """
        ...

    def train(self, mode: bool = True) -> Any:
        """Dropout and the like on or off."""
        ...

    def save(self, directory: Path) -> None:
        """Everything that training changes, exactly, into a directory that exists."""
        ...

    def load(self, directory: Path) -> Any:
        """Take back, in place, what `save` wrote."""
        ...


class TrainableEncoder(PairEncoder):
    """A pair encoder that keeps what its network reads of the excerpts that it is trained on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._memory: dict[str, EncoderInput] = {}

    def remember(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None = None) -> int:
        """Prepare excerpts once and keep what the network reads of them for `loss_logits`. Returns the tokens run for it."""
        inputs, tokens_run = self.prepare(excerpts, engine)
        for excerpt, one in zip(excerpts, inputs, strict=True):
            # Half the bytes; states are of the order of 1 and are normalised before they are used.
            one.given = one.given.half() if one.given is not None else None
            self._memory[excerpt.trace_id] = one
        return tokens_run

    def forget(self) -> None:
        """Drop what `remember` keeps."""
        self._memory.clear()

    def parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def loss_logits(self, pairs: Pairs) -> Tensor:
        """See Trainable; not calibrated. Excerpts that were not remembered are prepared now, without a source: that works
        only where the network reads tokens alone."""
        new = [excerpt for excerpt in pairs.excerpts if excerpt.trace_id not in self._memory]
        if new:
            self.remember(new)
        inputs = [self._memory[excerpt.trace_id] for excerpt in pairs.excerpts]
        encodings = torch.cat(
            [
                self.network.encode(self.batch(inputs[i : i + ENCODED_AT_ONCE]))
                for i in range(0, len(inputs), ENCODED_AT_ONCE)
            ]
        )
        return self.network.compare(encodings[pairs.left.to(self.device)], encodings[pairs.right.to(self.device)])

    def train(self, mode: bool = True) -> TrainableEncoder:
        self.network.train(mode)
        return self

    def calibrate(self, logits: Tensor, same: Tensor) -> None:
        """Fit scale and shift to held-out pairs (Platt 1999; Newton's method on the cross entropy). float [P], bool [P]."""
        self.scale, self.shift = fit_platt_scaling(logits, same)


class TrainableLLMJudge(LLMJudge):
    """A language model that `tune` makes trainable; before that it judges as it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tuned = False

    def tune(self, lora: LoRA | None = None, recompute: bool = False) -> TrainableLLMJudge:
        """Make the judge trainable, in place: all weights in float32, or (lora) an adapter beside the frozen ones.

        An adapter's first values are drawn from torch's global generator. recompute: activations are computed again in
        the backward pass, which takes less memory and a third more time. Raises InputError for a judge that is tuned
        another way already, or where peft is missing.
        """
        if self._lora is not None and lora != self._lora:
            raise InputError(
                f"The judge has an adapter {self._lora}; it can't be tuned with {lora or 'all weights'} now"
            )
        if lora is not None and self._lora is None:
            self.model = add_adapter(self.model, lora)
            self._lora = lora
        if lora is None:
            self.model.float().requires_grad_(True)
        else:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_("lora_" in name)
        if recompute:
            model: Any = self.model
            # The name that transformers gives it from 5.23 on, and the one before.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self._tuned = True
        return self

    def origin(self) -> str:
        """Which model it is before training, in whatever number format; a new adapter is no part of it."""
        return digest_in_any_format(
            (name.replace("base_model.model.", "").replace("base_layer.", ""), value)
            for name, value in sorted(self.model.named_parameters())
            if "lora_" not in name
        )

    def parameters(self) -> list[nn.Parameter]:
        """See Trainable. Raises InputError before `tune`."""
        if not self._tuned:
            raise InputError("The LLM judge is not being tuned; call tune() first")
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def loss_logits(self, pairs: Pairs) -> Tensor:
        """See Trainable. While training, about half of the pairs, the same ones every time, are asked the other way round."""
        asked = [self._clean_excerpt(excerpt) for excerpt in pairs.excerpts]
        order = []
        for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            a, b = asked[i], asked[j]
            turned = self.model.training and zlib.crc32(repr((a.trace_id, b.trace_id)).encode()) % 2
            order.append((b, a) if turned else (a, b))
        if not self.settings.both_orders:
            return self._training_log_odds(order)
        there, back = self._training_log_odds(order), self._training_log_odds([(b, a) for a, b in order])
        same = torch.logaddexp(nn.functional.logsigmoid(there), nn.functional.logsigmoid(back))
        different = torch.logaddexp(nn.functional.logsigmoid(-there), nn.functional.logsigmoid(-back))
        return same - different

    def _training_log_odds(self, pairs: Sequence[tuple[CleanExcerpt, CleanExcerpt]]) -> Tensor:
        if not torch.is_grad_enabled():
            return self._judging_log_odds(pairs)
        prompts = [self._prompt(a, b) for a, b in pairs]
        batches = list(batches_by_length(prompts, range(len(prompts)), self.settings.batch_tokens))
        odds = [self._log_odds([prompts[i] for i in batch]) for batch in batches]
        back = torch.tensor([i for batch in batches for i in batch]).argsort()
        return torch.cat(odds)[back.to(self.device)].cpu() if odds else torch.zeros(0)

    def _log_odds(self, prompts: Sequence[Sequence[int]], prefix: DynamicCache | None = None) -> Tensor:
        # Weights in float32 that are being tuned on a GPU are multiplied in bfloat16.
        mixed = self._tuned and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return super()._log_odds(prompts, prefix)

    def train(self, mode: bool = True) -> TrainableLLMJudge:
        """See Trainable."""
        self.model.train(mode)
        return self
