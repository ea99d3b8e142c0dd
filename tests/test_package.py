"""The package as a whole: what `import laconic` gives, what it costs, and what is pinned."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import laconic

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_resolves() -> None:
    for name in laconic.__all__:
        assert getattr(laconic, name) is not None
    assert set(laconic.__all__) <= set(dir(laconic))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Rpc'"):
        laconic.Rpc  # noqa: B018


def test_import_is_lazy() -> None:
    code = "import sys, laconic; print(sorted({'torch', 'transformers', 'typer', 'rich'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_policies_need_no_transformers() -> None:
    assert run("import sys, laconic; laconic.RPC(); print('transformers' in sys.modules)") == "False"


def test_the_library_needs_nothing_of_the_lab() -> None:
    """Every public name, every module outside of the lab that imports here, and the commands that are no experiments."""
    code = """
import sys, laconic
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == "laconic.lab" or name.startswith("laconic.lab."):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Nothing())
for name in laconic.__all__:
    getattr(laconic, name)
from laconic.cli import main
for arguments in (["solve", "--help"], ["demo", "--help"], ["plan", "bundled"], ["judges"], ["policies"],
                  ["think", "--max-new-tokens", "20"],
                  ["solve", "--strategy", "deepprune", "--n", "4", "--max-new-tokens", "20", "--json"]):
    sys.argv = ["laconic", *arguments]
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, 1), (arguments, end.code)  # 1: no answer in so few tokens
print("done")
"""
    assert run(code).splitlines()[-1] == "done"


@pytest.mark.parametrize(
    "first",
    [
        "import laconic",
        "import laconic.compress.schedule",
        "from laconic.compress import Proportional",
        "import laconic.compress",
        "from laconic import compress",
        "from laconic.engines.base import Engine",
        "from laconic.cli import main",
    ],
)
def test_compress_is_package_and_function_in_any_import_order(first: str) -> None:
    code = f"""
{first}
import laconic, laconic.compress.schedule
from laconic import compress
from laconic.compress.schedule import Proportional
assert laconic.compress is compress and laconic.compress.Proportional is Proportional
assert laconic.compress.schedule.Proportional is Proportional
print(callable(laconic.compress))
"""
    assert run(code) == "True"


def test_calling_the_package_compresses() -> None:
    with pytest.raises(laconic.LaconicError, match="model is a str; expected a transformers PreTrainedModel"):
        laconic.compress("not a model", laconic.RPC())  # type: ignore[arg-type]


def test_the_package_shows_the_functions_signature_and_docstring() -> None:
    code = """
import inspect, pydoc, sys, laconic
assert 'torch' not in sys.modules
from laconic.engines.hf import compress
assert inspect.signature(laconic.compress) == inspect.signature(compress)
shown = pydoc.render_doc(laconic.compress, renderer=pydoc.plaintext)
assert 'laconic.compress(model: ' in shown and 'policy: ' in shown, shown
assert inspect.getdoc(compress).splitlines()[0] in shown
assert 'As a package: KV-cache compression policies' in shown
print('shown')
"""
    assert run(code) == "shown"


def test_what_every_user_needs_is_at_the_top() -> None:
    from laconic import equivalent, extract, load, open_judge

    assert equivalent(extract("so it is \\boxed{4}"), "4.0")
    assert open_judge("jaccard").name == "jaccard"
    assert load.__module__.startswith("laconic.engines.hf")
    assert "VLLMEngine" in dir(laconic)
    assert "VLLMEngine" not in laconic.__all__  # it only resolves where vLLM is installed


@pytest.mark.parametrize("name", ["Random", "Oracle"])
def test_a_name_that_has_moved_says_where_and_works(name: str) -> None:
    with pytest.warns(laconic.LaconicWarning, match=f"laconic.{name} is laconic.compress.{name} now"):
        found = getattr(laconic, name)
    assert found is getattr(laconic.compress, name)
    assert name not in laconic.__all__
    assert name not in dir(laconic)


def test_constraints_pin_every_dependency_that_ci_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = {pin.name.lower().replace("_", "-"): pin for pin in pinned}
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pinned)
    wanted = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    wanted += [Requirement(text) for text in project["optional-dependencies"]["plots"]]
    for requirement in wanted:
        if requirement.name == project["name"]:
            continue
        pin = names[requirement.name.lower()]
        assert Version(str(pin.specifier)[2:]) in requirement.specifier
    # No local version: a pin such as 2.13.0+cpu could not be found on the public index.
    assert str(names["torch"].specifier) == "==2.13.0"


def test_ci_runs_make_test() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
