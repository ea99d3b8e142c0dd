"""A launch's settings, found in vLLM's configuration."""

from __future__ import annotations

from typing import Any

from laconic.engines.vllm.plugin.settings import KEY, LaunchSettings, parse_launch

SCHEDULER = "laconic.engines.vllm.plugin.scheduler.CompressionScheduler"
ASYNC_SCHEDULER = "laconic.engines.vllm.plugin.scheduler.AsyncCompressionScheduler"
WORKERS = {
    "vllm.v1.worker.cpu_worker.CPUWorker": "laconic.engines.vllm.plugin.worker_cpu.CompressionCPUWorker",
    "vllm.v1.worker.gpu_worker.Worker": "laconic.engines.vllm.plugin.worker.CompressionWorker",
}
"""The workers that we extend: vLLM's name -> ours."""


# They are asked for at every request, and take milliseconds to read where many policies are named.
_parsed: dict[str, LaunchSettings] = {}
_MOST = 16


def settings_of(vllm_config: Any) -> LaunchSettings | None:
    """The settings that a VllmConfig carries; None: this launch does not ask for laconic."""
    extra = vllm_config.additional_config
    if not isinstance(extra, dict) or KEY not in extra:
        return None
    said = repr(extra[KEY])
    if said not in _parsed:
        if len(_parsed) >= _MOST:
            _parsed.clear()
        _parsed[said] = parse_launch(extra[KEY])
    return _parsed[said]
