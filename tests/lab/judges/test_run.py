"""Judges compared: the same pairs for all, each with its own excerpts, resumed by problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.judges.models import TEMPLATE, WORDS, llama, word_tokenizer

from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.judges.baselines import PerfectJudge, TokenJaccard
from laconic.judges.embedding import EmbeddingCosine
from laconic.judges.encoder import PairEncoder
from laconic.judges.folds import question_digest
from laconic.judges.input_spec import EncoderInputSpec
from laconic.judges.llm import LLMJudge
from laconic.judges.network import EncoderConfig
from laconic.judges.prompts import LLMJudgeSettings
from laconic.lab.judges.run import (
    FORMAT,
    ComparedJudge,
    excerpt_for,
    may_grow,
    prepare_sets,
    run_judging,
    summarise,
)
from laconic.lab.judges.scoring import auroc
from laconic.lab.shared.judges import describe_judge
from laconic.lab.shared.progress import Progress
from laconic.prune.judge import Cost, Excerpt
from laconic.traces import TraceFile, TraceRecord


class Counting:
    """A judge without a matrix, whose every excerpt costs ten tokens."""

    name, excerpt = "counting", "tokens:1"

    def __init__(self, fail_after: int = 10**9) -> None:
        self.cost, self.fail_after = Cost(), fail_after

    def read(self, excerpts: Sequence[Excerpt], engine: Any = None) -> list[Excerpt]:
        if self.cost.excerpts >= self.fail_after:
            raise KeyboardInterrupt
        self.cost.tokens += 10 * len(excerpts)
        self.cost.excerpts += len(excerpts)
        self.cost.seconds += 0.5
        return list(excerpts)

    def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        self.cost.pairs += len(pairs)
        return [0.75 if a.token_ids == b.token_ids else 0.25 for a, b in pairs]


def file(problems: int = 6, start: int = 0) -> TraceFile:
    """Traces whose first token is their answer, but for every third trace."""
    records = []
    for number in range(start, start + problems):
        for i in range(4):
            first = WORDS.index("abc"[(number + i * i) % 3])
            answer = WORDS[first] if i % 3 else "d"
            ids = (first, WORDS.index("e"), WORDS.index("f"))
            records.append(
                TraceRecord(
                    f"p{number}", f"q{number} ?", "a", 0, i, 0, {"policy": "full"}, (1,), ids, "x", answer, True, "stop"
                )
            )
    return TraceFile(tuple(records))


def sets(leave: frozenset[str] = frozenset(), /, **files: TraceFile) -> Any:
    return prepare_sets(files or {"test": file()}, ["tokens:1", "tokens:2"], word_tokenizer(), None, leave)


def entries(fail_after: int = 10**9) -> list[ComparedJudge]:
    return [
        ComparedJudge("counting", Counting(fail_after), "tokens:1"),
        ComparedJudge("jaccard", TokenJaccard(), "tokens:2"),
    ]


def test_every_judge_is_asked_about_the_same_pairs(tmp_path: Path) -> None:
    chosen, data = entries(), sets()
    seen: list[Progress] = []
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        records = run_judging(chosen, data, journal, seen.append)
    assert [(p.done, p.total) for p in seen] == [(i, 12) for i in range(1, 13)]
    first, second = summarise(chosen, data, records, resamples=50)
    assert (first["judge"], first["excerpt"], second["judge"], second["excerpt"]) == (
        "counting", "tokens:1", "jaccard", "tokens:2",
    )  # fmt: skip
    assert first["pairs"] == second["pairs"] == 36
    pairs = data["test"]["tokens:1"]
    same_token = torch.tensor(
        [
            float(pairs.excerpts[a].token_ids == pairs.excerpts[b].token_ids)
            for a, b in zip(pairs.left, pairs.right, strict=True)
        ]
    )
    assert first["auroc"]["value"] == pytest.approx(auroc(same_token, pairs.same))
    assert first["tokens_per_pair"] == pytest.approx(10 * 24 / 36)
    assert first["pairs_per_second"] == pytest.approx(36 / (6 * 0.5))
    assert first["to_first"] is None
    # Jaccard of two tokens of which one is always the same ranks as the other judge does.
    assert second["to_first"]["value"] == 0.0
    assert second["to_first"]["low"] == pytest.approx(-second["to_first"]["high"])
    assert second["to_first"]["high"] > 0.1  # six problems don't make certain


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    data, path = sets(), tmp_path / "j.jsonl"
    with pytest.raises(KeyboardInterrupt), Journal(path, FORMAT, {}) as journal:
        run_judging(entries(fail_after=12), data, journal)
    again = entries()
    with Journal(path, FORMAT, {}) as journal:
        records = run_judging(again, data, journal)
    assert again[0].judge.cost.excerpts == 12  # three problems of the six were left
    with Journal(tmp_path / "whole.jsonl", FORMAT, {}) as journal:
        whole = run_judging(entries(), data, journal)
    keys = ("set", "judge", "problem", "probabilities", "tokens")
    assert sorted([r[k] for k in keys] for r in records) == sorted([r[k] for k in keys] for r in whole)


def test_a_file_grows_by_a_judge_and_by_problems(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    few = prepare_sets({"test": file(3)}, ["tokens:1", "tokens:2"], word_tokenizer(), None, frozenset())
    many = sets()

    def run(chosen: list[ComparedJudge], data: Any) -> list[dict[str, Any]]:
        count = len(next(iter(data["test"].values())).problem.unique())
        described = {"judges": {e.label: e.excerpt for e in chosen}, "problems": {"test": count}}
        with Journal(path, FORMAT, described, may_grow=may_grow) as journal:
            return summarise(chosen, data, run_judging(chosen, data, journal), resamples=5)

    first = entries()
    run(first[:1], few)
    again = entries()
    run(again, few)
    assert again[0].judge.cost.excerpts == 0  # known already
    more = entries()
    rows = run(more, many)
    assert more[0].judge.cost.excerpts == first[0].judge.cost.excerpts  # three further problems
    with Journal(tmp_path / "whole.jsonl", FORMAT, {}) as journal:
        whole = summarise(entries(), many, run_judging(entries(), many, journal), resamples=5)
    same = [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in rows]
    assert same == [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in whole]
    before = path.read_bytes()
    with pytest.raises(LaconicError, match="was 'tokens:1', now 'tokens:2'"):
        run([replace(entries()[0], excerpt="tokens:2")], many)
    assert path.read_bytes() == before


def test_a_judge_of_other_weights_is_refused_under_the_same_label(tmp_path: Path) -> None:
    config = EncoderConfig(vocabulary=40, embedding=8, tokens=5, width=16, heads=2, pools=2, encoding=8, hidden=8)

    def encoder(seed: int, shift: float = 0.0) -> ComparedJudge:
        judge = PairEncoder(EncoderInputSpec("tokens:1"), config, seed=seed)
        judge.shift = shift
        return ComparedJudge("encoder:here", judge, "tokens:1")

    path = tmp_path / "j.jsonl"
    for _ in range(2):
        with Journal(path, FORMAT, {}) as journal:
            run_judging([encoder(1)], sets(), journal)
    for other, named in ((encoder(2), "weights"), (encoder(1, shift=0.5), "calibration")):
        with (
            Journal(path, FORMAT, {}) as journal,
            pytest.raises(LaconicError, match=rf"holds judgements of another encoder:here \({named} was"),
        ):
            run_judging([other], sets(), journal)


def test_every_judge_with_weights_or_a_prompt_says_which(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()

    def llm(seed: int = 0, **settings: Any) -> Any:
        asked = LLMJudgeSettings(**{"template": TEMPLATE, **settings})
        return describe_judge(LLMJudge(llama(len(tokenizer), seed=seed), tokenizer, asked))

    assert llm() == llm()
    assert llm() != llm(seed=1)
    assert llm() != llm(both_orders=True)
    described = []
    for seed in (0, 1):
        llama(len(tokenizer), seed=seed).save_pretrained(tmp_path / "m")
        tokenizer.save_pretrained(tmp_path / "m")
        described.append(describe_judge(EmbeddingCosine(str(tmp_path / "m"))))
    assert described[0] != described[1]
    assert None not in [each["weights"] for each in described if each]


def test_traces_that_changed_are_judged_again(tmp_path: Path) -> None:
    path, chosen = tmp_path / "j.jsonl", entries()[:1]
    with Journal(path, FORMAT, {}) as journal:
        run_judging(chosen, sets(), journal)
    changed = TraceFile(
        tuple(replace(r, answer="z") if (r.problem, r.index) == ("p1", 0) else r for r in file().records)
    )
    data = sets(test=changed)
    asked = entries()[:1]
    with Journal(path, FORMAT, {}) as journal:
        rows = summarise(asked, data, run_judging(asked, data, journal), resamples=5)
    assert asked[0].judge.cost.excerpts == 4  # of one problem
    with Journal(tmp_path / "whole.jsonl", FORMAT, {}) as journal:
        whole = summarise(asked, data, run_judging(asked, data, journal), resamples=5)
    assert rows[0]["auroc"] == whole[0]["auroc"]


def test_time_to_compute_states_again_is_not_the_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import laconic.lab.judges.run as judging

    monkeypatch.setattr(judging, "Reread", lambda engine, excerpts: SimpleNamespace(seconds=0.2))
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        records = run_judging([ComparedJudge("counting", Counting(), "tokens:1", engine=object())], sets(), journal)
    assert [record["seconds"] for record in records] == pytest.approx([0.3] * 6)


def test_problems_that_a_judge_was_trained_on_are_left_out() -> None:
    known = frozenset(question_digest(f"q{i} ?") for i in range(4))
    left = sets(known)["test"]["tokens:2"]
    assert {e.question for e in left.excerpts} == {"q4 ?", "q5 ?"}
    with pytest.raises(LaconicError, match="Every problem of the set test is one that a judge was trained on"):
        sets(frozenset(question_digest(f"q{i} ?") for i in range(6)))


def test_sets_keep_their_traces_apart(tmp_path: Path) -> None:
    # The same problems, other traces: the perfect judge must not mix them up.
    other = TraceFile(tuple(replace(r, answer="z") if r.index == 1 else r for r in file().records))
    data = sets(known=file(), unseen=other)
    ends = {
        e.trace_id: answer
        for kinds in data.values()
        for e, answer in zip(kinds["tokens:1"].excerpts, kinds["tokens:1"].answers, strict=True)
    }
    chosen = [ComparedJudge("perfect", PerfectJudge(ends), "tokens:1")]
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        rows = summarise(chosen, data, run_judging(chosen, data, journal), resamples=5)
    assert [row["set"] for row in rows] == ["known", "unseen"]
    assert [row["auroc"]["value"] for row in rows] == [1.0, 1.0]
    assert rows[0]["same"] != rows[1]["same"]


def test_which_excerpt_a_judge_gets() -> None:
    made, other, free = (SimpleNamespace(name="n", excerpt=kind) for kind in ("words:9", "tokens:3", None))
    assert excerpt_for(made, "tokens:1", [], "kept") == "words:9"
    assert excerpt_for(free, "tokens:1", [made, free], "kept") == "tokens:1"
    assert excerpt_for(free, None, [made, free], "kept") == "words:9"
    assert excerpt_for(free, None, [free], "kept") == "kept"
    for others, default in (([made, other], "kept"), ([free], None)):
        with pytest.raises(LaconicError, match="nothing says which"):
            excerpt_for(free, None, others, default)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        with pytest.raises(LaconicError, match="The judges are none"):
            run_judging([], sets(), journal)
        with pytest.raises(LaconicError, match="The judges are counting, counting"):
            run_judging([entries()[0]] * 2, sets(), journal)
        alike = TraceFile(tuple(replace(record, answer="z") for record in file().records))
        with pytest.raises(LaconicError, match="the set test has 36 pairs, all the same"):
            run_judging(entries(), sets(test=alike), journal)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_what_is_no_probability_is_not_written(tmp_path: Path, value: float) -> None:
    class Broken(Counting):
        def compare(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
            told = super().compare(pairs)
            return told if self.cost.excerpts < 12 else [value, *told[1:]]

    data = sets()
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        broken = ComparedJudge("counting", Broken(), "tokens:1")
        with pytest.raises(LaconicError, match=r"judge counting gave the probability .* of problem .*p2; expected"):
            run_judging([broken], data, journal)
    with Journal(tmp_path / "j.jsonl", FORMAT, {}) as journal:
        assert [r["kind"] for r in journal.records].count("judged") == 2  # the problems before it
        mended = [ComparedJudge("counting", Counting(), "tokens:1")]
        assert len(run_judging(mended, data, journal)) == 6
