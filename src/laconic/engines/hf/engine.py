"""laconic's own loop on a transformers model: rows join, leave, stop and resume while the batch runs.

A step is one forward pass of one token a row. Rows that finish leave the batch; waiting traces take their places. The traces
of one prompt share its prefill. A stopped trace gives its memory back and is rebuilt from its tokens when it resumes, its
prefill clipped at the compression points, so that it holds what it would have held.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic.compress import FullKV, Policy
from laconic.engines.base import Chunk, Engine, EngineStats, FinishReason, Prompt, Sampling, Trace
from laconic.engines.hf.attention import Binding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.generation import (
    add_stats,
    check_model,
    check_prompt_fits,
    context_length,
    count_cache,
    text_config,
)
from laconic.engines.hf.sampling import draw, mean_top_logprob, trace_key, uniform
from laconic.errors import LaconicError

MAX_TRACES_PER_PROMPT = 65536


@dataclass(slots=True)
class _Run:
    """A trace and what the loop needs to know of it."""

    trace: Trace
    number: int
    key: int
    limit: int
    stop_ids: frozenset[int]
    pending: list[int] = field(default_factory=list)
    pending_text: list[str] = field(default_factory=list)
    pending_logprobs: list[float] = field(default_factory=list)
    detokenizer: Any = None
    held: Tensor | None = None

    @property
    def computed(self) -> int:
        """Generated tokens whose KV has been computed: all but the newest, which the next step feeds."""
        return max(len(self.trace.token_ids) - 1, 0)


class HFEngine(Engine):
    """An engine on one transformers decoder.

    policy: None is FullKV. max_batch: rows that run at once. chunk_tokens: tokens a chunk holds at most (larger is cheaper).
    record_held: remember, for `held`, which tokens each layer held when a trace ended. Raises LaconicError for a model that
    can't be compressed, whatever the policy, so that policies can be compared.
    """

    name = "hf"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        policy: Policy | None = None,
        max_batch: int = 64,
        chunk_tokens: int = 1,
        record_held: bool = False,
    ) -> None:
        check_model(model)
        if max_batch < 1:
            raise LaconicError(f"max_batch is {max_batch}; expected at least 1 row")
        if chunk_tokens < 1:
            raise LaconicError(f"chunk_tokens is {chunk_tokens}; expected at least 1 token")
        self.model, self.tokenizer = model, tokenizer
        self.policy = policy if policy is not None else FullKV()
        self.max_batch, self.chunk_tokens, self.record_held = max_batch, chunk_tokens, record_held
        self.device = next(model.parameters()).device
        self.left_alone = CompressedCache(text_config(model), self.policy).left_alone
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._active: list[_Run] = []
        self._leaving: set[str] = set()
        self._cache: CompressedCache | None = None
        self._mask: Tensor | None = None  # bool [B, logical]: only where sliding layers need it
        self._numbers = 0
        self._prompts = 0
        self._done = EngineStats(left_alone=self.left_alone)
        self._end_ids = _end_ids(model, tokenizer)
        self._streaming = False

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        if not question.strip():
            raise LaconicError("the problem is empty: give a question")
        if self.tokenizer is None or not getattr(self.tokenizer, "chat_template", None):
            return question
        messages = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """See Engine.submit. Text is tokenized without extra special tokens where the tokenizer has a chat template."""
        if not 1 <= n <= MAX_TRACES_PER_PROMPT:
            raise LaconicError(f"n is {n}; expected 1 to {MAX_TRACES_PER_PROMPT} traces")
        tokens = self._tokenize(prompt)
        check_prompt_fits(self.model, len(tokens))
        vocabulary = text_config(self.model).vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise LaconicError(f"a token id of the prompt is outside the model's vocabulary, 0 to {vocabulary - 1}")
        names = list(ids) if ids is not None else [f"p{self._prompts}-{i}" for i in range(n)]
        if len(names) != n or len(set(names)) != n:
            raise LaconicError(f"ids has {len(names)} names ({len(set(names))} different); expected {n} different ones")
        taken = [name for name in names if name in self._runs]
        if taken:
            raise LaconicError(f"trace id {taken[0]!r} is in use: choose another, or forget the old trace first")
        self._prompts += 1
        context = context_length(self.model)
        limit = sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - len(tokens))
        stop_ids = self._end_ids | frozenset(sampling.stop_token_ids)
        for index, name in enumerate(names):
            trace = Trace(id=name, index=index, prompt_ids=tokens, sampling=sampling)
            run = _Run(trace, self._numbers, trace_key(sampling.seed, index), limit, stop_ids)
            self._numbers += 1
            self._runs[name] = run
            self._waiting.append(run)
        return names

    def stream(self) -> Iterator[Chunk]:
        if self._streaming:
            raise LaconicError("this engine is streaming already: go on with that iterator, or close it first")
        self._streaming = True
        try:
            with Binding(self.model):
                while True:
                    yield from self._settle()
                    if self._admit():
                        yield from self._emit()
                    if self._active:
                        self._step()
                        yield from self._emit()
                    elif not self._waiting:
                        return
        finally:
            self._streaming = False

    def stop(self, trace_id: str) -> None:
        run = self._run(trace_id)
        if run.trace.state == "waiting":
            self._waiting.remove(run)
            run.trace.state = "stopped"
            run.trace.finish_reason = "stopped"
        elif run.trace.state == "running":
            self._leaving.add(trace_id)

    def resume(self, trace_id: str) -> None:
        run = self._run(trace_id)
        if trace_id in self._leaving:
            self._leaving.discard(trace_id)
            return
        if run.trace.state != "stopped":
            raise LaconicError(f"trace {trace_id!r} is {run.trace.state}; only a stopped trace can be resumed")
        run.trace.state = "waiting"
        run.trace.finish_reason = None
        self._waiting.append(run)

    def trace(self, trace_id: str) -> Trace:
        run = self._run(trace_id)
        if run.trace.state == "running":
            self._account(run)
        return run.trace

    def forget(self, trace_ids: Sequence[str]) -> None:
        for trace_id in trace_ids:
            state = self._run(trace_id).trace.state
            if state in ("waiting", "running"):
                raise LaconicError(f"trace {trace_id!r} is {state}: stop it before it is forgotten")
            del self._runs[trace_id]

    @property
    def stats(self) -> EngineStats:
        stats = add_stats(EngineStats(), self._done)
        if self._cache is not None:
            count_cache(stats, self._cache)
        stats.prompt_tokens, stats.generated_tokens = self._done.prompt_tokens, self._done.generated_tokens
        return stats

    # ---- beyond the interface -------------------------------------------------------------------------------------

    def held(self, trace_id: str) -> Tensor:
        """bool [compressible layers, g, generated tokens]: which tokens' KV each layer holds, at the end of a finished trace.

        g is 1, or the number of KV heads where the policy chooses per head. The newest token's KV has not been computed yet;
        it counts as held. Needs record_held=True for a trace that is no longer running.
        """
        run = self._run(trace_id)
        if run in self._active:
            return self._held_now(run, self._active.index(run))
        if run.held is None:
            raise LaconicError(f"what trace {trace_id!r} held was not recorded: make the engine with record_held=True")
        return run.held

    def compression_points(self, trace_id: str) -> list[int]:
        """Counts of generated tokens at which the trace was compressed."""
        points, at = [], self.policy.schedule.next_boundary(0)
        computed = self._run(trace_id).computed
        while at is not None and at <= computed:
            points.append(at)
            at = self.policy.schedule.next_boundary(at)
        return points

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _run(self, trace_id: str) -> _Run:
        try:
            return self._runs[trace_id]
        except KeyError:
            raise KeyError(f"there is no trace {trace_id!r} in this engine") from None

    def _tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(int(t) for t in prompt)
        if self.tokenizer is None:
            raise LaconicError("this engine has no tokenizer: give prompts as token ids")
        special = not getattr(self.tokenizer, "chat_template", None)
        return tuple(self.tokenizer(prompt, add_special_tokens=special)["input_ids"])

    def _settle(self) -> Iterator[Chunk]:
        """Rows that were asked to stop leave the batch."""
        if not self._leaving:
            return
        rows = [i for i, run in enumerate(self._active) if run.trace.id in self._leaving]
        self._leaving.clear()
        for i in rows:
            yield self._close(self._active[i], i, "stopped")
        self._remove(rows)

    def _close(self, run: _Run, row: int, reason: FinishReason) -> Chunk:
        trace = run.trace
        trace.state = "stopped" if reason == "stopped" else "finished"
        trace.finish_reason = reason
        if self.record_held:
            run.held = self._held_now(run, row)
        self._account(run)
        trace.kv_tokens = 0
        if reason != "stopped" and self.tokenizer is not None:
            # What the incremental detokenizer still held back (half a character, say) comes now.
            whole = self._decode([t for t in trace.token_ids if t not in run.stop_ids])
            if whole.startswith(trace.text) and len(whole) > len(trace.text):
                run.pending_text.append(whole[len(trace.text) :])
            trace.text = whole
        return self._flush(run, reason)

    def _flush(self, run: _Run, reason: FinishReason | None = None) -> Chunk:
        logprobs = tuple(run.pending_logprobs) if run.trace.sampling.logprobs else None
        chunk = Chunk(run.trace.id, tuple(run.pending), "".join(run.pending_text), logprobs, reason)
        run.pending, run.pending_text, run.pending_logprobs = [], [], []
        return chunk

    def _account(self, run: _Run) -> None:
        """What the trace holds and held, by the schedule's arithmetic (tests compare it with the buffers)."""
        trace, schedule, prompt = run.trace, self.policy.schedule, len(run.trace.prompt_ids)
        trace.kv_tokens = schedule.physical(run.computed, prompt)
        trace.peak_kv_tokens = schedule.peak(run.computed, prompt)
        trace.mean_kv_tokens = schedule.mean(run.computed, prompt) if run.computed else float(prompt)

    @torch.inference_mode()
    def _admit(self) -> bool:
        """Waiting traces take free rows. True if some did."""
        if not self._waiting or len(self._active) >= self.max_batch:
            return False
        # A join copies the newcomers' KV only, but each prompt is a forward pass: let a few places come free first.
        free = self.max_batch - len(self._active)
        if self._active and free < min(len(self._waiting), max(1, self.max_batch // 8)):
            return False
        start = time.perf_counter()
        while self._waiting and len(self._active) < self.max_batch:
            group = self._next_group(self.max_batch - len(self._active))
            cache, logits = self._prefill(group)
            self._join(group, cache)
            for run in group:
                run.trace.state = "running"
            if logits is not None:
                self._accept(group, logits.expand(len(group), -1))
        self._sync()
        self._done.prefill_seconds += time.perf_counter() - start
        return True

    def _next_group(self, most: int) -> list[_Run]:
        """The next waiting trace, and those of the same prompt behind it that also have no tokens yet."""
        first = self._waiting.popleft()
        group = [first]
        if not first.trace.token_ids:
            while self._waiting and len(group) < most:
                run = self._waiting[0]
                if run.trace.prompt_ids != first.trace.prompt_ids or run.trace.token_ids:
                    break
                group.append(self._waiting.popleft())
        return group

    def _prefill(self, group: list[_Run]) -> tuple[CompressedCache, Tensor | None]:
        """One forward pass for the prompt of a group, and for the tokens of a trace that resumes. Logits: [1, V] or None."""
        run = group[0]
        prompt, tokens = run.trace.prompt_ids, run.trace.token_ids
        spare = min(self.max_batch, len(group) + len(self._waiting)) if not self._active else 0
        cache = CompressedCache(
            text_config(self.model), self.policy, limit=max(r.limit for r in group), spare_rows=max(spare, len(group))
        )
        cache.set_token_lookup(self._generated_tokens)
        logits = self._forward(torch.tensor([prompt], device=self.device), None, cache, None)
        self._done.prompt_tokens += len(prompt)
        cache.ledger.rows[0].number = run.number
        cache.ledger.rows[0].limit = run.limit
        fed = 0
        while fed < len(tokens) - 1:
            room = cache.ledger.room()
            upto = len(tokens) - 1 if room is None else min(len(tokens) - 1, fed + room)
            self._forward(torch.tensor([tokens[fed:upto]], device=self.device), None, cache, None)
            fed = upto
        if len(group) > 1:
            cache.batch_repeat_interleave(len(group))
            for row, member in zip(cache.ledger.rows, group, strict=True):
                row.number, row.limit = member.number, member.limit
        return cache, (None if tokens else logits)

    def _join(self, group: list[_Run], cache: CompressedCache) -> None:
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.absorb(cache)
        self._active.extend(group)
        self._mask = None

    def _forward(self, ids: Tensor, positions: Tensor | None, cache: CompressedCache, mask: Tensor | None) -> Tensor:
        """ids: [B, q]. Returns the last position's logits [B, V]."""
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    @torch.inference_mode()
    def _step(self) -> None:
        """One forward pass of one token a row."""
        start = time.perf_counter()
        cache, runs = self._cache, self._active
        assert cache is not None
        ids = torch.tensor([[run.trace.token_ids[-1]] for run in runs], device=self.device)
        at = [[len(run.trace.prompt_ids) + run.computed] for run in runs]
        positions = torch.tensor(at, device=self.device)
        logits = self._forward(ids, positions, cache, self._sliding_mask(cache))
        self._accept(runs, logits)
        self._done.decode_seconds += time.perf_counter() - start

    def _emit(self) -> Iterator[Chunk]:
        """Chunks that are full or last; rows that have finished leave."""
        finished = []
        for i, run in enumerate(self._active):
            reason = self._finish_reason(run)
            if reason is not None:
                finished.append(i)
                yield self._close(run, i, reason)
            elif len(run.pending) >= self.chunk_tokens:
                yield self._flush(run)
        self._remove(finished)

    def _accept(self, runs: list[_Run], logits: Tensor) -> None:
        """Draw the next token of every row and note it."""
        uniforms = [uniform(run.key, len(run.trace.token_ids)) for run in runs]
        picked = draw(logits, [run.trace.sampling for run in runs], uniforms).tolist()
        most = max(run.trace.sampling.logprobs for run in runs)
        marks = mean_top_logprob(logits, most).tolist() if most else None
        for i, (run, token) in enumerate(zip(runs, picked, strict=True)):
            trace = run.trace
            trace.token_ids.append(token)
            run.pending.append(token)
            if marks is not None and trace.sampling.logprobs:
                value = marks[i]
                if trace.sampling.logprobs != most:
                    value = float(mean_top_logprob(logits[i : i + 1], trace.sampling.logprobs)[0])
                trace.logprobs.append(value)
                run.pending_logprobs.append(value)
            if token not in run.stop_ids:
                self._detokenize(run, token)
        self._done.generated_tokens += len(runs)

    def _detokenize(self, run: _Run, token: int) -> None:
        if self.tokenizer is None:
            return
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return  # a slow tokenizer: the text comes whole, with the last chunk
        if run.detokenizer is None:
            run.detokenizer = DecodeStream(skip_special_tokens=False)
        text = run.detokenizer.step(backend, token)
        if text:
            run.pending_text.append(text)
            run.trace.text += text

    def _decode(self, ids: list[int]) -> str:
        assert self.tokenizer is not None
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _finish_reason(self, run: _Run) -> FinishReason | None:
        if run.trace.token_ids[-1] in run.stop_ids:
            return "stop"
        return "length" if len(run.trace.token_ids) >= run.limit else None

    @torch.inference_mode()
    def _remove(self, rows: list[int]) -> None:
        if not rows:
            return
        cache = self._cache
        assert cache is not None
        self._mask = None
        if len(rows) == len(self._active):
            self._active = []
            self._retire(cache)
            self._cache = None
            return
        order = cache.drop(rows)
        self._active = [self._active[i] for i in order]

    def _retire(self, cache: CompressedCache) -> None:
        """Keep the counts of a cache that goes."""
        gone = count_cache(EngineStats(), cache)
        gone.live_kv_tokens = gone.live_kv_bytes = gone.reserved_kv_bytes = 0
        gone.prompt_tokens = gone.generated_tokens = 0
        self._done = add_stats(self._done, gone)

    def _sliding_mask(self, cache: CompressedCache) -> Tensor | None:
        """bool [B, logical + 1] for layers that transformers masks itself; None if no row has padding, or no such layers."""
        if not self.left_alone:
            return None
        need = cache.ledger.logical + 1
        if self._mask is None or self._mask.shape[1] < need:
            lengths = [len(run.trace.prompt_ids) + run.computed for run in self._active]
            pads = torch.tensor([cache.ledger.logical - n for n in lengths], device=self.device)
            self._mask = torch.arange(need + 256, device=self.device) >= pads[:, None]
        return None if bool(self._mask[:, 0].all()) else self._mask[:, :need]

    def _held_now(self, run: _Run, row: int) -> Tensor:
        assert self._cache is not None
        layers = self._cache.compressed
        at = [layer.held_positions(row) for layer in layers]
        groups = max(p.shape[0] for p in at)
        held = torch.zeros((len(layers), groups, len(run.trace.token_ids)), dtype=torch.bool)
        for i, positions in enumerate(at):
            held[i].scatter_(-1, positions.expand(groups, -1), True)
        held[:, :, run.computed :] = True
        return held

    def _generated_tokens(self, numbers: list[int]) -> Tensor:
        by_number = {run.number: run for run in self._runs.values()}
        rows = [by_number[n].trace.token_ids for n in numbers]
        table = torch.zeros((len(rows), max(len(r) for r in rows)), dtype=torch.long)
        for i, tokens in enumerate(rows):
            table[i, : len(tokens)] = torch.tensor(tokens)
        return table

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The model's end-of-sequence tokens, from its generation config and its tokenizer."""
    found: set[int] = set()
    for source in (model.generation_config, model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(v) for v in value)
    return frozenset(found)
