"""The environment that vLLM runs in here has laconic as a plugin, and all that laconic asks for."""

from __future__ import annotations

from importlib.metadata import entry_points, requires, version

from packaging.requirements import Requirement

from laconic.engines.vllm.plugin import register


def test_vllm_finds_laconic() -> None:
    (found,) = entry_points(group="vllm.general_plugins", name="laconic")
    assert found.load() is register


def test_vllm_loads_laconic_unasked() -> None:
    from vllm.plugins import DEFAULT_PLUGINS_GROUP, load_plugins_by_group

    assert load_plugins_by_group(DEFAULT_PLUGINS_GROUP)["laconic"] is register


def test_laconics_own_needs_are_installed() -> None:
    """Everything is installed with --no-deps, so pip wouldn't say that one is missing."""
    needed = [Requirement(text) for text in requires("laconic-llm") or []]
    needed = [
        requirement for requirement in needed if not requirement.marker or requirement.marker.evaluate({"extra": ""})
    ]
    assert len(needed) >= 6
    for requirement in needed:
        assert requirement.specifier.contains(version(requirement.name)), requirement
