"""Merged results against the runs' own reports, and every way in which results can't stand in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.tables import difference, interval
from laconic.engines.hf import shapes
from laconic.engines.hf.shapes import Shape
from laconic.errors import InputError
from laconic.lab.accuracy.run import FORMAT as ACCURACY
from laconic.lab.judges.run import FORMAT as JUDGING
from laconic.lab.paper.cells import Paper, SpeedCell, SpeedFigures
from laconic.lab.paper.deepprune import LOW
from laconic.lab.paper.deepprune import PAPER as DEEPPRUNE
from laconic.lab.paper.merge import merge
from laconic.lab.paper.rpc import PAPER as RPC
from laconic.lab.paper.table import paper_tables
from laconic.lab.parallel.run import FORMAT as PARALLEL
from laconic.statistics import mean_interval, paired_difference

PLACE = "accuracy/r1-distill-qwen-7b/aime24"
RPC_1024 = "rpc:interval=1024,ratio=4,window=32"
SETTINGS: dict[str, Any] = {
    "model": {"name": "DeepSeek-R1-Distill-Qwen-7B", "fingerprint": "abc", "dtype": "bfloat16"},
    "engine": {"name": "hf"},
    "problems": {"set": "aime24, aime24.jsonl", "count": 2, "digest": "d"},
    "samples": 2,
    "sampling": {"temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_new_tokens": 32768, "seed": 0},
    "policies": {"full": "full"},
}


def write(
    directory: Path, format: str, settings: Any, records: list[dict[str, Any]], name: str = "traces.jsonl"
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    lines = [{"kind": "header", "format": format, "settings": settings}, *records]
    (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def traces(row: str, right: dict[str, tuple[int, ...]], spec: str | None = None) -> list[dict[str, Any]]:
    common = {
        "kind": "trace",
        "row": row,
        "answer": "1",
        "finish": "stop",
        "peak_kv_tokens": 90,
        "mean_kv_tokens": 50.0,
    }
    found = [
        common
        | {"problem": problem, "digest": f"of {problem}", "sample": sample, "correct": bool(value), "length": 100}
        for problem, values in right.items()
        for sample, value in enumerate(values)
    ]
    return [{"kind": "policy", "row": row, "policy": spec or row}, *found]


FULL = traces("full", {"a": (1, 1), "b": (1, 0)})
OURS = traces(RPC_1024, {"a": (1, 0), "b": (0, 0)})


def merged(*roots: Path, paper: Paper = RPC, pattern: str = "") -> dict[str, Any]:
    return merge(roots, paper, [cell for cell in paper.cells if pattern in cell.name])


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    return {row["method"]: row for row in report["accuracy"] if row["cell"].startswith(PLACE)}


def test_two_machines_make_one_table_and_each_trace_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "one" / PLACE, ACCURACY, SETTINGS, [*FULL, *OURS])
    elsewhere = SETTINGS | {
        "policies": {"full": "full", "h2o:budget=25": "h2o:budget=25"},
        "model": SETTINGS["model"] | {"name": "checkpoint"},
    }
    h2o = traces("h2o:budget=25", {"a": (0, 0), "b": (0, 1)}, "h2o:budget=25,buffer=1")
    write(tmp_path / "two" / PLACE, ACCURACY, elsewhere, [*FULL, *h2o])
    rows = rows_of(merged(tmp_path / "one", tmp_path / "two"))
    assert {name: row["ours"]["accuracy"]["mean"] for name, row in rows.items() if row["ours"]} == {
        "full": 0.75,
        "rpc-4x-p1024": 0.25,
        "h2o-4x": 0.25,
    }
    assert rows["full"]["published"] == 55.5
    assert rows["full"]["ours"]["difference"] is None
    assert rows["h2o-4x"]["ours"]["difference"]["mean"] == -0.5
    assert rows["lightthinker"]["lacks"] == "needs a model trained by its recipe"
    assert [row["ours"] for row in rows.values()].count(None) == 4


def test_ours_stands_beside_the_published_figure_and_what_differs_is_said(tmp_path: Path) -> None:
    write(tmp_path / PLACE, ACCURACY, SETTINGS, [*FULL, *OURS])
    report = {"paper": RPC.cited} | merged(tmp_path, pattern=PLACE)
    (table,) = paper_tables(report)
    text = table.markdown()
    line = next(line for line in text.splitlines() if "rpc-4x-p1024" in line)
    ours = rows_of(report)["rpc-4x-p1024"]["ours"]
    assert ours["accuracy"] == mean_interval([[1.0, 0.0], [0.0, 0.0]])._asdict()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == [
        "50.4",
        interval(**ours["accuracy"]),
        difference(*paired_difference([[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])),
        "50",
        "100",
    ]
    assert f"{PLACE}: ours has 2 problems (30), 2 traces of each (8); in brackets the paper's." in text
    assert next(line for line in text.splitlines() if "lightthinker" in line).count("needs a model trained") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: s["sampling"].update(temperature=0.7),
            "sampling.temperature is 0.6 in the one and 0.7 in the other",
        ),
        (
            lambda s: s["model"].update(fingerprint="xyz"),
            "model.fingerprint is 'abc' in the one and 'xyz' in the other",
        ),
        (lambda s: s["engine"].update(name="vllm"), "engine.name is 'hf' in the one and 'vllm' in the other"),
        (
            lambda s: s["sampling"].update(seed=1, top_k=5),
            "sampling.top_k is 0 in the one and 5 in the other; sampling.seed",
        ),
    ],
)
def test_results_of_other_settings_are_refused_with_what_differs(tmp_path: Path, change: Any, says: str) -> None:
    other = json.loads(json.dumps(SETTINGS))
    change(other)
    write(tmp_path / "one" / PLACE, ACCURACY, SETTINGS, FULL)
    write(tmp_path / "two" / PLACE, ACCURACY, other, FULL)
    with pytest.raises(InputError) as error:
        merged(tmp_path / "one", tmp_path / "two")
    told = str(error.value)
    assert says in told
    assert "can't be merged" in told
    assert str(tmp_path / "two") in told


def test_rows_that_are_not_on_the_same_problems_are_refused(tmp_path: Path) -> None:
    write(tmp_path / PLACE, ACCURACY, SETTINGS, [*FULL, *OURS[:-1]])
    with pytest.raises(
        InputError, match=r"the row rpc.* has 3 traces of 2 problems and full 4 traces of 2 problems; run"
    ):
        merged(tmp_path)


def test_another_problem_under_the_same_id_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one" / PLACE, ACCURACY, SETTINGS, FULL)
    changed = [record | {"digest": "else"} if record.get("problem") == "b" else record for record in FULL]
    write(tmp_path / "two" / PLACE, ACCURACY, SETTINGS, changed)
    with pytest.raises(InputError, match="has another problem with the id b than the rest"):
        merged(tmp_path / "one", tmp_path / "two")


def test_one_row_of_two_policies_is_refused(tmp_path: Path) -> None:
    for name, spec in (("one", "h2o:budget=25"), ("two", "h2o:budget=26")):
        write(tmp_path / name / PLACE, ACCURACY, SETTINGS, [*FULL, *traces("h2o", {"a": (0, 0), "b": (0, 1)}, spec)])
    with pytest.raises(InputError, match=r"The row h2o is h2o:budget=25 in one directory .* and h2o:budget=26 in"):
        merged(tmp_path / "one", tmp_path / "two")
    for name in ("three", "four"):
        spec = f"h2o:budget={len(name)}0"
        write(tmp_path / name / PLACE, ACCURACY, SETTINGS, [*FULL, *traces(spec, {"a": (0, 0), "b": (0, 1)})])
    with pytest.raises(InputError, match="has several rows, h2o:budget=50 and h2o:budget=40"):
        merged(tmp_path / "three", tmp_path / "four")


def test_directories_that_are_none_of_the_paper_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no directory of results"):
        merged(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no results of RPC .*expected directories such as accuracy/"):
        merged(tmp_path / "empty")
    write(tmp_path / "accuracy" / "my-model" / "aime24", ACCURACY, SETTINGS, FULL)
    with pytest.raises(InputError, match="my-model/aime24 is in no place of RPC"):
        merged(tmp_path)


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "one" / PLACE, "laconic.accuracy/1", SETTINGS, FULL)
    with pytest.raises(InputError, match=r"does not begin as a results file of laconic\.accuracy/2"):
        merged(tmp_path / "one")
    write(tmp_path / "two" / PLACE, ACCURACY, SETTINGS, [])
    with pytest.raises(InputError, match="holds no finished trace"):
        merged(tmp_path / "two")
    (tmp_path / "two" / PLACE / "traces.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no results"):
        merged(tmp_path / "two")
    path = write(tmp_path / "three" / PLACE, ACCURACY, SETTINGS, FULL) / "traces.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"kind": "tra')  # cut short by a crash, which loses nothing
    assert rows_of(merged(tmp_path / "three"))["full"]["ours"]
    path.write_text(whole + "broken\n" + whole)
    with pytest.raises(InputError, match="Line 7 of"):
        merged(tmp_path / "three")


# ---- the other kinds of cells -----------------------------------------------------------------------------------------


def vote(entry: str, family: str, right: tuple[int, ...], generated: int, judge: Any = None) -> list[dict[str, Any]]:
    told = {"family": family, "n": 4, **({"judge": judge} if judge else {})}
    results = [
        {"kind": "result", "entry": entry, "problem": f"p{i}", "right": [value], "generated": generated, "judged": 7}
        for i, value in enumerate(right)
    ]
    return [{"kind": "entry", "entry": entry, "settings": told}, *results]


VOTES = "votes/qwen3-32b/aime24"
VOTED = SETTINGS | {"problems": {"set": "aime24, x", "count": 2, "digest": "d"}}
DEEP = "deepprune:tau=0.5,K=32,K1=10,K2=20,early_end=false,finish=together"


def test_votes_are_found_by_their_strategies_with_tokens_of_all_problems(tmp_path: Path) -> None:
    deep = vote(f"{DEEP}, probe n=4 none", f"{DEEP}, probe", (1, 1), 100, {"x": 1})
    records = [*vote("cons n=4 none", "cons", (1, 0), 400), *deep]
    write(tmp_path / VOTES, PARALLEL, VOTED, records, "results.jsonl")
    rows = {row["strategy"]: row for row in merged(tmp_path, paper=DEEPPRUNE, pattern=VOTES)["votes"]}
    assert list(rows) == ["cons", "deepconf:low", "deepconf:high", DEEP]
    ours = rows[DEEP]["ours"]
    assert (ours["trace_tokens"], ours["judge_tokens"], ours["judge"], ours["problems"]) == (200, 14, "probe", 2)
    assert rows["cons"]["ours"]["accuracy"]["mean"] == 0.5
    assert rows["deepconf:low"]["ours"] is None
    report = {"paper": DEEPPRUNE.cited} | merged(tmp_path, paper=DEEPPRUNE, pattern=VOTES)
    text = paper_tables(report)[0].markdown()
    line = next(line for line in text.splitlines() if "DeepPrune, probe" in line)
    assert "-75.0 %" in line
    assert "-86.5 %" in line
    unfinished = [record for record in records if record.get("problem") != "p1" or "cons" in record["entry"]]
    write(tmp_path / VOTES, PARALLEL, VOTED, unfinished, "results.jsonl")
    with pytest.raises(InputError, match=r"probe n=4 none has 1 of 2 problems; run the rest"):
        merged(tmp_path, paper=DEEPPRUNE)
    begun = [record for record in records if record["kind"] == "entry" or "cons" in record["entry"]]
    write(tmp_path / VOTES, PARALLEL, VOTED, begun, "results.jsonl")
    with pytest.raises(InputError, match=r"probe n=4 none has 0 of 2 problems"):
        merged(tmp_path, paper=DEEPPRUNE)


def test_votes_of_two_numbers_of_traces_are_each_compared_with_their_own_vote(tmp_path: Path) -> None:
    records = []
    for n, whole, part in ((4, 400, 100), (8, 1000, 600)):
        found = [*vote(f"cons n={n}", "cons", (1, 0), whole), *vote(f"{LOW} n={n}", LOW, (1, 0), part)]
        records += [r | ({"settings": r["settings"] | {"n": n}} if r["kind"] == "entry" else {}) for r in found]
    write(tmp_path / VOTES, PARALLEL, VOTED, records, "results.jsonl")
    report = {"paper": DEEPPRUNE.cited} | merged(tmp_path, paper=DEEPPRUNE, pattern=VOTES)
    text = paper_tables(report)[0].markdown()
    assert [
        line.count("-75.0 %") + 10 * line.count("-40.0 %") for line in text.splitlines() if "DeepConf low" in line
    ] == [1, 10]


def test_votes_on_other_traces_are_refused(tmp_path: Path) -> None:
    for name, digest in (("one", "t1"), ("two", "t2")):
        records = vote("cons n=4 none", "cons", (1, 0), 400)
        write(tmp_path / name / VOTES, PARALLEL, VOTED | {"traces": digest}, records, "results.jsonl")
    with pytest.raises(InputError, match="traces is 't1' in the one and 't2' in the other"):
        merged(tmp_path / "one", tmp_path / "two", paper=DEEPPRUNE)


def test_a_judge_s_figures_are_means_over_models(tmp_path: Path) -> None:
    for name, auroc in (("qwen3-32b", 0.8), ("gpt-oss-20b", 0.6)):
        directory = tmp_path / "judge" / "words-25-both" / name
        directory.mkdir(parents=True)
        row = {"excerpt": "words:25", "auroc": {"value": auroc}, "tnr": {"value": auroc / 2}}
        (directory / "results.json").write_text(json.dumps({"format": JUDGING, "rows": [row]}))
    report = merged(tmp_path, paper=DEEPPRUNE, pattern="judge/")
    row = next(row for row in report["judge"] if row["cell"] == "judge/words-25-both")
    assert row["ours"] == {"auroc": pytest.approx(0.7), "tnr": pytest.approx(0.35), "models": 2, "of": 3}
    assert row["published"] == {"auroc": 0.870, "tnr": 0.819}
    assert "2 of 3" in paper_tables({"paper": "DeepPrune"} | report)[0].markdown()
    (directory / "results.json").write_text(json.dumps({"format": JUDGING, "rows": [row, row]}))
    with pytest.raises(InputError, match="is not of one judge on one set of traces"):
        merged(tmp_path, paper=DEEPPRUNE)


def test_speed_is_what_the_bench_itself_says(invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 512,
    }  # fmt: skip
    monkeypatch.setitem(shapes.SHAPES, "nano", Shape("nano", "llama", "", sizes))
    policy = "rpc:interval=8,ratio=2,window=4"
    published = {"full": SpeedFigures(100, 1.5), policy: SpeedFigures(120, 1.0, out_of_memory=False)}
    cell = SpeedCell("nano", 2, 24, 8, published)
    paper = Paper("rpc", "RPC", "1", (cell,))
    where = tmp_path / "speed" / "nano" / "2x24"
    result = invoke(
        "bench", "throughput", "--shapes", "nano", "--batches", 2, "--prompt", 8, "--lengths", 24, "--policies", f"{policy};",
        "--repeats", 1, "--device", "cpu", "-o", where, "--no-plot",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    theirs = {row["method"]: row for row in json.loads((where / "results.json").read_text())["rows"]}
    report = merge([tmp_path], paper, [cell])
    for row in report["speed"]:
        assert row["ours"]["tokens_per_second"] == theirs[row["method"]]["tokens_per_second"]
        assert row["ours"]["peak_bytes"] == theirs[row["method"]]["peak_bytes"]
    text = paper_tables({"paper": paper.cited} | report)[0].markdown()
    assert "Ours on cpu: medians of interleaved repeats." in text
    other = tmp_path / "other" / "speed" / "nano" / "2x24"
    other.mkdir(parents=True)
    (other / "samples.jsonl").write_bytes((where / "samples.jsonl").read_bytes())
    with pytest.raises(InputError, match="both hold speed/nano/2x24, which is measured in one piece"):
        merge([tmp_path], paper, [cell])
