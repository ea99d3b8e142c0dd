"""Recorded traces played back token by token: an engine without a model."""

from laconic.engines.replay.engine import ReplayEngine
from laconic.engines.replay.records import recorded_sampling

__all__ = ["ReplayEngine", "recorded_sampling"]
