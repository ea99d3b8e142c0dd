"""Measures the table "Before and after" of docs/design.md: `python docs/measure_structure.py`; by PYTHONPATH another version's.

A file is entered when a function of it runs (`sys.setprofile`), which importing it alone does not do.
"""

import ast
import contextlib
import inspect
import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import laconic
from laconic.assets import reasoner_path
from laconic.cli import build
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load

SOURCE = Path(laconic.__file__).parent
# A file counts to the first that its path begins with; before, the lab was bench and report.
PARTS = ("compress", "prune", "answers", "engines/hf", "engines/vllm", "engines", "judges", "problems", "cli", "lab")
POLICY = laconic.RPC(interval=8, ratio=4, window=4)


def entered(run: Callable[[], object]) -> set[str]:
    names: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # not the body of a module or a class
            names.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    run()
    sys.setprofile(None)
    threading.setprofile(None)
    return {str(Path(name).relative_to(SOURCE)) for name in names if name.startswith(str(SOURCE))}


def solve() -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        build()(["solve", "--n", "4"], standalone_mode=False)


def compressing_step() -> set[str]:
    """Of the forward passes under `laconic.compress`, the one that enters most: it compresses."""
    model, steps = load(reasoner_path())[0], []
    with laconic.compress(model, POLICY):
        forward = model.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            result: list[Any] = []
            steps.append(entered(lambda: result.append(forward(*args, **kwargs))))
            return result[0]

        model.forward = watched
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=24, min_new_tokens=24, do_sample=False)  # type: ignore[operator]
        model.forward = forward
    return max(steps, key=len)


def one_trace() -> None:
    engine.submit([1, 2, 3], Sampling(max_new_tokens=24))
    for _ in engine.stream():
        pass


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Our modules that this one imports outside of functions; imports for types alone (`if TYPE_CHECKING`) count."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & known or {node.module} & known
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


sources = {path.relative_to(SOURCE): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
names = {".".join(("laconic", *path.with_suffix("").parts)).removesuffix(".__init__"): path for path in sources}
reach = {name: set(imports(ast.parse(sources[path]), set(names))) for name, path in names.items()}
for through in reach:  # Warshall's closure
    for name in reach:
        reach[name] |= reach[through] if through in reach[name] else set()
circles = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in reach if a in reach[a]}
lines: Counter[str] = Counter()
for path, text in sources.items():
    place = path.as_posix().replace("bench/", "lab/").replace("report/", "lab/")
    lines[next((part for part in PARTS if place.startswith(f"{part}/")), "other")] += len(text.splitlines())
print(f"import circles: {len(circles)}", *circles)
print("lines:", ", ".join(f"{part} {lines[part]:,}" for part in (*PARTS, "other")), f"all {lines.total():,}")
engine = HFEngine(*load(reasoner_path()), policy=POLICY)
for what, files in (("solve", entered(solve)), ("compressing step", compressing_step()), ("trace", entered(one_trace))):
    print(f"{what}: {len(files)} files:", *sorted(files))
