"""Wrong calls of every kind on every public name: each is refused with one sentence that names the argument.

A new public name needs an entry in CALLS (or a reason in EXEMPT), and every parameter of an entry a kind of wrong values: so
nothing public comes in unchecked. What the sentences say in detail is tested beside each module.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch

import laconic
import laconic.compress as compress  # mypy takes `from laconic import compress` for the function alone
from laconic import prune, traces
from laconic.answers import equivalent, extract, group_equivalent
from laconic.compress.select import select
from laconic.engines import base, chat, hf
from laconic.engines.hf import shapes
from laconic.engines.replay import ReplayEngine
from laconic.engines.vllm.engine.starting import start
from laconic.engines.vllm.plugin import settings as vllm_settings
from laconic.errors import LaconicError
from laconic.judges import adapters, baselines, probe, prompts, registry
from laconic.lab.accuracy.run import run_accuracy
from laconic.lab.analyze import entropy, redundancy
from laconic.lab.analyze import run as analysis
from laconic.lab.analyze.reading import WrittenTrace
from laconic.lab.fidelity import contenders as fidelity_rows
from laconic.lab.fidelity.run import run_fidelity
from laconic.lab.fidelity.traces import ForcedTrace
from laconic.lab.judges import losses, training
from laconic.lab.shared import policies as compared
from laconic.lab.throughput import decoding
from laconic.lab.throughput import run as throughput
from laconic.lab.vllm import load as vllm_load
from laconic.problems import Problem, generate, is_correct, sources
from laconic.prune import excerpts, voting
from tests.engines.hf.families import family
from tests.prune.scripted import Script, ScriptedEngine
from tests.prune.test_calibration import calibration
from tests.reference.selectors import random_selector

# ---- kinds of wrong values: what a careless caller passes ---------------------------------------------------------------

WHOLE = (None, "3", 2.5, True, math.nan, math.inf, [1], 10**20, -(10**20), torch.tensor(2))
NUMBER = (None, "x", True, math.nan, math.inf, -math.inf, [1.0], 10**400)
WORD: tuple[Any, ...] = (None, 5, "no such word", [], b"x")
TEXT = (None, 5, b"x", ["x"])
FLAG = (None, 1, "yes")
WHOLES = (None, 5, "ab", [1.5], [None], [-(10**30)], {"a": 1}, torch.tensor(3))
TEXTS = (None, 5, "ab", [1], {"a": 1})
OBJECT: tuple[Any, ...] = (5, "x", [], {}, object)
FUNCTION: tuple[Any, ...] = (5, "x", [])
PATH: tuple[Any, ...] = (None, 5, b"x", "", [], "a\0b")
TENSOR = (None, 5, "x", [1.0])


def optional(kind: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same, where None means something."""
    return tuple(value for value in kind if value is not None)


# ---- what is called, rightly and wrongly --------------------------------------------------------------------------------


@dataclass
class Call:
    """call: with `good` it works. wrong: kinds of wrong values by parameter. said: how a sentence calls a parameter, where it
    isn't its name. runs: whether the right call is made, too. free: parameters that take anything, or are another's affair."""

    call: Callable[..., Any]
    good: Callable[[], dict[str, Any]] = dict
    wrong: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    runs: bool = True
    free: tuple[str, ...] = ()


@cache
def model() -> Any:
    return family("llama")


