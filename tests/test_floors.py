"""The three floors of docs/design.md: faces over engines over algorithms, and no import that points upwards.

Imports are read from the source, those inside functions and under TYPE_CHECKING too: a type is knowledge as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import laconic

ROOT = Path(laconic.__file__).parent

FACES = {"cli", "server"}
LAB = "lab"  # above everything: measures, and nothing outside of it imports it
ALGORITHMS = {"compress", "prune"}
# The facade that hands out the public names, and the entry point: above everything.
ABOVE = {"__init__", "__main__"}
# What algorithms may know of this package.
KNOWN_TO_ALGORITHMS = {"compress", "prune", "answers", "checks", "errors", "settings"}
# Standard modules that reach out of the process: algorithms compute.
OUTSIDE = {
    "ftplib",
    "glob",
    "http",
    "io",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib",
}
NAMED_POLICIES = {"RPC", "H2O", "TOVA", "StreamingLLM", "RKV", "SnapKV", "KNorm", "Random", "Oracle", "Custom"}
NAMED_POLICIES |= {"RandomAttention", "VaSE", "Learned", "Hindsight", "KVzap", "ExpectedAttention", "LightThinker"}


def imports(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every import in the source of a module of `package`: (absolute dotted module, the name taken from it or "")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield module, alias.name
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value), ""


def plugin_violations(source: str, package: tuple[str, ...]) -> list[str]:
    """What a module of vLLM's plugin may not do: it runs in every process of any vLLM, the engine is one way to start one."""
    engine, facade = "laconic.engines.vllm.engine", "laconic.engines.vllm"
    return [
        f"the plugin imports {module}.{name}"
        for module, name in imports(source, package)
        if f"{module}.{name}.".startswith(f"{engine}.") or (module == facade and name == "VLLMEngine")
    ]


def part(module: str, name: str) -> str:
    """Which part of laconic an import reaches ("compress", "engines", ...); "" for anything else."""
    pieces = module.split(".")
    if pieces[0] != "laconic":
        return ""
    # `from laconic import bench` is a part; `from laconic import RPC` is the facade.
    if len(pieces) == 1:
        return name if name and name.islower() else "__init__"
    return pieces[1]


def violations(where: str, source: str, package: tuple[str, ...]) -> list[str]:
    """What a module of part `where` may not do, one sentence each."""
    found = []
    for module, name in imports(source, package):
        top, to = module.split(".")[0], part(module, name)
        what = f"{module}.{name}" if name else module
        if where in ALGORITHMS:
            if to and to not in KNOWN_TO_ALGORITHMS:
                found.append(f"an algorithm imports {what}")
            if not to and top != "torch" and top not in sys.stdlib_module_names:
                found.append(f"an algorithm imports {what}, neither torch nor the standard library")
            if top in OUTSIDE:
                found.append(f"an algorithm imports {what}, which reaches out of the process")
        if where != LAB and to == LAB:
            found.append(f"{where} imports the lab, {what}")
        if where not in FACES | ABOVE | {LAB} and to in FACES | ABOVE:
            found.append(f"{where} imports the face {what}")
        if where == "engines" and to == "compress" and name in NAMED_POLICIES:
            found.append(f"an engine knows the policy {name} by name")
    if where in ALGORITHMS:
        opened = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
        if any(isinstance(n.func, ast.Name) and n.func.id == "open" for n in opened):
            found.append("an algorithm opens a file")
    return found


MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downwards(path: Path) -> None:
    package = ("laconic", *path.parts[:-1])
    assert violations(path.parts[0].removesuffix(".py"), (ROOT / path).read_text(encoding="utf-8"), package) == []


PLUGIN = ROOT / "engines" / "vllm" / "plugin"


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.stem)
def test_vllms_plugin_knows_no_engine(path: Path) -> None:
    package = ("laconic", "engines", "vllm", "plugin")
    assert plugin_violations(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "from laconic.engines.vllm.engine import failures",
        "from laconic.engines.vllm.engine.client import VLLMClient",
        "def f():\n    import laconic.engines.vllm.engine.logits_processors",
        "from laconic.engines.vllm import engine",
        "from laconic.engines.vllm import VLLMEngine",
        "from ..engine import ticket",
    ],
)
def test_the_plugins_guard_bites(source: str) -> None:
    assert plugin_violations(source, ("laconic", "engines", "vllm", "plugin")) != []


