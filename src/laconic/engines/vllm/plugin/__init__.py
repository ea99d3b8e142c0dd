"""The plugin: KV-cache compression inside stock vLLM, however that is started (a server, `LLM`, the engine beside this folder).

vLLM calls `register` in each of its processes, so that nothing heavy may be imported from here.
"""

from laconic.engines.vllm.plugin.registration import register

__all__ = ["register"]