class Tokenizer:
    chat_template = None
    eos_token_id = None

    def __call__(self, text: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": [1 + len(word) % 50 for word in text.split()]}

    def decode(self, ids: list[int], **settings: Any) -> str:
        return " ".join(map(str, ids))


def engine() -> Any:
    """An engine with a trace that has ended."""
    made = hf.HFEngine(model(), Tokenizer(), compress.FullKV())  # type: ignore[arg-type]
    made.generate([[1, 2]], base.Sampling(max_new_tokens=3, temperature=0))
    return made


def method(name: str) -> Callable[..., Any]:
    """A method of an engine, called on a fresh one."""

    def call(**arguments: Any) -> Any:
        return getattr(engine(), name)(**arguments)

    call.__signature__ = inspect.signature(getattr(hf.HFEngine, name))  # type: ignore[attr-defined]
    return call


def record() -> traces.TraceRecord:
    drawn = {"policy": "full", "temperature": 0.6, "top_p": 0.95, "top_k": 0}
    return traces.TraceRecord("p", "q", "1", 0, 0, 0, drawn, (1, 2), (3, 4), "3 4", None, False, "length")


def evidence() -> compress.Evidence:
    return compress.Evidence(None, torch.zeros(1, 1, 4, 2), 1.0, None, torch.arange(3).view(1, 1, 3))


def selector() -> dict[str, Any]:
    """The parts of one."""
    made = random_selector()
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def excerpt() -> dict[str, Any]:
    return {"trace_id": "a", "kind": "tokens:2", "question": "q", "prompt_ids": (1,), "token_ids": (2, 3), "text": "x"}


def strategy(cls: type) -> Callable[..., Any]:
    def call(engine: Any, question: Any, sampling: Any) -> Any:
        mine: dict[str, Any] = {}
        if cls in (prune.DeepPrune, prune.JudgedVote):
            mine["judge"] = baselines.TokenJaccard()
        mine |= {"calibration": calibration()} if cls is prune.Auto else {}
        return cls(2, **mine).solve(engine, question, sampling)

    return call


def problems() -> list[Problem]:
    return [Problem("a", "What?", "1")]


def sampling() -> base.Sampling:
    return base.Sampling(max_new_tokens=3)


SHARE = {"compression_ratio": ("x", True, math.nan, math.inf, [0.5], 10**400, -0.5, 1, 4)}
RPC = {"interval": WHOLE, "ratio": NUMBER, "window": WHOLE}
FIXED = {"budget": WHOLE, "buffer": WHOLE}
PLAN = {"names": TEXTS, "ratios": (None, 5, ["x"], [True], [math.nan], [0]), "interval": WHOLE, "window": WHOLE}
SOLVE = {"engine": OBJECT, "question": TEXT, "sampling": OBJECT}


def solving(cls: type) -> Call:
    script = [Script(3, "1"), Script(3, "1")]
    good = {"question": "What?", "sampling": base.Sampling(max_new_tokens=100, temperature=1.0, confidence_top_k=1)}
    return Call(strategy(cls), lambda: {"engine": ScriptedEngine(script), **good}, SOLVE, runs=False)


CALLS: dict[str, Call] = {
    # ---- compression
    "compress.FullKV": Call(compress.FullKV),
    "compress.RPC": Call(
        compress.RPC, lambda: {"kernel": 7}, {**RPC, **SHARE, "pooling": WORD, "kernel": WHOLE, "aggregation": WORD}
    ),
    "compress.H2O": Call(compress.H2O, dict, {**FIXED, **SHARE, "window": optional(WHOLE), "aggregation": WORD}),
    "compress.SnapKV": Call(
        compress.SnapKV,
        dict,
        {**FIXED, **SHARE, "window": WHOLE, "pooling": WORD, "kernel": WHOLE, "aggregation": WORD},
        said={"window": ""},  # the scorer reads as many queries, and may be the first to say so
    ),
    "compress.KNorm": Call(compress.KNorm, dict, {**FIXED, **SHARE, "window": WHOLE, "aggregation": WORD}),
    "compress.ShortKeys": Call(compress.ShortKeys, dict, {"aggregation": WORD}),
    "compress.TOVA": Call(compress.TOVA, dict, {**FIXED, **SHARE, "aggregation": WORD}),
    "compress.StreamingLLM": Call(compress.StreamingLLM, dict, {**FIXED, **SHARE, "sinks": WHOLE}),
    "compress.RKV": Call(
        compress.RKV,
        dict,
        {**FIXED, **SHARE, "window": WHOLE, "lam": NUMBER, "kernel": WHOLE, "threshold": NUMBER, "aggregation": WORD},
        said={"window": ""},  # the scorer reads as many queries, and may be the first to say so
    ),
    **{
        f"compress.{cls.__name__}": Call(cls, dict, {**RPC, **SHARE, "seed": WHOLE, "aggregation": WORD})
        for cls in (compress.Random, compress.RandomAttention)
    },
    "compress.Hindsight": Call(compress.Hindsight, dict, {**RPC, **SHARE, "aggregation": WORD}),
    "compress.FutureAttention": Call(compress.FutureAttention, dict, {"aggregation": WORD}),
    "compress.ExpectedAttention": Call(
        compress.ExpectedAttention, dict, {**RPC, **SHARE, "queries": WHOLE, "future": WHOLE, "aggregation": WORD}
    ),
    "compress.ExpectedAttentionScore": Call(
        compress.ExpectedAttentionScore,
        dict,
        {"rotation": OBJECT, "queries": WHOLE, "future": WHOLE, "aggregation": WORD},
    ),
    "compress.KVzap": Call(compress.KVzap, dict, {**RPC, **SHARE, "weights": optional(PATH)}),
    "compress.LightThinker": Call(compress.LightThinker),
    "compress.ThoughtTokens": Call(
        compress.ThoughtTokens,
        lambda: {"splitter": 1, "cache": (2, 3), "go_on": 4},
        {"splitter": WHOLE, "cache": (*WHOLES, (), (2, 2)), "go_on": WHOLE},
        {"go_on": "continue"},
    ),
    "compress.KVzapScore": Call(compress.KVzapScore, dict, {"networks": OBJECT}),
    "compress.KVzapNetworks": Call(
        compress.KVzapNetworks,
        lambda: {"layers": ((torch.zeros(2, 3), torch.zeros(2)),)},
        {"layers": (None, *OBJECT, [5], ((torch.zeros(2), torch.zeros(2)),))},
        {"layers": "KVzap"},
    ),
    "compress.VaSE": Call(
        compress.VaSE,
        dict,
        {**RPC, **SHARE, "seed": WHOLE, "protected": (*NUMBER, -1, 2), "kernel": WHOLE, "aggregation": WORD},
    ),
    "compress.Learned": Call(compress.Learned, dict, {**RPC, **SHARE, "file": optional(PATH), "fading": (*NUMBER, -1)}),
    "compress.LearnedScore": Call(compress.LearnedScore, dict, {"selector": OBJECT, "fading": (*NUMBER, -1)}),
    "compress.Rotation": Call(
        compress.Rotation,
        lambda: {"frequencies": torch.ones(2)},
        {"frequencies": (*TENSOR, torch.ones(2, 2), torch.ones(0), torch.tensor([1])), "halves": FLAG},
    ),
    "compress.Selector": Call(
        compress.Selector,
        selector,
        {
            "features": (None, 5, "ab", [], [5], ["no such word"]),
            "layers": (*WHOLES, [], [2, 1, 0]),
            **dict.fromkeys(("kv_heads", "head_size"), (*WHOLE, 0)),
            "per_head": FLAG,
            "rotation": optional(OBJECT),
            "weights": (None, 5, "x", [], {}, {"mean": 5}),
            "fingerprint": TEXT,
            "recipe": (None, 5, "x", []),
        },
    ),
    "compress.Oracle": Call(compress.Oracle, lambda: {"keep": torch.abs}, {**RPC, **SHARE, "keep": (None, *FUNCTION)}),
    "compress.Custom": Call(
        compress.Custom,
        lambda: {"schedule": compress.Fixed(), "scorer": compress.Recency()},
        {"schedule": (None, *OBJECT), "scorer": (None, *OBJECT)},
    ),
    "compress.Fixed": Call(compress.Fixed, dict, {**FIXED, "window": WHOLE}),
    "compress.Proportional": Call(compress.Proportional, dict, RPC),
    "compress.Never": Call(compress.Never),
    "compress.WindowAttention": Call(
        compress.WindowAttention, dict, {"queries": WHOLE, "pooling": WORD, "kernel": WHOLE, "aggregation": WORD}
    ),
    "compress.AccumulatedAttention": Call(compress.AccumulatedAttention, dict, {"aggregation": WORD}),
    "compress.NewestQuery": Call(compress.NewestQuery, dict, {"aggregation": WORD}),
    "compress.Recency": Call(compress.Recency, dict, {"sinks": WHOLE}),
    "compress.RandomScore": Call(compress.RandomScore, dict, {"seed": WHOLE, "aggregation": WORD, "redraw": FLAG}),
    "compress.WeightedDraw": Call(
        compress.WeightedDraw,
        dict,
        {"queries": WHOLE, "seed": WHOLE, "protected": (*NUMBER, -1, 2), "kernel": WHOLE, "aggregation": WORD},
    ),
    "compress.OracleScore": Call(compress.OracleScore, lambda: {"keep": torch.abs}, {"keep": (None, *FUNCTION)}),
    "compress.Redundancy": Call(
        compress.Redundancy,
        dict,
        {"queries": WHOLE, "lam": NUMBER, "kernel": WHOLE, "threshold": NUMBER, "aggregation": WORD},
    ),
    "compress.get": Call(compress.get, lambda: {"name": "rpc"}, {"name": WORD}, said={"name": "policy"}),
    "compress.settings_of": Call(compress.settings_of, lambda: {"name": "rpc"}, {"name": WORD}, {"name": "policy"}),
    "compress.parse": Call(
        compress.parse, lambda: {"spec": "rpc"}, {"spec": WORD}, {"spec": "policy"}, free=("overrides",)
    ),
    "compress.register": Call(
        compress.register, lambda: {"policy": compress.RPC}, {"policy": (None, *OBJECT)}, {"policy": "registered"}
    ),
    "compress.with_budget": Call(
        compress.with_budget,
        lambda: {"policy": compress.H2O(), "budget": 8},
        {"policy": (None, *OBJECT), "budget": WHOLE},
    ),
    "select": Call(
        select,
        lambda: {"scores": torch.zeros(1, 1, 3), "keep": 2},
        {
            "scores": (*TENSOR, torch.zeros(3)),
            "keep": (None, "x", 2.5, True, 10**20, -1, torch.tensor([1, 2]), torch.tensor([1.5])),
            "valid": (5, "x", [True], torch.ones(2, 3, dtype=torch.bool), torch.ones(1, 3)),
        },
        free=("check",),
    ),
    "Schedule.peak": Call(
        compress.Proportional().peak, lambda: {"generated": 9}, {"generated": WHOLE[:-3], "prompt": WHOLE[:-3]}
    ),
    "Schedule.mean": Call(
        compress.Fixed().mean, lambda: {"generated": 9}, {"generated": WHOLE[:-3], "prompt": WHOLE[:-3]}
    ),
    "Schedule.physical": Call(
        compress.Never().physical, lambda: {"generated": 9}, {"generated": WHOLE[:-3], "prompt": WHOLE[:-3]}
    ),
    "Schedule.total": Call(
        compress.Never().total, lambda: {"generated": 9}, {"generated": WHOLE[:-3], "prompt": WHOLE[:-3]}
    ),
    "Schedule.compression_points": Call(
        compress.Fixed().compression_points, lambda: {"generated": 9}, {"generated": WHOLE[:-3]}
    ),
    "Schedule.spans": Call(compress.Fixed().spans, lambda: {"generated": 9}, {"generated": WHOLE[:-3]}),
    # ---- pruning
    "prune.SelfConsistency": Call(
        prune.SelfConsistency,
        lambda: {"n": 4},
        {**dict.fromkeys(("n", "top_k"), WHOLE), "early_end": FLAG, "ties": WORD},
    ),
    "prune.DeepConf": Call(
        prune.DeepConf,
        lambda: {"n": 4},
        {
            **dict.fromkeys(("n", "warmup", "window", "top_k", "quorum", "parallel"), WHOLE),
            "mode": WORD,
            "threshold": NUMBER,
        },
    ),
    "prune.DynasorCoT": Call(
        prune.DynasorCoT,
        lambda: {"n": 4},
        {
            **dict.fromkeys(("n", "m", "k", "tokens"), WHOLE),
            "suffix": optional((*TEXT, "no brace")),
            "early_end": FLAG,
        },
    ),
    "prune.StepLike": Call(
        prune.StepLike,
        lambda: {"n": 4, "kv": 100},
        {
            **dict.fromkeys(("n", "window", "top_k"), WHOLE),
            "kv": optional((*WHOLE, 0)),
            "vote": WORD,
        },
    ),
    "prune.ParallelProbe": Call(
        prune.ParallelProbe,
        lambda: {"n": 4},
        {
            **dict.fromkeys(("n", "interval", "warmup", "patience", "stable", "tokens"), WHOLE),
            "suffix": optional((*TEXT, "no brace")),
        },
    ),
    "prune.PricedVote": Call(
        prune.PricedVote,
        lambda: {"n": 4},
        {**dict.fromkeys(("n", "first", "parallel", "top_k"), WHOLE), "ties": WORD, "price": NUMBER},
    ),
    "prune.AdaptiveConsistency": Call(
        prune.AdaptiveConsistency,
        lambda: {"n": 4},
        {**dict.fromkeys(("n", "wave", "top_k"), WHOLE), "ties": WORD, "threshold": (*NUMBER, 0.4)},
    ),
    "prune.Auto": Call(
        prune.Auto,
        lambda: {"n": 4, "calibration": calibration()},
        {"n": WHOLE, "calibration": (None, *OBJECT), "spend": (None, 5, b"x", "", "x", "0x", "0.5x", "nanx")},
        said={"spend": ""},
    ),
    "prune.CalibratedRow": Call(
        prune.CalibratedRow,
        lambda: {"strategy": "self-consistency", "n": 1, "traces": 1.0, "accuracy": 0.5},
        {
            "strategy": (None, 5, b"x"),
            "n": WHOLE,
            **dict.fromkeys(("traces", "accuracy"), NUMBER),
            **dict.fromkeys(("gain", "low", "high"), ("x", True, math.nan, 2, -2)),
        },
    ),
    "prune.Calibration": Call(
        prune.Calibration,
        lambda: {name: getattr(calibration(), name) for name in calibration().__dataclass_fields__},
        {
            **dict.fromkeys(("model", "weights"), (None, 5, b"x")),
            **dict.fromkeys(("problems", "samples"), WHOLE),
            "mean_tokens": NUMBER,
            "rows": (5, "x", [5], []),
        },
        said={"rows": ""},
    ),
    "prune.PoolBudget": Call(
        prune.PoolBudget,
        lambda: {"traces": 4},
        {"tokens": optional(WHOLE), "traces": optional((*NUMBER, 0.5)), "seconds": optional((*NUMBER, 0))},
        said={"tokens": "", "seconds": ""},
    ),
    "prune.KnownTrace": Call(
        prune.KnownTrace,
        lambda: {"index": 1, "answer": "5", "tokens": 7},
        {**dict.fromkeys(("index", "tokens"), WHOLE), "answer": (5, [], b"x"), "confidence": NUMBER},
    ),
    "prune.Pool": Call(
        prune.Pool,
        lambda: {"n": 4, "budget": prune.PoolBudget(traces=4)},
        {**dict.fromkeys(("n", "first", "parallel", "top_k"), WHOLE), "budget": (None, *OBJECT), "ties": WORD},
    ),
    "Pool.begin": Call(
        prune.Pool(2, prune.PoolBudget(traces=2), ties="index").begin,
        lambda: {"engine": ScriptedEngine([]), "questions": ["a"], "samplings": [base.Sampling()]},
        {
            "engine": (None, *OBJECT),
            "questions": (*TEXTS, []),
            "samplings": ([5], [None]),
            "known": (5, "x", [], {5: []}, {0: [5]}),
        },
        {"samplings": "sampling"},
    ),
    "prune.DeepPrune": Call(
        prune.DeepPrune,
        lambda: {"n": 4, "judge": baselines.TokenJaccard()},
        {
            **dict.fromkeys(("n", "K", "K1", "seed"), WHOLE),
            **dict.fromkeys(("K2", "K3"), optional(WHOLE)),
            **dict.fromkeys(("similarity", "vote", "finish"), WORD),
            "judge": (None, *OBJECT, baselines.TokenJaccard),
            "tau": NUMBER,
            "excerpt": optional(WORD),
            "early_end": FLAG,
        },
    ),
    "prune.JudgedVote": Call(
        prune.JudgedVote,
        lambda: {"n": 4, "judge": baselines.TokenJaccard()},
        {
            **dict.fromkeys(("n", "first", "top_k"), WHOLE),
            **dict.fromkeys(("price", "tau"), NUMBER),
            **dict.fromkeys(("tpr", "fpr"), optional(NUMBER)),
            "judge": (None, *OBJECT, baselines.TokenJaccard),
            "ties": WORD,
            "excerpt": optional(WORD),
        },
    ),
    "prune.Clustering": Call(
        prune.Clustering, dict, {"tau": NUMBER, "K": WHOLE, "K1": WHOLE, "seed": WHOLE, "similarity": WORD}
    ),
    "prune.Clustering.query": Call(prune.Clustering().query, lambda: {"newcomer": 3}, {"newcomer": WHOLE[:-3]}),
    "prune.Clustering.of": Call(
        prune.Clustering().of, dict, {"member": (3, None, "x")}, {"member": "placed"}, runs=False
    ),
    "prune.Needs": Call(
        prune.Needs,
        dict,
        {
            "state_tokens": WHOLE,
            "state_layers": (*optional(WHOLES), []),
            "probe": FLAG,
            "kept": FLAG,
            "confidence_top_k": WHOLE,
            "token_ids": FLAG,
        },
    ),
    "prune.Excerpt": Call(
        prune.Excerpt,
        excerpt,
        {
            **dict.fromkeys(("trace_id", "kind", "question", "text"), TEXT),
            **dict.fromkeys(("prompt_ids", "token_ids"), WHOLES),
            "complete": FLAG,
            "answer": optional(TEXT),
        },
    ),
    "prune.parse": Call(
        prune.parse,
        lambda: {"spec": "deepconf", "n": 4},
        {"spec": WORD, "n": WHOLE, "judge": (), "calibration": ()},
        {"spec": "strategy"},
        free=("overrides",),
    ),
    "SelfConsistency.solve": solving(prune.SelfConsistency),
    "PricedVote.solve": solving(prune.PricedVote),
    "AdaptiveConsistency.solve": solving(prune.AdaptiveConsistency),
    "DeepConf.solve": solving(prune.DeepConf),
    "DeepPrune.solve": solving(prune.DeepPrune),
    "JudgedVote.solve": solving(prune.JudgedVote),
    "DynasorCoT.solve": solving(prune.DynasorCoT),
    "ParallelProbe.solve": solving(prune.ParallelProbe),
    "StepLike.solve": solving(prune.StepLike),
    "excerpts.parse": Call(
        excerpts.parse,
        lambda: {"kind": "words:5"},
        {"kind": WORD, "decode": FUNCTION, "words": optional(TEXTS)},
        {"kind": "excerpt"},
    ),
    "voting.percentile": Call(
        voting.percentile, lambda: {"values": [1.0, 2.0], "share": 0.5}, {"values": ([],), "share": NUMBER}
    ),
    # ---- answers and problems
    "answers.extract": Call(extract, lambda: {"text": "x"}, {"text": TEXT, "thinking": FLAG, "ended": FLAG}),
    "answers.equivalent": Call(
        equivalent,
        lambda: {"a": "1", "b": "1"},
        {"a": optional(TEXT), "b": optional(TEXT)},
        {"a": "answer", "b": "answer"},
    ),
    "answers.group_equivalent": Call(
        group_equivalent, lambda: {"answers": ["1"]}, {"answers": ("ab", [5])}, {"answers": "answer"}
    ),
    "problems.generate": Call(
        generate,
        lambda: {"count": 1},
        {"count": WHOLE, "seed": WHOLE, "level": optional((*WHOLE, 0, 9)), "split": WORD},
    ),
    "problems.Problem": Call(
        Problem,
        lambda: {"id": "a", "question": "b", "answer": "c"},
        {**dict.fromkeys(("id", "question", "answer"), (*TEXT, " ")), "level": WHOLE, "meta": (None, 5, "x", [])},
    ),
    "problems.is_correct": Call(
        is_correct,
        lambda: {"problem": problems()[0], "text": "1"},
        {"problem": (None, *OBJECT), "text": TEXT, "thinking": FLAG, "ended": FLAG},
    ),
    "problems.load_problems": Call(
        sources.load_problems,
        lambda: {"count": 2},
        {
            "source": (*TEXT, "", "no such file"),
            "count": optional((*WHOLE, 0)),
            "seed": WHOLE,
            "level": optional((*WHOLE, 0, 9)),
            "unanswered": FLAG,
        },
        {"source": "", "count": "number of problems"},
    ),
    "problems.from_jsonl": Call(
        sources.from_jsonl, lambda: {"path": "no such file"}, {"path": PATH, "unanswered": FLAG}, runs=False
    ),
    "traces.read_traces": Call(traces.read_traces, dict, {"path": PATH}, runs=False),
    "traces.TraceRecord": Call(
        traces.TraceRecord,
        lambda: {name: getattr(record(), name) for name in record().__slots__},
        {
            **dict.fromkeys(("problem", "question", "gold", "text"), TEXT),
            **dict.fromkeys(("level", "index", "seed"), (None, "3", 2.5, True, math.nan, [1])),
            **dict.fromkeys(("settings", "kv"), (None, 5, "x", [])),
            **dict.fromkeys(("prompt_ids", "token_ids"), (None, 5, "ab", [1.5], [None])),
            "answer": optional(TEXT),
            "correct": FLAG,
            "finish_reason": WORD,
            "confidences": (5, "ab", [math.nan, 0.0], [0.0]),
        },
    ),
    # ---- engines
    "engines.Sampling": Call(
        base.Sampling,
        lambda: {"stop_token_ids": (3,)},
        {
            **dict.fromkeys(("max_new_tokens", "top_k", "seed", "confidence_top_k"), WHOLE),
            "logprobs": optional(WHOLE),
            **dict.fromkeys(("temperature", "top_p"), NUMBER),
            "stop_token_ids": WHOLES,
        },
    ),
    "engines.Chat": Call(
        chat.Chat,
        dict,
        {"system": optional(TEXT), "arguments": (None, 5, "x", {5: 1}, {"a b": 1})},
        {"arguments": "argument"},
    ),
    "hf.load": Call(
        hf.load,
        lambda: {"name_or_path": "./no such place"},
        {"name_or_path": (None, 5, b"x", "", "./no such place"), "dtype": WORD, "device": WORD, "fix_rotation": FLAG},
        {"name_or_path": "model", "dtype": "", "device": ""},
        runs=False,
    ),
    "hf.open_engine": Call(
        hf.open_engine,
        dict,
        {"name_or_path": (None, 5, b"x", ""), "dtype": (), "device": ()},
        {"name_or_path": "model"},
        runs=False,
        free=("settings",),
    ),
    "hf.HFEngine": Call(
        hf.HFEngine,
        lambda: {"model": model(), "tokenizer": None},
        {
            "model": (None, *OBJECT, torch.nn.Linear(2, 2)),
            "tokenizer": (5, "x", []),
            "policy": OBJECT,
            **dict.fromkeys(("max_batch", "chunk_tokens", "record_states"), WHOLE),
            "record_held": FLAG,
            "state_layers": (*optional(WHOLES), [], [99]),
            "chat": OBJECT,
        },
    ),
    "hf.compress": Call(
        hf.compress,
        lambda: {"model": model(), "policy": compress.RPC()},
        {"model": (None, *OBJECT), "policy": (None, *OBJECT, compress.RPC)},
    ),
    "hf.fixed_rotation": Call(
        lambda model: hf.fixed_rotation(model).__enter__(), lambda: {"model": model()}, {"model": (None, *OBJECT)}
    ),
    "laconic.plan": Call(
        laconic.plan,
        lambda: {"model": model().config, "prompt": 8, "length": 64},
        {
            "model": (None, *OBJECT[:1], [], object, "./no such place"),
            "policies": (None, 5, [], [5], "no such policy"),
            **dict.fromkeys(("prompt", "length", "batch", "block_size"), WHOLE),
            "dtype": WORD,
            "memory": optional(WHOLE),
        },
        {"model": "", "policies": "polic"},
    ),
    "Engine.submit": Call(
        method("submit"),
        lambda: {"prompt": [1, 2], "sampling": sampling()},
        {
            "prompt": (5, None, [1.5], [None], [], [-1], [10**30], [95 + 1], {"a": 1}, b"x", [[1]]),
            "sampling": (None, *OBJECT),
            "n": (*WHOLE, 0),
            "ids": (5, "a", [5], ["a", "b"], []),
        },
        {"prompt": ""},
    ),
    "Engine.generate": Call(
        method("generate"),
        lambda: {"prompts": [[1, 2]], "sampling": sampling()},
        {"prompts": (None, 5, "x", [5]), "sampling": (None, *OBJECT), "n": WHOLE},
        {"prompts": "prompt"},
    ),
    **{
        f"Engine.{name}": Call(
            method(name), dict, {"trace_id": ("no such id", None, 5, [])}, {"trace_id": "trace"}, runs=False
        )
        for name in ("trace", "stop", "resume", "kept")
    },
    "Engine.forget": Call(
        method("forget"), lambda: {"trace_ids": []}, {"trace_ids": (*TEXTS, ["no such id"])}, {"trace_ids": "trace"}
    ),
    "Engine.render": Call(
        method("render"), lambda: {"question": "What?"}, {"question": (*TEXT, " ")}, {"question": ""}
    ),
    "Engine.decode": Call(method("decode"), lambda: {"token_ids": [1]}, {"token_ids": WHOLES}),
    "Engine.states": Call(
        method("states"),
        lambda: {"trace_ids": ["p0-0"], "tokens": 2},
        {"trace_ids": (*TEXTS, [], ["no such id"]), "tokens": (*WHOLE, 0)},
        {"trace_ids": "trace"},
    ),
    "Engine.probe": Call(
        method("probe"),
        lambda: {"trace_ids": ["p0-0"], "suffix": "a", "steps": 1},
        {"trace_ids": (*TEXTS, [], ["no such id"]), "suffix": TEXT, "steps": (*WHOLE, 0)},
        {"trace_ids": "trace"},
    ),
    "Engine.probe_texts": Call(
        method("probe_texts"),
        lambda: {"trace_ids": ["p0-0"], "suffix": "a", "max_tokens": 1},
        {
            "trace_ids": (*TEXTS, [], ["no such id"]),
            "suffix": TEXT,
            "max_tokens": (*WHOLE, 0),
            "until_closed": FLAG,
        },
        {"trace_ids": "trace"},
    ),
    "ReplayEngine": Call(
        ReplayEngine,
        lambda: {"records": [record()]},
        {
            "records": (None, 5, "x", [5], []),
            "policy": OBJECT,
            **dict.fromkeys(("max_batch", "chunk_tokens"), WHOLE),
            "model_engine": OBJECT,
            "tokenizer": (5, "x", []),
            "acts_at": WHOLE[1:],
        },
        {"records": "record"},
    ),
    "vllm.start": Call(
        start,
        lambda: {"model": "./no such place"},
        {
            "model": (None, 5, b"x", "", "./no such place"),
            "policy": OBJECT,
            "others": (None, 5, "x", [5], [None], {"a": 1}),
        },
        runs=False,
        free=("max_batch", "dtype", "ahead", "log", "chat", "engine_args"),  # with a model: tests/engines/vllm
    ),
    "vllm.parse_launch": Call(
        vllm_settings.parse_launch,
        lambda: {"raw": {"policy": "rpc"}},
        {"raw": (None, 5, [], {}, {5: 1})},
        {"raw": "laconic's settings"},
    ),
    "vllm.parse_request": Call(
        vllm_settings.parse_request,
        lambda: {"raw": {"policy": "rpc"}, "launch": vllm_settings.parse_launch({"policy": "rpc"})},
        {"raw": (5, [], {5: 1}, {"policy": 5}), "launch": (None, *OBJECT)},
        {"raw": ""},
    ),
    "vllm.LaunchSettings": Call(
        vllm_settings.LaunchSettings,
        lambda: {"policy": compress.RPC(), "queries": 32},
        {"policy": (None, *OBJECT), "queries": WHOLE, "others": (None, 5, "x", [5], [None], {"a": 1})},
    ),
    # ---- judges
    "judges.open_judge": Call(
        registry.open_judge,
        lambda: {"spec": "jaccard"},
        {"spec": WORD, "excerpt": optional(TEXT), "device": TEXT},
        {"spec": "judge"},
        free=("model", "tokenizer", "answers"),
    ),
    "judges.TokenJaccard": Call(baselines.TokenJaccard, dict, {"ngram": (*WHOLE, 0)}),
    "judges.FactOverlap": Call(baselines.FactOverlap, dict, {"decay": (*NUMBER, 0)}),
    "judges.RandomJudge": Call(baselines.RandomJudge, dict, {"p": NUMBER, "seed": WHOLE}),
    "judges.PerfectJudge": Call(baselines.PerfectJudge, lambda: {"answers": {}}, {"answers": (None, 5, "x", [])}),
    "judges.SimulatedJudge": Call(
        baselines.SimulatedJudge,
        lambda: {"answers": {}},
        {"answers": (None, 5, "x", []), "auroc": NUMBER, "shared": NUMBER, "seed": WHOLE},
    ),
    "judges.calibrate": Call(
        baselines.calibrate,
        lambda: {"similarities": [0.1, 0.2], "same": [False, True]},
        {"similarities": (None, 5, "x", ["a"], [math.nan, 0.1], [0.1]), "same": (None, 5, "x", [True]), "fnr": NUMBER},
        {"similarities": "similarities", "same": ""},
    ),
    "judges.ProbeJudge": Call(probe.ProbeJudge, dict, {"suffix": optional(TEXT), "steps": (*WHOLE, 0)}),
    "judges.LLMJudgeSettings": Call(
        prompts.LLMJudgeSettings,
        dict,
        {
            "template": TEXT,
            **dict.fromkeys(("same", "different"), (*TEXT, " ")),
            **dict.fromkeys(("both_orders", "share_prefix"), FLAG),
            "max_tokens": optional(WHOLE),
            "batch_tokens": WHOLE,
            "overlong": WORD,
        },
    ),
    "judges.LoRA": Call(adapters.LoRA, dict, {"rank": WHOLE, "alpha": WHOLE, "dropout": NUMBER}),
    "judges.Loss": Call(losses.Loss, dict, {"focal": FLAG, "alpha": (*NUMBER, 0, 1), "gamma": NUMBER}),
    "judges.TrainSettings": Call(
        training.TrainSettings,
        dict,
        {
            "loss": (None, *OBJECT),
            **dict.fromkeys(("oversample", "epochs", "batch", "micro", "every", "patience", "seed"), WHOLE),
            "by_problem": FLAG,
            **dict.fromkeys(("rate", "warmup", "decay", "clip"), (*NUMBER, -1)),
        },
    ),
    # ---- measuring
    "bench.run_accuracy": Call(
        run_accuracy,
        lambda: {
            "problems": problems(),
            "contenders": compared.compared_policies(["rpc"], [4]),
            "engine_for": lambda policy: None,
        },
        {
            "problems": (None, 5, "x", [], [5]),
            "contenders": (None, 5, "x", [], [5]),
            "engine_for": (None, *FUNCTION),
            "samples": (*WHOLE, 0),
            "sampling": OBJECT,
            "journal": OBJECT,
            "watch": FUNCTION,
            "keep_tokens": FLAG,
        },
        {"contenders": "", "problems": "problems"},
        runs=False,
    ),
    "bench.compared_policies": Call(
        compared.compared_policies,
        lambda: {"names": ["rpc", "h2o"]},
        {**PLAN, "oracle": FUNCTION, "recorded": FLAG},
        {"ratios": "ratio"},
    ),
    "bench.contenders": Call(
        fidelity_rows.contenders,
        lambda: {"names": ["rpc", "h2o"], "ratios": [4], "intervals": [128], "windows": [32]},
        {
            **{"names": TEXTS, "ratios": PLAN["ratios"], "schedule": WORD, "oracle": FUNCTION},
            **dict.fromkeys(("intervals", "windows"), (None, 5, ["x"], [0], [2.5])),
        },
        {"ratios": "ratio", "intervals": "interval", "windows": "window"},
    ),
    "bench.run_fidelity": Call(
        run_fidelity,
        lambda: {
            "model": model(),
            "traces": [ForcedTrace("a", "a", (1,), tuple(range(60)))],
            "rows": fidelity_rows.contenders(["random"], [4], [16], [8]),
        },
        {
            "model": (None, *OBJECT),
            "traces": (None, 5, "x", [], [5]),
            "rows": (None, 5, "x", [], [5]),
            "batch": (*WHOLE, 0),
            "journal": OBJECT,
            "watch": FUNCTION,
        },
        said={"rows": ""},
    ),
    "bench.match_budget": Call(
        compared.match_budget,
        lambda: {"policy": compress.H2O(), "target": compress.Proportional(), "lengths": [9000]},
        {"policy": (), "target": (), "lengths": (*WHOLES, [])},
    ),
    "bench.ngram_entropy": Call(
        entropy.ngram_entropy, lambda: {"token_ids": [1, 2], "n": 1}, {"token_ids": (None, 5), "n": (*WHOLE, 0)}
    ),
    "bench.entropy_by_length": Call(
        entropy.entropy_by_length,
        lambda: {"traces": [[1, 2]], "lengths": [2]},
        {"traces": (None, 5, [5]), "lengths": (*WHOLES, [0]), "orders": (*WHOLES, [0])},
        {"traces": "trace"},
    ),
    "bench.window_spans": Call(
        redundancy.window_spans,
        lambda: {"token_ids": [1, 2], "size": 1},
        {"token_ids": (None, 5), "size": (*WHOLE, 0)},
    ),
    "bench.embedder": Call(redundancy.embedder, dict, {"name": WORD}, {"name": "embedder"}),
    "bench.redundancy": Call(
        redundancy.redundancy,
        lambda: {"spans": [["a", "b"]], "texts": ["a b"]},
        {"embed": FUNCTION, "threshold": NUMBER},
        free=("spans", "texts"),
    ),
    "bench.analyse": Call(
        analysis.analyse,
        lambda: {"traces": [WrittenTrace((1, 2, 3))], "lengths": [2]},
        {
            "traces": (None, [], [5]),
            "lengths": optional(WHOLES),
            "embed": WORD,
            "threshold": NUMBER,
            "span_tokens": optional(WHOLE),
        },
        {"embed": "embedder", "span_tokens": "span size"},
    ),
    "bench.DecodingCase": Call(
        decoding.DecodingCase,
        lambda: {"shape": "tiny-kv", "batch": 1, "prompt": 2, "length": 8},
        {"shape": TEXT, **dict.fromkeys(("batch", "prompt", "length", "steps"), WHOLE), "mode": WORD},
    ),
    "bench.get_shape": Call(shapes.get_shape, lambda: {"name": "tiny-kv"}, {"name": WORD}, {"name": "shape"}),
    "bench.pick_device": Call(shapes.pick_device, lambda: {"name": "cpu"}, {"name": WORD}, {"name": "device"}),
    "bench.resolve_dtype": Call(
        shapes.resolve_dtype,
        lambda: {"name": "float32", "device": torch.device("cpu")},
        {"name": WORD, "device": ()},
        {"name": ""},
    ),
    "bench.ThroughputExperiment": Call(
        throughput.ThroughputExperiment,
        lambda: {
            "cells": [decoding.DecodingCase("tiny-kv", 1, 2, 8)],
            "methods": ["full"],
            "dtype": torch.float32,
            "device": torch.device("cpu"),
        },
        {
            "cells": (None, 5, "x", [], [5]),
            "methods": (*TEXTS, [], ["no such policy"]),
            "dtype": (None, "float32", 5),
            "device": (None, "cpu", 5),
            "repeats": (*WHOLE, 0),
        },
        {"cells": "", "methods": ""},
    ),
    "bench.RequestLoad": Call(
        vllm_load.RequestLoad, dict, dict.fromkeys(("requests", "prompt", "output", "block", "seed"), WHOLE)
    ),
}

# Public names that take nothing from a caller that could be wrong, or that are no one's to call.
EXEMPT = {
    "what the library hands out": (
        "prune.Cost",
        "prune.PlainVote",
        "prune.PoolProblem",
        "prune.PoolProgress",
        "prune.PoolRun",
        "prune.TraceFate",
        "prune.Tokens",
        "prune.Verdict",
        "prune.Vote",
        "compress.Setting",
        "hf.CompressedCache",
        "hf.Compression",
    ),
    "what engines hand to scorers, in every compression of every layer": ("compress.Evidence",),
    "an interface, to be derived from": (
        "compress.Periodic",
        "compress.Policy",
        "compress.Schedule",
        "compress.Scorer",
        "prune.Judge",
        "prune.StrategyRun",
        "prune.TraceEngine",
        "prune.Strategy",
    ),
    "takes no argument": ("compress.known", "compress.broken", "answers.undecided_count"),
    "makes a dataclass's field, for who writes a policy": ("compress.described", "compress.setting"),
    "a type or a constant": ("compress.Aggregation", "problems.LEVELS"),
    "what reads a trace or a text that a model has written; its own tests have wrong input": (
        "answers.MARKERS",
        "answers.ThinkingMarker",
        "answers.answer_of",
        "answers.ends_in_thinking",
        "answers.known_markers",
        "answers.register_marker",
    ),
}

PACKAGES: dict[str, ModuleType] = {
    "compress": compress,
    "prune": prune,
    "answers": laconic.answers,
    "problems": laconic.problems,
    "hf": hf,
}


def wrong_calls() -> Iterator[Any]:
    for name, entry in CALLS.items():
        for parameter, values in entry.wrong.items():
            for value in values:
                shown = type(value).__name__ if isinstance(value, (int, torch.Tensor)) else repr(value)[:30]
                if isinstance(value, int) and abs(value) < 10**6:
                    shown = repr(value)
                yield pytest.param(name, parameter, value, id=f"{name}({parameter}={shown})")


@pytest.mark.parametrize(("name", "parameter", "value"), wrong_calls())
def test_a_wrong_argument_is_one_sentence_that_names_it(name: str, parameter: str, value: Any) -> None:
    entry = CALLS[name]
    arguments = entry.good() | {parameter: value}
    with pytest.raises(LaconicError) as caught:
        entry.call(**arguments)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    assert entry.said.get(parameter, parameter) in said


@pytest.mark.parametrize("name", [name for name, entry in CALLS.items() if entry.runs])
def test_a_right_call_works_with_numpys_numbers_too(name: str) -> None:
    entry = CALLS[name]
    arguments = entry.good()
    entry.call(**arguments)
    defaults = {key: p.default for key, p in inspect.signature(entry.call).parameters.items()}
    for parameter, kind in entry.wrong.items():
        value = arguments.get(parameter, defaults[parameter])
        if type(value) is int and kind[:3] == WHOLE[:3] and value is not None:
            made = entry.call(**entry.good() | {parameter: numpy.int64(value)})
            assert not is_dataclass(made) or type(getattr(made, parameter)) is int


@pytest.mark.parametrize("name", CALLS)
def test_every_parameter_has_a_wrong_value(name: str) -> None:
    entry = CALLS[name]
    parameters = set(inspect.signature(entry.call).parameters) - {"self"}
    assert parameters == set(entry.wrong) | set(entry.free)


def test_every_public_name_is_called_wrongly_or_excused() -> None:
    public = {f"{name}.{each}" for name, package in PACKAGES.items() for each in package.__all__}
    # What `laconic` itself hands out is of those packages, but for these.
    elsewhere = {name for name, home in laconic._HOMES.items() if not any(f".{name}" in each for each in public)}
    errors = {"EngineError", "InputError", "LaconicError", "LaconicWarning"}
    assert elsewhere == errors | {"Sampling", "VLLMEngine", "open_judge", "plan"}
    assert {"engines.Sampling", "judges.open_judge", "laconic.plan"} <= set(CALLS)
    excused = {name for names in EXEMPT.values() for name in names}
    assert public - excused - set(CALLS) == set()
    assert excused <= public
    assert not excused & set(CALLS)
