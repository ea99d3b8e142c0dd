"""A task for lm-eval in a directory of its own: problems of the bundled generator, offline, and a run of its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from laconic.problems import Problem

TASK = """
task: laconic_notation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["=", " }}"], do_sample: false}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: 'boxed\\{{ (.*)', group_select: -1}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
# Stop texts that stand in every thought of the bundled reasoner, and in no answer before it is there.


def write_task(directory: Path, problems: list[Problem]) -> Path:
    """Returns what ``--include_path`` takes."""
    directory.mkdir(exist_ok=True)
    file = directory / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in problems))
    (directory / "task.yaml").write_text(TASK.format(file=file))
    return directory


def run(module: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE run ... --tasks laconic_notation`, offline, with all that it keeps in the directory."""
    own = {"HF_HOME": str(directory / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    task = ("--tasks", "laconic_notation", "--include_path", str(directory), "--output_path", str(directory / "out"))
    return subprocess.run(
        [sys.executable, "-m", module, "run", *arguments, *task, "--log_samples"],
        capture_output=True,
        text=True,
        env={**os.environ, **own},
        cwd=directory,
    )


def results(directory: Path) -> dict[str, Any]:
    """The latest."""
    files = sorted((directory / "out").rglob("results*.json"))
    found: dict[str, Any] = json.loads(files[-1].read_text())
    return found


def answers(directory: Path) -> list[str]:
    """Those of the latest run, in order."""
    lines = sorted((directory / "out").rglob("samples*.jsonl"))[-1].read_text().splitlines()
    records = sorted((json.loads(line) for line in lines), key=lambda record: record["doc_id"])
    return [record["resps"][0][0] for record in records]


def cached(done: subprocess.CompletedProcess[str]) -> int:
    """Answers that came from ``--use_cache``."""
    found = re.search(r"Cached requests: (\d+)", done.stderr)
    assert found is not None
    return int(found[1])
