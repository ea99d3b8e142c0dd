"""What the commands share: policies, judges, strategies and sampling from their options, the bundled model's settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.errors import InputError, LaconicError
from laconic.files import check_regular
from laconic.settings import given_keys

if TYPE_CHECKING:
    from laconic.compress import Policy
    from laconic.engines.base import Sampling
    from laconic.prune import Judge, Strategy
    from laconic.prune.calibration import Calibration

BUNDLED = "bundled"
# RPC's published interval is ten times a whole trace of the bundled model. These compress such a trace several times,
# at the published ratio.
SMALL = {"interval": 128, "ratio": 4, "window": 32, "budget": 128}
# Its terse draft is over by then, a tenth of a trace; DeepConf's published window is four times a whole trace.
SMALL_STRATEGY = {"excerpt": "tokens:56", "window": 64}
WARMUP_SHARE = 4  # DeepConf's warm-up: a quarter of the traces, where that is fewer than its own 16
DEFAULT_STRATEGY = "priced-vote:price=0.012,first=4,parallel=4"
"""Four traces at a time: some of the gain at equal cost for a quarter of the rounds (docs/pruning.md has the figures)."""
JUDGED_STRATEGY, BUDGETED_STRATEGY = "deepprune", "auto"
PUBLISHED_JUDGE = "llm:THU-KEG/DeepPrune-Judge-4B"
PUBLISHED = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 32768}


def is_bundled(model: str | None) -> bool:
    """Whether ``--model`` means the reasoner that ships with laconic."""
    return model is None or model == BUNDLED


def one_thread() -> None:
    """For the bundled model, unless OMP_NUM_THREADS says otherwise: its matrices are too small to share, and where another
    process wants the same cores, threads that wait for each other at every step cost most of the speed."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


def model_path(model: str | None) -> str:
    """The directory, GGUF file or Hub name behind ``--model``; nothing or ``bundled`` is the bundled reasoner."""
    if not is_bundled(model):
        return str(model)
    from laconic.assets import reasoner_path

    return os.fspath(reasoner_path())


def choose_policy(spec: str, small: bool, **options: Any) -> Policy:
    """The policy of ``--policy`` (none is full KV) and of the options beside it (None: not given).

    small: what neither of them says comes from SMALL where the policy has that setting, instead of from the policy's
    own published defaults; a buffer or window stays the policy's own part of its budget, but never above SMALL's
    interval. Raises InputError for an unknown policy or setting, a value out of range, a setting given twice, a selector's file
    that is none, or a policy that would have to know what will be generated.
    """
    from laconic.compress import get, parse
    from laconic.compress.shares import SHARE
    from laconic.engines.requests import check_looks_back
    from laconic.selectors import check_named_file

    spec = "full" if spec == "none" else spec
    given = given_keys(spec)
    # The command line reads 4 as 4.0, which would be another policy's name for the same thing.
    exact = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in options.items()}
    overrides = {key: value for key, value in exact.items() if value is not None}
    for key in overrides:
        if key in given:
            raise InputError(f"{key} is given both in --policy {spec} and as --{key}; give it once")
    if small:
        defaults = {field.name: field.default for field in dataclasses.fields(get(spec.partition(":")[0]))}
        wanted = {key: value for key, value in SMALL.items() if key in defaults}
        if "budget" in defaults:
            wanted.pop("window", None)
            buffer = defaults.get("buffer")
            if isinstance(buffer, int) and buffer > SMALL["interval"]:
                wanted["buffer"] = SMALL["interval"]
        if SHARE in given:
            wanted.pop("ratio", None)
        overrides = {key: value for key, value in wanted.items() if key not in given} | overrides
    chosen = parse(spec, **overrides)
    check_looks_back(chosen)
    check_named_file(chosen)
    return chosen


def strategy_or_default(spec: str | None, judged: Mapping[str, object], budgeted: Mapping[str, object]) -> str:
    """The strategy of ``--strategy``, else the one that asks a judge where one of `judged` was given, else the one that has a
    budget where one of `budgeted` was, else DEFAULT_STRATEGY. Both: what only that strategy has, by option; None: not given."""
    if spec is not None:
        return spec
    if any(value is not None for value in judged.values()):
        return JUDGED_STRATEGY
    return DEFAULT_STRATEGY if all(value is None for value in budgeted.values()) else BUDGETED_STRATEGY