def test_every_floor_was_looked_at() -> None:
    seen = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert {"compress", "engines", "cli", "errors", "__init__"} <= seen
    assert (PLUGIN / "registration.py").exists()


@pytest.mark.parametrize(
    ("where", "source", "said"),
    [
        ("compress", "import transformers", "an algorithm imports transformers, neither torch"),
        ("compress", "def f():\n    from rich.table import Table", "rich.table.Table, neither torch"),
        ("prune", "if TYPE_CHECKING:\n    import laconic.engines.base", "an algorithm imports laconic.engines.base"),
        ("compress", "from ..engines import hf", "an algorithm imports laconic.engines.hf"),
        ("compress", "from .. import engines", "an algorithm imports laconic.engines"),
        ("compress", "from pathlib import Path", "reaches out of the process"),
        ("prune", "open('x')", "opens a file"),
        ("compress", "import importlib\nimportlib.import_module('laconic.cli')", "an algorithm imports laconic.cli"),
        ("engines", "from laconic.lab.accuracy import run", "engines imports the lab, laconic.lab.accuracy.run"),
        ("engines", "from laconic import cli", "engines imports the face laconic.cli"),
        ("engines", "from laconic import RPC", "engines imports the face laconic.RPC"),
        ("engines", "from laconic.compress import RPC", "an engine knows the policy RPC by name"),
        ("problems", "import laconic.cli.think", "problems imports the face laconic.cli.think"),
        (
            "cli",
            "def f():\n    from laconic.lab.shared import figure",
            "cli imports the lab, laconic.lab.shared.figure",
        ),
        ("__init__", "import laconic.lab", "__init__ imports the lab, laconic.lab"),
    ],
)
def test_the_guard_bites(where: str, source: str, said: str) -> None:
    assert any(said in found for found in violations(where, source, ("laconic", where)))


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("compress", "import math\nimport torch\nfrom torch import Tensor\nfrom laconic.errors import LaconicError"),
        ("compress", "from .schedule import Fixed\nfrom . import select"),
        ("engines", "import transformers\nfrom laconic.compress import FullKV, Policy"),
        ("cli", "from laconic.engines.hf import HFEngine"),
        ("lab", "from laconic.cli.common import print_to_stderr\nfrom laconic.lab.accuracy import run"),
        ("__init__", "from laconic.engines.hf import compress"),
    ],
)
def test_the_guard_lets_pass(where: str, source: str) -> None:
    assert violations(where, source, ("laconic", where)) == []


# ---- circles ----------------------------------------------------------------------------------------------------------


def imported_on_import(source: str, module: str, is_package: bool, known: set[str]) -> set[str]:
    """Which of the `known` modules a module names outside of its functions, under TYPE_CHECKING too."""
    names = module.split(".")
    package = tuple(names if is_package else names[:-1])
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    found = set()
    for base, name in imports(ast.unparse(tree), package):
        found.add(f"{base}.{name}" if f"{base}.{name}" in known else base)
    return (found & known) - {module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or on a way round: what is left once those that import nothing are taken away,
    and those that nothing imports, again and again."""
    left = {module: set(to) for module, to in graph.items()}
    while True:
        named = set().union(*left.values()) if left else set()
        gone = {module for module, to in left.items() if not to or module not in named}
        if not gone:
            return [[module, *sorted(to)] for module, to in sorted(left.items())]
        left = {module: to - gone for module, to in left.items() if module not in gone}


def graph_of(package: Path) -> dict[str, set[str]]:
    paths = {}
    for path in package.rglob("*.py"):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        module: imported_on_import(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", set(paths))
        for module, path in paths.items()
    }


def test_no_modules_import_each_other() -> None:
    graph = graph_of(ROOT)
    assert "laconic.engines.hf.ledger" in graph["laconic.engines.hf.layer"]
    assert circles(graph) == []


def test_circles_are_found(tmp_path: Path) -> None:
    package = tmp_path / "laconic"
    package.mkdir()
    sources = {
        "__init__": "",
        "a": "from laconic.b import x\nfrom laconic.alone import y",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from laconic import c",
        "c": "import laconic.a",
        "alone": "def f():\n    from laconic.a import x",
        "top": "import laconic.a",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    found = {f"laconic.{name}" for name in "abc"}
    assert {group[0] for group in circles(graph_of(package))} == found
