"""What HFEngine tells of its traces beside their chunks: hidden states, probes, and what compression kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic import checks
from laconic.engines.base import EngineStats
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.batch import Batch, Run
from laconic.engines.hf.models import text_config
from laconic.engines.hf.reading import Reader, fork
from laconic.engines.keeping import KeepingEngine
from laconic.engines.requests import check_vocabulary
from laconic.engines.text import decode
from laconic.errors import InputError


class ReadableEngine(KeepingEngine[Run]):
    """The part of HFEngine that reads traces without decoding them. HFEngine holds the fields."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    state_layers: tuple[int, ...]
    _batch: Batch
    _reader: Reader
    _counted: EngineStats

    def held(self, trace_id: str) -> Tensor:
        """bool [compressible layers, g, generated tokens]: which tokens' KV each layer holds, at the end of a finished trace.

        g is 1, or the number of KV heads where the policy chooses per head. The newest token's KV has not been computed yet;
        it counts as held. Needs record_held=True for a trace that is no longer running.
        """
        run = self._run(trace_id)
        if run in self._batch.runs:
            return self._batch.held(run)
        if run.held is None:
            raise InputError(f"what trace {trace_id!r} held was not recorded: make the engine with record_held=True")
        return run.held

    def compression_points(self, trace_id: str) -> list[int]:
        """Counts of generated tokens at which the trace was compressed."""
        points, at = [], self.policy.schedule.next_boundary(0)
        computed = self._run(trace_id).computed
        while at is not None and at <= computed:
            points.append(at)
            at = self.policy.schedule.next_boundary(at)
        return points

    def decode(self, token_ids: Sequence[int]) -> str:
        """See Engine.decode."""
        if self.tokenizer is None:
            return super().decode(token_ids)
        return decode(self.tokenizer, token_ids)

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states. Recorded as far as `record_states` goes, of the layers `state_layers`."""
        tokens = checks.whole("tokens", tokens, 1)
        runs = [self._run(i) for i in checks.texts("trace_ids", trace_ids, some=True)]
        lacking = [run for run in runs if len(run.states) < min(run.computed, tokens)]
        found: dict[str, Tensor] = {}
        for group in _by_prompt(lacking):
            prompt = group[0].trace.prompt_ids
            fed = [run.trace.token_ids[: run.computed] for run in group]
            found |= {run.trace.id: row for run, row in zip(group, self.states_of(prompt, fed, tokens), strict=True)}
        width = len(self.state_layers) * text_config(self.model).hidden_size
        out = torch.zeros((len(runs), tokens, width))
        for row, run in zip(out, runs, strict=True):
            if run.trace.id in found:
                row.copy_(found[run.trace.id])
            elif run.states:
                recorded = torch.stack(run.states[:tokens])
                row[: len(recorded)] = recorded
        return out

    def states_of(self, prompt_ids: Sequence[int], token_lists: Sequence[Sequence[int]], tokens: int) -> Tensor:
        """`states` of recorded traces of one prompt: their tokens are run through the model, [n, tokens, D]."""
        self._check_recorded(prompt_ids, token_lists)
        with AttentionBinding(self.model):
            states, run = self._reader.states(prompt_ids, token_lists, tokens, self.state_layers)
        self._counted.side_tokens += run
        return states

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe. Traces in the batch are probed on a copy of their rows, others rebuilt from their tokens."""
        tail = self._suffix(suffix, steps)
        runs = [self._run(i) for i in checks.texts("trace_ids", trace_ids, some=True)]
        live = [run for run in runs if run in self._batch.runs]
        found: dict[str, Tensor] = {}
        if live:
            assert self._batch.cache is not None
            with AttentionBinding(self.model), torch.inference_mode():
                twin = fork(self._batch.cache, [self._batch.runs.index(run) for run in live])
                here = self._batch.stats()
                extra = twin.ledger.tokens + len(live) * (len(tail) + steps)
                self._counted.peak_kv_tokens = max(self._counted.peak_kv_tokens, here.live_kv_tokens + extra)
                both = here.live_kv_bytes + extra * twin.bytes_per_token
                self._counted.peak_kv_bytes = max(self._counted.peak_kv_bytes, both)
                newest = [run.trace.token_ids[-1] for run in live]
                answers, fed = self._reader.probe(twin, [run.length for run in live], newest, tail, steps)
            self._counted.side_tokens += fed
            found |= {run.trace.id: answer for run, answer in zip(live, answers, strict=True)}
        for group in _by_prompt([run for run in runs if run not in live]):
            tokens = [run.trace.token_ids for run in group]
            answers = self.probe_of(group[0].trace.prompt_ids, tokens, suffix, steps)
            found |= {run.trace.id: answer for run, answer in zip(group, answers, strict=True)}
        return torch.stack([found[run.trace.id] for run in runs])

    def probe_of(
        self, prompt_ids: Sequence[int], token_lists: Sequence[Sequence[int]], suffix: str, steps: int
    ) -> Tensor:
        """`probe` of recorded traces of one prompt: their caches are built from their tokens first, [n, steps, V]."""
        self._check_recorded(prompt_ids, token_lists)
        with AttentionBinding(self.model), torch.inference_mode():
            answers, run = self._reader.probe_again(prompt_ids, token_lists, self._suffix(suffix, steps), steps)
        self._counted.side_tokens += run
        return answers

    def _check_recorded(self, prompt_ids: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Raises InputError for tokens from a file that this model doesn't know, or a prompt without any."""
        if not prompt_ids:
            raise InputError("a recorded trace has no prompt_ids, so nothing of it can be run again; collect it anew")
        vocabulary = text_config(self.model).vocab_size
        check_vocabulary(prompt_ids, vocabulary)
        for tokens in token_lists:
            if tokens:
                check_vocabulary(tokens, vocabulary, "a trace")

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept. A trace that has left the batch needs record_held=True."""
        points = self.compression_points(trace_id)
        if not points:
            return list(range(len(self._run(trace_id).trace.token_ids)))
        share = self.held(trace_id)[..., : points[-1]].float().mean(dim=(0, 1))
        return [int(i) for i in torch.nonzero(share >= 0.5).flatten()]

    def _suffix(self, suffix: str, steps: int) -> list[int]:
        checks.whole("steps", steps, 1, meaning="tokens")
        checks.text("suffix", suffix)
        if self.tokenizer is None:
            raise InputError("this engine has no tokenizer, so it can't append a text to probe a trace")
        return list(self.tokenizer(suffix, add_special_tokens=False)["input_ids"]) if suffix else []


def _by_prompt(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.trace.prompt_ids, []).append(run)
    return list(groups.values())


def check_layers(model: PreTrainedModel, record_states: int, layers: Sequence[int]) -> None:
    checks.whole("record_states", record_states, 0, meaning="tokens; 0 is off")
    layers = checks.wholes("state_layers", layers, -checks.MOST, meaning="indices of hidden states")
    most = text_config(model).num_hidden_layers
    wrong = [layer for layer in layers if not -most - 1 <= layer <= most]
    if wrong or not layers:
        raise InputError(f"state_layers is {tuple(layers)}; expected indices from {-most - 1} to {most}, at least one")
