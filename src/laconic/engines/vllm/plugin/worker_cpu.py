"""The CPU's worker with compression. Apart, because importing vLLM's sets the process up for the CPU."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from laconic.engines.vllm.plugin.worker import CompressionWorkerMixin


class CompressionCPUWorker(CompressionWorkerMixin, CPUWorker):
    """A CPU's worker with compression."""
