"""What a replay needs a model for: hidden states, probes, and which tokens a compression kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from laconic import checks
from laconic.engines.base import EngineStats
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.engine import HFEngine
from laconic.engines.hf.reading import Reader
from laconic.engines.keeping import KeepingEngine
from laconic.engines.played import Play, PlayedRows
from laconic.errors import InputError


class RereadingEngine(KeepingEngine[Play]):
    """The part of ReplayEngine that asks `model_engine`. ReplayEngine holds the fields."""

    model_engine: HFEngine | None
    _rows: PlayedRows
    _counted: EngineStats

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states. Nothing is counted: an engine made with `record_states` notes them as it decodes."""
        trace_ids = checks.texts("trace_ids", trace_ids)
        model = self._model("states")
        found: dict[str, Tensor] = {}
        for plays in self._by_prompt(trace_ids):
            fed = [play.trace.token_ids[: play.computed] for play in plays]
            rows = model.states_of(plays[0].trace.prompt_ids, fed, tokens)
            found |= {play.trace.id: row for play, row in zip(plays, rows, strict=True)}
        return torch.stack([found[trace_id] for trace_id in trace_ids])

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe. Counted as an engine that decodes counts: for running traces, what it feeds to their copies."""
        trace_ids = checks.texts("trace_ids", trace_ids)
        model = self._model("probe")
        found: dict[str, Tensor] = {}
        copies: list[Play] = []
        for plays in self._by_prompt(trace_ids):
            before = model.stats.side_tokens
            rows = model.probe_of(plays[0].trace.prompt_ids, [play.trace.token_ids for play in plays], suffix, steps)
            found |= {play.trace.id: row for play, row in zip(plays, rows, strict=True)}
            if plays[0].trace.state == "running":
                copies += plays
            else:
                self._counted.side_tokens += model.stats.side_tokens - before
        if copies:
            assert model.tokenizer is not None
            tail = model.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
            fed = len(copies) * (len(tail) + steps)
            self._counted.side_tokens += fed
            held = self._rows.stats().live_kv_tokens + sum(self._rows.held(play) for play in copies) + fed
            self._counted.peak_kv_tokens = max(self._counted.peak_kv_tokens, held)
            self._counted.peak_kv_bytes = self._counted.peak_kv_tokens * self._rows.bytes_per_token
        return torch.stack([found[trace_id] for trace_id in trace_ids])

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept. Before the first compression no model is asked; after it, the trace's cache is built again."""
        play = self._run(trace_id)
        schedule, latest = self.policy.schedule, 0
        while (ahead := schedule.next_boundary(latest)) is not None and ahead <= play.computed:
            latest = ahead
        if latest == 0:
            return list(range(len(play.trace.token_ids)))
        model = self._model("kept")
        tokens = play.trace.token_ids[:latest]
        with AttentionBinding(model.model), torch.inference_mode():
            cache, _ = Reader(model.model, self.policy).rebuild(play.trace.prompt_ids, [tokens])
        shares = []
        for layer in cache.compressed_layers:
            at = layer.held_positions(0)
            shares.append(torch.zeros((len(at), latest)).scatter_(-1, at.cpu(), 1.0).mean(0))
        return [int(i) for i in torch.nonzero(torch.stack(shares).mean(0) >= 0.5).flatten()]

    def _by_prompt(self, trace_ids: Sequence[str]) -> list[list[Play]]:
        """Those of one prompt that run, those of it that don't, and so on for every prompt."""
        groups: dict[tuple[tuple[int, ...], bool], list[Play]] = {}
        for trace_id in trace_ids:
            play = self._run(trace_id)
            groups.setdefault((play.trace.prompt_ids, play.trace.state == "running"), []).append(play)
        return list(groups.values())

    def _model(self, what: str) -> HFEngine:
        if self.model_engine is None:
            raise InputError(f"{what} needs the model that wrote the traces: make the replay with model_engine")
        return self.model_engine
