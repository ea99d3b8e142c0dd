"""laconic: reasoning language models, cheaper to run.

The public names are found on first use, so that ``import laconic`` imports neither torch nor transformers.

>>> import laconic
>>> with laconic.compress(model, laconic.RPC(interval=4096, ratio=4, window=32)) as run:  # doctest: +SKIP
...     out = model.generate(**inputs, max_new_tokens=32768)

``laconic.compress`` is the package of the algorithms *and*, called, the context manager above.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from laconic.version import __version__

if TYPE_CHECKING:
    from laconic.compress import H2O, RKV, RPC, TOVA, FullKV, Oracle, Policy, Random, StreamingLLM
    from laconic.engines.base import Sampling
    from laconic.engines.hf import HFEngine, compress
    from laconic.engines.hf.planning import plan
    from laconic.errors import EngineError, InputError, LaconicError, LaconicWarning
    from laconic.prune import DeepConf, DeepPrune, SelfConsistency, Verdict

_HOMES = {
    "DeepConf": "laconic.prune",
    "DeepPrune": "laconic.prune",
    "EngineError": "laconic.errors",
    "FullKV": "laconic.compress",
    "H2O": "laconic.compress",
    "HFEngine": "laconic.engines.hf",
    "InputError": "laconic.errors",
    "LaconicError": "laconic.errors",
    "LaconicWarning": "laconic.errors",
    "Oracle": "laconic.compress",
    "Policy": "laconic.compress",
    "RKV": "laconic.compress",
    "RPC": "laconic.compress",
    "Random": "laconic.compress",
    "Sampling": "laconic.engines.base",
    "SelfConsistency": "laconic.prune",
    "StreamingLLM": "laconic.compress",
    "TOVA": "laconic.compress",
    "Verdict": "laconic.prune",
    "plan": "laconic.engines.hf.planning",
}

__all__ = [
    "H2O",
    "RKV",
    "RPC",
    "TOVA",
    "DeepConf",
    "DeepPrune",
    "EngineError",
    "FullKV",
    "HFEngine",
    "InputError",
    "LaconicError",
    "LaconicWarning",
    "Oracle",
    "Policy",
    "Random",
    "Sampling",
    "SelfConsistency",
    "StreamingLLM",
    "Verdict",
    "__version__",
    "compress",
    "plan",
]


class _CallableModule(ModuleType):
    """The package ``laconic.compress``, which can also be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from laconic.engines.hf import compress

        return compress(*args, **kwargs)


# Whichever submodule is imported first, this module runs before it, so the package is callable from the start, and the
# algorithms need not know of an engine. Importing it costs nothing: its own names load on first use too.
importlib.import_module("laconic.compress").__class__ = _CallableModule


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'laconic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
