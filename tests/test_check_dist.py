"""What would be built: its metadata and its files, without building it; `make dist` builds it and tries it out."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from tools import check_dist
from trove_classifiers import classifiers as known_classifiers

import laconic

ROOT = Path(__file__).parents[1]
NAME = "laconic-llm"


@pytest.fixture(scope="module")
def wheel() -> WheelBuilder:
    return WheelBuilder(str(ROOT))


def paths(builder: WheelBuilder | SdistBuilder) -> list[str]:
    return [file.distribution_path for file in builder.recurse_included_files()]


def test_the_metadata_are_complete(wheel: WheelBuilder) -> None:
    core = wheel.metadata.core
    assert (core.name, wheel.metadata.version) == (NAME, laconic.__version__) == check_dist.name_and_version()
    assert core.license_expression == "Apache-2.0"
    assert core.requires_python == ">=3.11"
    assert core.readme_content_type == "text/markdown"
    assert set(core.classifiers) <= set(known_classifiers)
    # An index refuses a licence told twice, and longer labels.
    assert not [name for name in core.classifiers if name.startswith("License ::")]
    assert all(len(label) <= 32 and url.startswith("https://") for label, url in core.urls.items())


def test_commands_and_plugins_lead_to_what_is_there(wheel: WheelBuilder) -> None:
    core = wheel.metadata.core
    targets = [*core.scripts.values(), *(target for group in core.entry_points.values() for target in group.values())]
    assert len(targets) == 2
    for target in targets:
        module, _, attribute = target.partition(":")
        path = ROOT / "src" / Path(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert re.search(rf"\b{attribute}\b", source.read_text(encoding="utf-8")), target


def test_the_wheel_holds_the_package_and_nothing_else(wheel: WheelBuilder) -> None:
    found = paths(wheel)
    assert check_dist.wheel_problems(found) == []
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "laconic").rglob("*.py")}
    assert sources <= set(found)
    size = sum((ROOT / "src" / path).stat().st_size for path in found)
    assert size / 1e6 < check_dist.MOST_MEGABYTES


def test_the_sdist_holds_what_builds_and_tests_it() -> None:
    found = paths(SdistBuilder(str(ROOT)))
    assert check_dist.missing_in_sdist(found) == []
    assert check_dist.junk_in(found) == []


def test_every_extra_is_named_by_the_name_on_the_index() -> None:
    """What a message tells to install must be an extra of this distribution: "laconic" alone is somebody else's."""
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    said = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    named = re.findall(r"laconic-llm\[([a-z,]+)\]", said)
    assert {extra for names in named for extra in names.split(",")} <= extras
    assert len(named) > 5
    assert re.findall(r"pip install '?laconic(?!-llm)\b|(?<![\w.])laconic\[[a-z,]+\]", said) == []


def test_one_distribution_is_installed_here() -> None:
    """An environment of an earlier name would load vLLM's plugin twice."""
    assert version(NAME) == laconic.__version__
    assert len(entry_points(group="vllm.general_plugins", name="laconic")) == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("laconic/__pycache__/rpc.pyc", "has no place in a wheel"),
        ("laconic/runs/a.json", "has no place in a wheel"),
        ("tests/test_docs.py", "tests would be installed beside laconic"),
        ("laconic_llm-0.1.0.dist-info/METADATA", ""),
    ],
)
def test_what_does_not_belong_into_a_wheel_is_told(path: str, said: str) -> None:
    found = check_dist.wheel_problems([*check_dist.NEEDED_IN_WHEEL, path])
    assert found == ([] if not said else found)
    assert all(said in sentence for sentence in found)
    assert bool(found) == bool(said)


def test_what_is_missing_is_told() -> None:
    assert check_dist.wheel_problems(["laconic/__init__.py"])[0] == "laconic/py.typed is missing"
    assert check_dist.missing_in_sdist(["LICENSE", "tests/test_docs.py"])[0] == "README.md"
    assert "docs" in check_dist.missing_in_sdist(["LICENSE", "tests/test_docs.py"])


def test_wheels_of_other_bytes_are_told_apart() -> None:
    assert check_dist.differing({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3", "c": b""}) == {"b", "c"}
