"""laconic: reasoning language models, cheaper to run.

The public names are found on first use, so that ``import laconic`` imports neither torch nor transformers.

>>> import laconic
>>> with laconic.compress(model, laconic.RPC(interval=4096, ratio=4, window=32)) as run:  # doctest: +SKIP
...     out = model.generate(**inputs, max_new_tokens=32768)

``laconic.compress`` is the package of the algorithms *and*, called, the context manager above.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from laconic.version import __version__

if TYPE_CHECKING:
    from laconic.answers import equivalent, extract
    from laconic.compress import H2O, RKV, RPC, TOVA, FullKV, KNorm, Policy, SnapKV, StreamingLLM
    from laconic.engines.base import Sampling
    from laconic.engines.hf import HFEngine, compress, load
    from laconic.engines.hf.planning import plan
    from laconic.engines.vllm.engine.engine import VLLMEngine as VLLMEngine
    from laconic.errors import EngineError, InputError, LaconicError, LaconicWarning
    from laconic.judges.registry import open_judge
    from laconic.prune import DeepConf, DeepPrune, PricedVote, SelfConsistency, Verdict

_HOMES = {
    "DeepConf": "laconic.prune",
    "DeepPrune": "laconic.prune",
    "EngineError": "laconic.errors",
    "FullKV": "laconic.compress",
    "H2O": "laconic.compress",
    "HFEngine": "laconic.engines.hf",
    "InputError": "laconic.errors",
    "KNorm": "laconic.compress",
    "LaconicError": "laconic.errors",
    "LaconicWarning": "laconic.errors",
    "Policy": "laconic.compress",
    "PricedVote": "laconic.prune",
    "RKV": "laconic.compress",
    "RPC": "laconic.compress",
    "Sampling": "laconic.engines.base",
    "SelfConsistency": "laconic.prune",
    "SnapKV": "laconic.compress",
    "StreamingLLM": "laconic.compress",
    "TOVA": "laconic.compress",
    "VLLMEngine": "laconic.engines.vllm",
    "Verdict": "laconic.prune",
    "equivalent": "laconic.answers",
    "extract": "laconic.answers",
    "load": "laconic.engines.hf",
    "open_judge": "laconic.judges.registry",
    "plan": "laconic.engines.hf.planning",
}
_MOVED = {"Oracle": "laconic.compress", "Random": "laconic.compress"}
"""Names that were handed out here before: for one release they say where they are now, and work."""

# Without VLLMEngine, which only resolves where vLLM is installed.
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
    "KNorm",
    "LaconicError",
    "LaconicWarning",
    "Policy",
    "PricedVote",
    "Sampling",
    "SelfConsistency",
    "SnapKV",
    "StreamingLLM",
    "Verdict",
    "__version__",
    "compress",
    "equivalent",
    "extract",
    "load",
    "open_judge",
    "plan",
]


class _CallableModule(ModuleType):
    # No docstring: `__doc__` is the property below.

    @property
    def __signature__(self) -> inspect.Signature:
        """The function's, for `inspect.signature(laconic.compress)`."""
        from laconic.engines.hf import compress

        return inspect.signature(compress)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """For `help(laconic.compress)`: the function first, then the package."""
        from laconic.engines.hf import compress

        package = self.__dict__.get("__doc__") or ""
        return f"{self.__name__}{inspect.signature(compress)}\n\n{inspect.getdoc(compress)}\n\nAs a package: {package}"

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
    if name in _MOVED:
        home = _MOVED[name]
        warnings.warn(
            f"laconic.{name} is {home}.{name} now; laconic.{name} goes with the next release",
            importlib.import_module("laconic.errors").LaconicWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'laconic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