def choose_calibration(path: Path | None, strategy: str, reasoner: Any = None) -> Calibration | None:
    """What `auto` chooses by: ``--calibration``, else what was made of the reasoner's weights, else what ships. None where the
    strategy has no use for one.

    reasoner: None before it is loaded; then what is wrong with the file is refused. Raises InputError as `read_calibration`,
    for one that the strategy has no use for, and for one of other weights.
    """
    from laconic.calibrations import DEFAULT, find_calibration, read_calibration
    from laconic.prune.strategies.registry import needs_calibration

    if not needs_calibration(strategy):
        if path is not None:
            raise InputError(f"strategy {strategy} chooses by no calibration; leave --calibration {path} out")
        return None
    found = None if path is None else read_calibration(path)
    if reasoner is None:
        return found
    mine, dtype = reasoner.identity()
    if found is None:
        return read_calibration(find_calibration(mine) or DEFAULT)
    if found.weights != mine:
        raise InputError(
            f"{path} was made of {found.model} (fingerprint {found.weights}), and this model is another, or in another number "
            f"format ({mine}, {dtype}); make one with: laconic calibrate, on traces of this model, or leave --calibration out"
        )
    return found


def choose_judge(spec: str | None, strategy: str, small: bool) -> str | None:
    """The judge of ``--judge``, else the bundled model's own or the published one; None where the strategy asks none.

    Raises InputError for a judge that nobody asks, or an unknown judge or strategy.
    """
    from laconic.judges.registry import split
    from laconic.prune.strategies.registry import needs_judge

    if not needs_judge(strategy):
        if spec is not None:
            raise InputError(f"strategy {strategy} asks no judge; leave --judge {spec} out")
        return None
    chosen = spec if spec is not None else BUNDLED if small else PUBLISHED_JUDGE
    split(chosen)
    return chosen


def choose_strategy(
    spec: str, n: int, judge: Judge | None, small: bool, calibration: Calibration | None = None, **options: Any
) -> Strategy:
    """The strategy of ``--strategy`` and of the options beside it (by the setting's name; None: not given).

    small: what neither of them says comes from SMALL_STRATEGY where the strategy has that setting, or from what it has for
    short traces; a judge that was made for an excerpt gets that one. calibration: for `auto`; None: the one that ships.
    Raises InputError for an unknown strategy or setting, a value out of range, a setting given twice, or an excerpt that the
    judge was not made for.
    """
    from laconic.calibrations import DEFAULT, read_calibration
    from laconic.prune.strategies.registry import (
        has_warmup_traces,
        needs_calibration,
        parse,
        settings,
        settings_for_short,
    )

    given = given_keys(spec)
    overrides = {key: value for key, value in options.items() if value is not None}
    for key in overrides:
        if key in given:
            raise InputError(f"{key} is given both in --strategy {spec} and by an option; give it once")
    wanted: dict[str, Any] = dict(SMALL_STRATEGY) if small else {}
    if judge is not None and judge.excerpt is not None:
        wanted.pop("excerpt", None)
    defaults = {setting.field: setting.default for setting in settings(spec)}
    if small:
        wanted |= settings_for_short(spec)
    if has_warmup_traces(spec) and n >= 1:
        wanted["warmup"] = min(int(defaults["warmup"]), max(1, n // WARMUP_SHARE))
    own = {key: value for key, value in wanted.items() if key in defaults and key not in given}
    if calibration is None and needs_calibration(spec):
        calibration = read_calibration(DEFAULT)
    return parse(spec, n, judge, calibration, **own | overrides)


def choose_sampling(model: Any, **options: Any) -> Sampling:
    """Options (None: not given), then what the model's own generation_config says, then what the paper used.

    An engine clips ``max_new_tokens`` to the model's context. Raises InputError for a value out of range, a
    generation_config's too, which is then named: it is a file that anyone may have written.
    """
    from laconic.engines.base import Sampling

    own = getattr(model, "generation_config", None)
    chosen: dict[str, Any] = dict(PUBLISHED)
    keys = (
        ("max_new_tokens", "temperature", "top_p", "top_k") if getattr(own, "do_sample", False) else ("max_new_tokens",)
    )
    for key in keys:
        value = getattr(own, key, None)
        if value is None or options.get(key) is not None:
            continue
        try:
            Sampling(**PUBLISHED | {key: value})
        except LaconicError as error:
            option = "--" + key.replace("_", "-")
            raise InputError(f"in the model's generation_config {error}; mend it, or give {option}") from error
        chosen[key] = value
    return Sampling(**chosen | {key: value for key, value in options.items() if value is not None})


def check_writable(path: Path, what: str) -> None:
    """Refuse a file that can't be written before minutes of decoding, not after; missing directories are made.

    what: what it is for, in the message.
    """
    check_regular(path, what)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise InputError(f"{path} can't be written; name a file where you may write")
