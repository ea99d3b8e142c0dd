"""The fidelity run: its records, resumption from anywhere, growth, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tests.engines.hf.families import family, prompts
from tests.reference.selectors import Files

from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.lab.fidelity import run as module
from laconic.lab.fidelity.contenders import contenders
from laconic.lab.fidelity.divergence import measure
from laconic.lab.fidelity.run import FORMAT, may_grow, run_fidelity, settings
from laconic.lab.fidelity.traces import ForcedTrace
from laconic.lab.shared.policies import ComparedPolicy
from laconic.lab.shared.progress import Progress

LENGTHS = [50, 33, 61, 40, 52]


def traces(count: int = 5) -> list[ForcedTrace]:
    asked, tokens = prompts([12, 3, 9, 9, 4]), prompts(LENGTHS, seed=11)
    made = [ForcedTrace(f"t{i}", f"p{i // 2}", tuple(asked[i]), tuple(tokens[i])) for i in range(5)]
    return made[:count]


def rows(
    names: str = "full,rpc,random,h2o", ratios: tuple[int, ...] = (2, 4), schedule: str = "common", interval: int = 16
):
    return contenders(names.split(","), ratios, [interval], [8], schedule)


def measured(path: Path, chosen: list[ComparedPolicy], of: list[ForcedTrace], schedule: str = "common", **more):
    """A run on a results file, as the command line does it."""
    described = settings(model={"name": "tiny"}, schedule=schedule, tokens=None, rows=chosen, files=Files())
    with Journal(path, FORMAT, described, may_grow=may_grow) as journal:
        return run_fidelity(family("llama"), of, chosen, batch=2, journal=journal, **more)


def figures(found) -> list[str]:
    """To six digits: batches of other shapes may round otherwise."""
    return [json.dumps(row.to_json(), default=str) for row in found]


def close(ours, theirs) -> None:
    assert [row.label for row in ours] == [row.label for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.kl["mean"].mean == pytest.approx(b.kl["mean"].mean, rel=1e-3, abs=1e-6)
        assert a.agreement.mean == pytest.approx(b.agreement.mean)
        assert (a.mean_kv_tokens, a.peak_kv_tokens, a.tokens) == (b.mean_kv_tokens, b.peak_kv_tokens, b.tokens)


def test_records_are_what_was_measured(tmp_path: Path) -> None:
    chosen, of = rows(), traces()
    found = measured(tmp_path / "r.jsonl", chosen, of)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    records = {(line["row"], line["trace"]): line for line in lines if line["kind"] == "trace"}
    assert len(records) == len(chosen) * len(of)
    assert [line["row"] for line in lines if line["kind"] == "policy"] == [row.label for row in chosen]
    policies = [row.running() for row in chosen]
    for trace in of:
        alone = measure(family("llama"), [trace.prompt_ids], [trace.token_ids], policies, [trace.number])
        for row, divergence, policy in zip(chosen, alone, policies, strict=True):
            record = records[row.label, trace.id]
            want = divergence.kl[0]
            torch.testing.assert_close(torch.tensor(record["kl"]), want, rtol=2e-3, atol=1e-5)
            assert all(value == float(f"{value:.4g}") for value in record["kl"] + record["change"])
            assert set(record["agreement"]) <= {0, 1}
            assert len(record["kl"]) == len(record["agreement"]) == len(record["change"]) == len(trace.token_ids)
            length, prompt = len(trace.token_ids), len(trace.prompt_ids)
            assert record["mean_kv_tokens"] == pytest.approx(policy.schedule.mean(length, prompt), abs=1e-3)
            assert record["peak_kv_tokens"] == policy.schedule.peak(length, prompt)
            assert (record["problem"], record["digest"], record["prompt"]) == (trace.problem, trace.digest, prompt)
    by_label = {row.label: row for row in found}
    assert by_label["full"].kl["mean"].mean == 0
    assert by_label["full"].agreement.mean == 1
    assert by_label["full"].differences == {}
    assert list(by_label["rpc c=2 P=16 R=8"].differences) == ["random"]
    assert list(by_label["h2o c=4 P=16 R=8"].differences) == ["rpc", "random"]
    rpc, h2o = (by_label[f"{name} c=4 P=16 R=8"] for name in ("rpc", "h2o"))
    assert h2o.mean_kv_tokens == rpc.mean_kv_tokens
    gap = h2o.kl["mean"].mean - rpc.kl["mean"].mean
    assert h2o.differences["rpc"]["kl"].mean == pytest.approx(gap)
    assert by_label["full"].to_others == {}
    same = [label for label in by_label if label.endswith("c=4 P=16 R=8") and label != h2o.label]
    assert sorted(h2o.to_others) == sorted(same)
    assert h2o.to_others[rpc.label] == h2o.differences["rpc"]["kl"]


@pytest.mark.parametrize("crash_after", [1, 40, 200])
def test_a_run_cut_short_goes_on_and_ends_the_same(tmp_path: Path, crash_after: int) -> None:
    chosen, of = rows("rpc,random", (4,)), traces()
    whole = run_fidelity(family("llama"), of, chosen, batch=2)
    heard, crashes = [], 0

    def crash(event: Progress) -> None:
        heard.append(event)
        if len(heard) % crash_after == 0 and crashes < 4:
            raise KeyboardInterrupt

    while True:
        try:
            found = measured(tmp_path / "r.jsonl", chosen, of, watch=crash)
            break
        except KeyboardInterrupt:
            crashes += 1
    close(found, whole)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    keys = [(line["row"], line["trace"]) for line in lines if line["kind"] == "trace"]
    assert len(keys) == len(set(keys)) == 10


def test_a_finished_run_feeds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(tmp_path / "r.jsonl", rows(), traces())
    monkeypatch.setattr(module, "measure", None)
    assert figures(measured(tmp_path / "r.jsonl", rows(), traces())) == figures(first)


def test_a_file_grows_by_traces_policies_and_schedules(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    measured(path, rows("rpc", (2,)), traces(2))
    measured(path, rows("rpc,random", (2, 4)), traces(3))
    grown = measured(path, [*rows("rpc,random", (2, 4)), *rows("rpc", (4,), interval=24)], traces())
    whole = run_fidelity(family("llama"), traces(), [*rows("rpc,random", (2, 4)), *rows("rpc", (4,), interval=24)])
    close(grown, whole)
    few = measured(path, rows("rpc", (2,)), traces(2))  # a part of what is there
    assert few[0].traces == 2


def test_matched_budgets_hold_what_rpc_holds_and_stay(tmp_path: Path) -> None:
    path, own = tmp_path / "r.jsonl", rows("rpc,h2o", (4,), "own")
    first = measured(path, own, traces(2), "own")
    grown = measured(path, own, traces(), "own")
    assert [row.policy for row in grown] == [row.policy for row in first]
    assert grown[1].policy.startswith("h2o:budget=")
    fresh = run_fidelity(family("llama"), traces(), own)
    assert fresh[1].mean_kv_tokens == pytest.approx(fresh[0].mean_kv_tokens, rel=0.03)


def test_progress_counts_tokens_and_names_what_takes_single_steps() -> None:
    heard: list[Progress] = []
    run_fidelity(family("llama"), traces(), rows("rpc,h2o", (4,), "own"), batch=2, watch=heard.append)
    assert heard[-1].done == heard[-1].total == 3 * sum(LENGTHS)
    assert [event.done for event in heard] == sorted(event.done for event in heard)
    assert {event.label for event in heard} == {"full KV", "rpc c=4 P=16 R=8", "h2o c=4 P=16 R=8, step by step"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule": "own"}, "schedule was 'common', now 'own'"),
        ({"tokens": 9}, r"tokens was None, now 9"),
        ({"model": {"name": "other"}}, r"model\.name was 'tiny', now 'other'"),
    ],
)
def test_results_of_other_settings_are_refused(tmp_path: Path, change: dict, says: str) -> None:
    path, chosen = tmp_path / "r.jsonl", rows("rpc", (4,))
    measured(path, chosen, traces(2))
    before = path.read_bytes()
    described = settings(
        **{"model": {"name": "tiny"}, "schedule": "common", "tokens": None, "rows": chosen, "files": Files(), **change}
    )
    with pytest.raises(LaconicError, match=says):
        Journal(path, FORMAT, described, may_grow=may_grow)
    assert path.read_bytes() == before


def test_another_trace_under_a_known_name_is_refused(tmp_path: Path) -> None:
    path, chosen = tmp_path / "r.jsonl", rows("rpc", (4,))
    measured(path, chosen, traces(2))
    other = dataclasses.replace(traces()[1], token_ids=traces()[1].token_ids[:-1])
    with pytest.raises(LaconicError, match="another trace under the name t1; nothing was changed"):
        measured(path, chosen, [traces()[0], other])


def test_records_of_another_policy_under_a_name_are_refused(tmp_path: Path) -> None:
    path, chosen = tmp_path / "r.jsonl", rows("rpc", (4,))
    measured(path, chosen, traces(2))
    path.write_text(path.read_text().replace('"policy": "rpc:interval=16', '"policy": "rpc:interval=32'))
    with pytest.raises(LaconicError, match="holds records of rpc:interval=32,ratio=4,window=8 for the row rpc c=4"):
        measured(path, chosen, traces(2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"traces": []}, "no traces"),
        ({"rows": []}, "no policies"),
        ({"traces": traces(1) * 2}, "Two traces have the name 't0'"),
        ({"rows": rows("rpc", (4,)) * 2}, "asked for twice"),
        ({"rows": rows("rpc", (4,), interval=64)}, "first compresses after 72 generated tokens"),
        ({"batch": 0}, "batch is 0"),
        ({"rows": [5]}, r"rows\[0\] is 5"),
        ({"traces": ["x"]}, r"traces\[0\] is"),
    ],
)
def test_bad_input_is_one_sentence(change: dict, says: str) -> None:
    arguments = {"traces": traces(), "rows": rows("rpc", (4,)), "batch": 2, **change}
    with pytest.raises(LaconicError, match=says):
        run_fidelity(family("llama"), arguments["traces"], arguments["rows"], batch=arguments["batch"])


def test_a_policy_is_fitted_to_the_model() -> None:
    with pytest.raises(LaconicError, match="there is no selector for this model"):
        run_fidelity(family("llama"), traces(2), rows("learned", (4,)))
