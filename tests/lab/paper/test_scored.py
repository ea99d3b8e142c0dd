"""Figures of lm-eval and lighteval beside the published ones, from files as these harnesses write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.errors import InputError
from laconic.lab.paper.merge import merge
from laconic.lab.paper.report import has_tables
from laconic.lab.paper.rpc import PAPER as RPC
from laconic.lab.paper.table import paper_tables

IFEVAL = "accuracy/qwq-32b/ifeval"
CODE = "accuracy/qwq-32b/livecodebench"
ARGUMENTS: dict[str, Any] = {
    "pretrained": "Qwen/QwQ-32B", "max_gen_toks": 32768, "temperature": 0.6, "top_p": 0.95, "top_k": 40, "dtype": "bfloat16",
}  # fmt: skip
TOTALS = {"requests": 541, "traces": 541, "generated": 54100, "mean_kv_tokens": 321.5}


def of_lm_eval(policy: str | None, strict: float = 0.5, **change: Any) -> dict[str, Any]:
    """lm-eval's file: scores with their filter behind a comma, a standard error that isn't always a number, counts, the model's
    own entry."""
    arguments = {**ARGUMENTS, **({"policy": policy} if policy else {}), **change}
    scores = {
        "alias": "ifeval",
        "prompt_level_strict_acc,none": strict,
        "prompt_level_strict_acc_stderr,none": 0.02,
        "inst_level_strict_acc,none": 0.625,
        "inst_level_strict_acc_stderr,none": "N/A",
        "prompt_level_loose_acc,none": 0.55,
        "prompt_level_loose_acc_stderr,none": 0.02,
        "inst_level_loose_acc,none": 0.7,
        "inst_level_loose_acc_stderr,none": "N/A",
    }
    told = {
        "arguments": arguments,
        "policy": policy or "full",
        "weights": "abc",
        "dtype": "bfloat16",
        "totals": TOTALS,
    }
    return {
        "results": {"ifeval": scores},
        "n-samples": {"ifeval": {"original": 541, "effective": 541}},
        "config": {"model": "laconic", "laconic": told},
    }


def of_lighteval(arguments: str, value: float = 0.6) -> dict[str, Any]:
    """lighteval's: the model's name holds its arguments, tasks have their shots behind a bar."""
    scores = {"codegen_pass@1:16": value, "codegen_pass@1:16_stderr": 0.03}
    return {
        "config_general": {"model_name": arguments, "max_samples": None},
        "results": {"lcb:codegeneration|0": scores, "all": scores},
        "config_tasks": {"lcb:codegeneration|0": {"name": "lcb:codegeneration", "effective_num_docs": 268}},
    }


def write(root: Path, cell: str, report: Any, name: str = "results_2026-01-02T03-04-05.678.json") -> Path:
    path = root / cell / "Qwen__QwQ-32B" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report if isinstance(report, str) else json.dumps(report))
    return path


def merged(*roots: Path) -> dict[str, Any]:
    return {"paper": RPC.cited} | merge(roots, RPC, [cell for cell in RPC.cells if "qwq-32b" in cell.name])


def row(report: dict[str, Any], cell: str) -> Any:
    return next(each for each in report["accuracy"] if each["cell"] == cell)


def test_scores_of_both_harnesses_stand_beside_the_published_ones(tmp_path: Path) -> None:
    write(tmp_path / "one", f"{IFEVAL}/full", of_lm_eval(None))
    write(tmp_path / "one", f"{IFEVAL}/tova-4x", of_lm_eval("tova:budget=500", 0.25))
    rpc = "Qwen/QwQ-32B,policy=rpc:interval=4096+ratio=4+window=32,max_gen_toks=32768,temperature=0.6,top_p=0.95,top_k=40,"
    write(tmp_path / "two", f"{CODE}/rpc-4x-p4096/results", of_lighteval(f"{rpc}dtype=bfloat16"))
    report = merged(tmp_path / "one", tmp_path / "two")
    full = row(report, f"{IFEVAL}/full")
    assert (full["published"], full["ours"]["accuracy"]["mean"], full["ours"]["problems"]) == (83.9, 0.5, 541)
    assert (full["ours"]["accuracy"]["low"], full["ours"]["accuracy"]["high"]) == pytest.approx((0.4608, 0.5392))
    assert (full["ours"]["mean_length"], full["ours"]["mean_kv_tokens"]) == (100.0, 321.5)
    assert full["ours"]["scores"]["inst_level_loose_acc"] == 0.7
    code = row(report, f"{CODE}/rpc-4x-p4096")["ours"]
    assert (code["accuracy"]["mean"], code["problems"], code["mean_length"]) == (0.6, 268, None)
    assert row(report, f"{IFEVAL}/h2o-4x")["ours"] is None
    (table,) = [each for each in paper_tables(report) if "pass@1" in each.title]
    text = table.markdown()
    line = next(line for line in text.splitlines() if "tova-4x" in line and "25.0" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][1:3] == ["50.6", "25.0 [21.1, 28.9]"]
    assert "ifeval is lm-eval's score, livecodebench lighteval's" in text
    assert (
        f"{IFEVAL}/full: prompt_level_strict_acc 50.0, prompt_level_loose_acc 55.0, inst_level_strict_acc 62.5" in text
    )
    assert f"{CODE}/rpc-4x-p4096: ours has 268 problems (279), 16 traces of each (4); in brackets the paper's." in text
    assert f"{IFEVAL}/full: ours" not in text


def test_what_is_not_as_published_is_said(tmp_path: Path) -> None:
    report = of_lm_eval(None, pretrained="small", temperature=0.7)
    del report["config"]["laconic"]["arguments"]["top_k"]
    report["config"]["laconic"]["dtype"] = "float32"
    report["n-samples"]["ifeval"]["effective"] = 5
    write(tmp_path, f"{IFEVAL}/full", report)
    (note,) = merged(tmp_path)["other"]
    assert note["differs"] == [
        "5 problems (541)",
        "temperature 0.7 (0.6)",
        "top_k not given (40)",
        "weights in float32 (bfloat16)",
        "the model small (Qwen/QwQ-32B)",
    ]


def test_a_file_without_counts_or_totals_still_has_its_score(tmp_path: Path) -> None:
    report = of_lighteval("Qwen/QwQ-32B")
    report["config_tasks"] = {"lcb:codegeneration|0": "LightevalTaskConfig(...)"}
    write(tmp_path, f"{CODE}/full", report)
    ours = row(merged(tmp_path), f"{CODE}/full")["ours"]
    assert (ours["accuracy"]["mean"], ours["problems"], ours["mean_kv_tokens"]) == (0.6, None, None)
    older = of_lighteval("Qwen/QwQ-32B")
    older["results"] = {"extended|lcb:codegeneration|0": {"codegen_pass@1:16": 0.5}}
    write(tmp_path, f"{CODE}/full", older)
    accuracy = row(merged(tmp_path), f"{CODE}/full")["ours"]["accuracy"]
    assert accuracy == {"mean": 0.5, "low": None, "high": None}


@pytest.mark.parametrize(
    ("cell", "report", "says"),
    [
        (f"{IFEVAL}/full", of_lm_eval("h2o:budget=9"), "is of the policy h2o:budget=9; expected full, which"),
        (f"{IFEVAL}/h2o-4x", of_lm_eval("tova:budget=9"), "is of the policy tova:budget=9; expected h2o, which"),
        (f"{IFEVAL}/full", of_lm_eval(None, strategy="priced-vote"), r"is of a vote \(priced-vote\); expected single"),
        (f"{IFEVAL}/full", {"results": {"ifeval": {}}, "config": {"model": "hf"}}, "that lm-eval wrote of ifeval with"),
        (f"{IFEVAL}/full", {"results": {"gsm8k": {}}}, "is no file of results that lm-eval wrote of ifeval"),
        (f"{IFEVAL}/full", "[1]", "is not a JSON object"),
        (f"{IFEVAL}/full", "{", "is not JSON"),
        (f"{CODE}/full", of_lm_eval(None), "is no file of results that lighteval wrote of lcb:codegeneration"),
        (f"{CODE}/full", of_lighteval("a,b=1"), "model argument 'b' is unknown"),
    ],
)
def test_files_that_are_not_of_the_cell_are_refused(tmp_path: Path, cell: str, report: Any, says: str) -> None:
    path = write(tmp_path, cell, report)
    with pytest.raises(InputError, match=says) as error:
        merged(tmp_path)
    assert str(path) in str(error.value)


def test_a_file_that_lacks_a_score_is_refused(tmp_path: Path) -> None:
    report = of_lighteval("a")
    del report["results"]["lcb:codegeneration|0"]["codegen_pass@1:16"]
    write(tmp_path, f"{CODE}/full", report)
    with pytest.raises(
        InputError, match=r"lacks codegen_pass@1:16; expected the scores of lcb:codegeneration, and it has none"
    ):
        merged(tmp_path)


def test_two_files_of_one_cell_and_methods_that_were_not_run_alike_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, f"{IFEVAL}/full", of_lm_eval(None))
    assert row(merged(one, one), f"{IFEVAL}/full")["ours"]["problems"] == 541  # the same file, named twice
    write(two, f"{IFEVAL}/full", of_lm_eval(None))
    with pytest.raises(InputError, match=f"both hold {IFEVAL}/full, which is measured in one piece"):
        merged(one, two)
    other = of_lm_eval("h2o:budget=9", temperature=0.7)
    other["n-samples"]["ifeval"]["effective"] = 5
    write(tmp_path / "three", f"{IFEVAL}/h2o-4x", other)
    with pytest.raises(
        InputError, match=r"temperature is 0.6 in the one and 0.7 in the other; problems is 541 in the one and 5"
    ):
        merged(one, tmp_path / "three")


def test_a_harness_s_cell_has_a_table() -> None:
    cells = [cell for cell in RPC.cells if cell.name == f"{IFEVAL}/full"]
    assert len(cells) == 1
    assert has_tables(cells)
