"""The entry point that vLLM calls in each of its processes. It changes nothing until a launch asks for laconic.

`register` only listens to `EngineArgs.create_engine_config`, by which every front end (the server, `LLM`, `AsyncLLM`) makes
its configuration. One with `{"laconic": {...}}` in its `additional_config` is then checked, gets our scheduler and worker,
and the front end's hooks are put in place. From there on vLLM itself carries the two classes' names to its other processes.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from laconic.engines.vllm.plugin.interrupts import ignore_interrupts
from laconic.errors import InputError, LaconicError


def register() -> None:
    """Called by vLLM (`vllm.general_plugins`); again in the same process it does nothing."""
    ignore_interrupts()
    # A process that makes no configuration (the engine's core, a worker) hasn't loaded this, and needs nothing more from us.
    arguments = sys.modules.get("vllm.engine.arg_utils")
    if arguments is None:
        return
    stock = arguments.EngineArgs.create_engine_config
    if getattr(stock, "by_laconic", False):
        return

    @functools.wraps(stock)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = isinstance(self.additional_config, dict) and "laconic" in self.additional_config
        try:
            if wanted or str(self.scheduler_cls).startswith("laconic."):
                check_arguments(self)
            config = stock(self, *args, **kwargs)
            if wanted:
                configure(config)
        except LaconicError as error:
            if not _is_vllm_command():
                raise
            said = str(error)  # a server's start ends with the sentence alone
            sys.exit(said if said.startswith("laconic") else f"laconic: {said}")
        return config

    create_engine_config.by_laconic = True  # type: ignore[attr-defined]
    arguments.EngineArgs.create_engine_config = create_engine_config


def check_arguments(engine_args: Any) -> None:
    """What can be refused before vLLM looks at the model: its version and its front end, and laconic's own settings, missing
    or wrong."""
    import vllm

    from laconic.engines.vllm.plugin.guards import NO_SETTINGS, check_environment, check_version
    from laconic.engines.vllm.plugin.settings import KEY, parse_launch

    check_version(vllm.__version__)
    check_environment(os.environ)
    given = engine_args.additional_config
    if not isinstance(given, dict) or KEY not in given:
        raise InputError(NO_SETTINGS)
    parse_launch(given[KEY])


def configure(vllm_config: Any) -> None:
    """Check a configuration that asks for laconic, and set what it needs. Raises InputError with one sentence."""
    from laconic.engines.vllm.plugin import frontend, guards
    from laconic.engines.vllm.plugin.launch import ASYNC_SCHEDULER, SCHEDULER, WORKERS
    from laconic.engines.vllm.plugin.model_info import resolve_launch

    guards.check_config(vllm_config)
    guards.check_signatures()
    resolve_launch(vllm_config)
    scheduler, parallel = vllm_config.scheduler_config, vllm_config.parallel_config
    scheduler.scheduler_cls = ASYNC_SCHEDULER if scheduler.async_scheduling else SCHEDULER
    parallel.worker_cls = WORKERS.get(parallel.worker_cls, parallel.worker_cls)
    frontend.install_hooks()


def _is_vllm_command() -> bool:
    """Whether this process is a command of vLLM's, rather than somebody's program that uses it as a library."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", "") or ""
    return name.startswith("vllm.entrypoints.") or sys.argv[0].rpartition("/")[2] == "vllm"
