"""What every engine must do. An engine's test module subclasses `Conformance` and says how to make one.

`plain(prompt, steps)` is the greedy continuation by something that shares no code with the engine.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from laconic.engines.base import Engine, Sampling

GREEDY = Sampling(max_new_tokens=60, temperature=0)
WARM = Sampling(max_new_tokens=60, temperature=1.0, top_p=0.95, seed=11)


class Conformance:
    prompts: list[list[int]]

    def make(self, **settings) -> Engine:
        raise AssertionError("the engine's tests say how to make one")

    def plain(self, prompt: list[int], steps: int) -> list[int]:
        raise AssertionError("the engine's tests say what is right")

    def texts(self, engine: Engine, sampling: Sampling, n: int = 1) -> list[list[list[int]]]:
        return [[t.token_ids for t in row] for row in engine.generate(self.prompts, sampling, n)]

    def test_no_eviction_gives_exactly_the_tokens_of_the_plain_engine(self):
        got = self.texts(self.make(), GREEDY)
        assert got == [[self.plain(p, 60)] for p in self.prompts]

    def test_a_trace_does_not_depend_on_its_company(self):
        together = self.texts(self.make(), WARM, n=4)
        narrow = self.texts(self.make(max_batch=3), WARM, n=4)
        assert narrow == together
        alone = self.make()
        ids = alone.submit(self.prompts[1], WARM, n=4)
        for _ in alone.stream():
            pass
        assert [alone.trace(i).token_ids for i in ids] == together[1]
        assert len({tuple(t) for t in together[1]}) == 4, "traces of one prompt must differ"

    def test_the_seed_decides(self):
        first = self.texts(self.make(), WARM)
        assert self.texts(self.make(), WARM) == first
        other = Sampling(max_new_tokens=60, temperature=1.0, top_p=0.95, seed=12)
        assert self.texts(self.make(), other) != first

    def test_chunks_add_up_to_the_trace(self):
        for size in (1, 7):
            engine = self.make(chunk_tokens=size)
            ids = engine.submit(self.prompts[0], WARM, n=3)
            seen: dict[str, tuple[list[int], str]] = {i: ([], "") for i in ids}
            ended = []
            for chunk in engine.stream():
                assert len(chunk.token_ids) <= size
                tokens, text = seen[chunk.trace_id]
                seen[chunk.trace_id] = (tokens + list(chunk.token_ids), text + chunk.text)
                if chunk.finish_reason:
                    ended.append(chunk.trace_id)
            assert sorted(ended) == sorted(ids)
            for i in ids:
                trace = engine.trace(i)
                assert seen[i] == (trace.token_ids, trace.text)
                assert trace.state == "finished"
                assert trace.finish_reason == "length"

    def test_stopped_traces_leave_and_the_others_do_not_notice(self):
        want = self.texts(self.make(), WARM, n=4)[0]
        engine = self.make()
        ids = engine.submit(self.prompts[0], WARM, n=4)
        reasons, live = {}, []
        for chunk in engine.stream():
            live.append(engine.stats.live_kv_tokens)
            assert engine.live_kv_bytes == engine.stats.live_kv_bytes
            if chunk.trace_id == ids[1] and len(engine.trace(ids[1]).token_ids) == 20:
                engine.stop(ids[1])
                engine.stop(ids[3])
            if chunk.finish_reason:
                reasons[chunk.trace_id] = chunk.finish_reason
        assert reasons == {ids[0]: "length", ids[1]: "stopped", ids[2]: "length", ids[3]: "stopped"}
        got = [engine.trace(i).token_ids for i in ids]
        assert (got[0], got[2]) == (want[0], want[2])
        for i in (1, 3):
            assert got[i] == want[i][: len(got[i])]
            assert 20 <= len(got[i]) <= 22
            assert engine.trace(ids[i]).kv_tokens == 0
        assert max(live) > 0
        assert engine.stats.live_kv_tokens == 0

    def test_a_resumed_trace_goes_on_as_if_it_had_not_been_stopped(self):
        want = self.texts(self.make(), WARM, n=3)[0]
        engine = self.make()
        ids = engine.submit(self.prompts[0], WARM, n=3)
        for _ in engine.stream():
            if len(engine.trace(ids[0]).token_ids) == 31:
                engine.stop(ids[0])
                engine.stop(ids[2])
        assert engine.trace(ids[0]).state == engine.trace(ids[2]).state == "stopped"
        engine.resume(ids[0])
        resumed_inside = False
        for _ in engine.stream():
            if not resumed_inside and len(engine.trace(ids[0]).token_ids) == 40:
                engine.resume(ids[2])
                resumed_inside = True
        assert [engine.trace(i).token_ids for i in ids] == want

    def test_stop_before_a_trace_runs_and_resume_in_the_same_breath(self):
        engine = self.make(max_batch=1)
        ids = engine.submit(self.prompts[0], GREEDY, n=2)
        engine.stop(ids[1])
        for _ in engine.stream():
            if engine.trace(ids[0]).state == "running":
                engine.stop(ids[0])
                engine.resume(ids[0])
        assert engine.trace(ids[1]).token_ids == []
        assert engine.trace(ids[0]).token_ids == self.plain(self.prompts[0], 60)
        engine.stop(ids[0])  # no effect on a finished trace
        assert engine.trace(ids[0]).finish_reason == "length"

    def test_prompts_may_be_submitted_while_others_run(self):
        engine = self.make()
        first = engine.submit(self.prompts[0], GREEDY)
        later: list[str] = []
        for _ in engine.stream():
            if len(engine.trace(first[0]).token_ids) == 10 and not later:
                later = engine.submit(self.prompts[2], GREEDY)
        assert engine.trace(first[0]).token_ids == self.plain(self.prompts[0], 60)
        assert engine.trace(later[0]).token_ids == self.plain(self.prompts[2], 60)

    def test_a_closed_stream_can_be_taken_up_again(self):
        engine = self.make()
        ids = engine.submit(self.prompts[0], GREEDY)
        stream = engine.stream()
        for _ in range(5):
            next(stream)
        stream.close()
        for _ in engine.stream():
            pass
        assert engine.trace(ids[0]).token_ids == self.plain(self.prompts[0], 60)

    def test_closing_at_a_last_chunk_loses_nothing(self):
        engine = self.make()
        short = Sampling(max_new_tokens=5, temperature=0)
        ids = engine.submit(self.prompts[0], short, n=2) + engine.submit(self.prompts[1], GREEDY)
        ended = []
        stream = engine.stream()
        for chunk in stream:
            if chunk.finish_reason:
                ended.append(chunk.trace_id)
                break
        stream.close()
        ended += [chunk.trace_id for chunk in engine.stream() if chunk.finish_reason]
        assert sorted(ended) == sorted(ids)
        assert engine.trace(ids[0]).token_ids == self.plain(self.prompts[0], 5)
        assert engine.trace(ids[2]).token_ids == self.plain(self.prompts[1], 60)

    def test_stop_tokens_end_a_trace(self):
        whole = self.plain(self.prompts[0], 60)
        token = whole[25]
        at = whole.index(token)
        engine = self.make()
        sampling = Sampling(max_new_tokens=60, temperature=0, stop_token_ids=(token,))
        (trace,) = engine.generate([self.prompts[0]], sampling)[0]
        assert trace.token_ids == whole[: at + 1]
        assert trace.finish_reason == "stop"
        first = Sampling(max_new_tokens=60, temperature=0, stop_token_ids=(whole[0],))
        (trace,) = engine.generate([self.prompts[0]], first)[0]
        assert trace.token_ids == whole[:1]

    def test_logprobs_come_when_asked(self):
        engine = self.make()
        settings = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
        asked = [replace(settings, logprobs=2, confidence_top_k=2), replace(settings, logprobs=0), settings]
        chunks: dict[str, list] = {}
        ids = [engine.submit(self.prompts[0], sampling)[0] for sampling in asked]
        for chunk in engine.stream():
            chunks.setdefault(chunk.trace_id, []).append(chunk)
        both, drawn, plain = (engine.trace(name) for name in ids)
        assert both.token_ids == drawn.token_ids == plain.token_ids
        assert len(both.logprobs) == len(drawn.logprobs) == 12
        assert [len(one.top) for one in both.logprobs] == [2] * 12
        assert [one.top for one in drawn.logprobs] == [()] * 12
        assert [one.logprob for one in both.logprobs] == pytest.approx(
            [one.logprob for one in drawn.logprobs], abs=1e-4
        )
        for token, one, confidence in zip(both.token_ids, both.logprobs, both.confidences, strict=True):
            top = dict(one.top)
            assert list(top.values()) == sorted(top.values(), reverse=True)
            assert one.logprob <= max(top.values())
            assert top.get(token, one.logprob) == pytest.approx(one.logprob, abs=1e-6)
            assert confidence == pytest.approx(-sum(top.values()) / 2, abs=1e-5)
        assert [one for chunk in chunks[ids[0]] for one in chunk.logprobs] == both.logprobs
        assert plain.logprobs == []
        assert {chunk.logprobs for chunk in chunks[ids[2]]} == {None}

    def test_confidences_come_when_asked(self):
        engine = self.make()
        sampling = Sampling(max_new_tokens=12, temperature=1.0, confidence_top_k=5)
        (trace,) = engine.generate([self.prompts[0]], sampling)[0]
        assert len(trace.confidences) == 12
        assert all(c > 0 for c in trace.confidences)
        (trace,) = engine.generate([self.prompts[0]], GREEDY)[0]
        assert trace.confidences == []

    def test_different_samplings_share_a_batch(self):
        engine = self.make()
        cold = engine.submit(self.prompts[0], GREEDY)
        warm = engine.submit(self.prompts[0], WARM, n=2)
        short = engine.submit(self.prompts[1], Sampling(max_new_tokens=1, temperature=0))
        for _ in engine.stream():
            pass
        assert engine.trace(cold[0]).token_ids == self.plain(self.prompts[0], 60)
        assert [engine.trace(i).token_ids for i in warm] == self.texts(self.make(), WARM, n=2)[0]
        assert engine.trace(short[0]).token_ids == self.plain(self.prompts[1], 1)

    def test_bad_input_is_refused_in_a_sentence(self):
        engine = self.make()
        with pytest.raises(ValueError, match="prompt is empty"):
            engine.submit([], GREEDY)
        with pytest.raises(ValueError, match="n is 0"):
            engine.submit(self.prompts[0], GREEDY, n=0)
        with pytest.raises(ValueError, match="context is"):
            engine.submit([5] * 100_000, GREEDY)
        engine.submit(self.prompts[0], GREEDY, ids=["mine"])
        with pytest.raises(ValueError, match="'mine' is in use"):
            engine.submit(self.prompts[0], GREEDY, ids=["mine"])
        with pytest.raises(ValueError, match="is waiting"):
            engine.resume("mine")
        with pytest.raises(ValueError, match="is waiting"):
            engine.forget(["mine"])
        with pytest.raises(KeyError, match="no trace 'yours'"):
            engine.trace("yours")
        for _ in engine.stream():
            pass
        engine.forget(["mine"])
        with pytest.raises(KeyError):
            engine.trace("mine")

    def test_token_ids_out_of_the_vocabulary_are_refused(self):
        with pytest.raises(ValueError, match="token id"):
            self.make().submit([1, 10**7], GREEDY)
        with pytest.raises(ValueError, match="token id"):
            self.make().submit([1, -1], GREEDY)
