"""laconic inside stock vLLM: KV-cache compression as a plugin, and vLLM as an engine.

Nothing here changes vLLM by being installed: a launch opts in with `--additional-config '{"laconic": {...}}'`.
"""
