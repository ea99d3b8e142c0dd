"""vLLM as an engine of laconic's (`laconic.engines.vllm.VLLMEngine`). It may import the plugin, never the other way round."""
