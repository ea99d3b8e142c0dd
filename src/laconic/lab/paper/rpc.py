"""The tables of RPC (arXiv 2505.13866) as cells: accuracy of two models, speed and memory of two shapes."""

from __future__ import annotations

from laconic.lab.paper.cells import AccuracyCell, Paper, PaperBenchmark, PaperModel, SpeedCell, SpeedFigures

QWEN_7B = PaperModel("r1-distill-qwen-7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7.6, 0.6, 0.95, 0, 32768)
QWQ = PaperModel("qwq-32b", "Qwen/QwQ-32B", 32.8, 0.6, 0.95, 40, 32768)

AIME24 = PaperBenchmark("aime24", 30, 8)
LIVECODEBENCH = PaperBenchmark(
    "livecodebench",
    279,
    4,
    "lighteval",
    "lcb:codegeneration",
    ("codegen_pass@1:16",),
    drawn=16,
    note="this task is the subset v4_v5 with 16 samples; the paper has 279 problems of v5 and 4 samples",
)
IFEVAL = PaperBenchmark(
    "ifeval",
    541,
    1,
    "lm_eval",
    "ifeval",
    ("prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc"),
    note="which of lm-eval's four scores the paper has is not known",
)

FULL = "full"
RPC_4096 = "rpc:interval=4096,ratio=4,window=32"
RPC_1024 = "rpc:interval=1024,ratio=4,window=32"
RPC_8X = "rpc:interval=4096,ratio=8,window=32"
UNTRAINED = "needs a model trained by its recipe"
# (method, policy, budget as a share of full KV's mean length, why there is no command)
METHODS = (
    ("full", FULL, None, ""),
    ("rpc-4x-p4096", RPC_4096, None, ""),
    ("rpc-4x-p1024", RPC_1024, None, ""),
    ("rpc-8x-p4096", RPC_8X, None, ""),
    ("h2o-4x", "h2o", 0.25, ""),
    ("tova-4x", "tova", 0.25, ""),
    ("lightthinker", "", None, UNTRAINED),
)
# pass@1 in per cent: AIME24, LiveCodeBench, IFEval.
ACCURACY = {
    QWEN_7B: {
        "full": (55.5, 37.6, 55.1),
        "rpc-4x-p4096": (52.9, 35.9, 56.6),
        "rpc-4x-p1024": (50.4, 33.5, 57.3),
        "rpc-8x-p4096": (47.5, 32.8, 55.1),
        "h2o-4x": (42.5, 22.5, 51.8),
        "tova-4x": (42.5, 21.5, 48.8),
        "lightthinker": (6.7, 0.7, 25.1),
    },
    QWQ: {
        "full": (79.5, 63.4, 83.9),
        "rpc-4x-p4096": (78.3, 62.2, 82.6),
        "rpc-4x-p1024": (78.3, 61.2, 81.7),
        "rpc-8x-p4096": (72.1, 57.2, 84.3),
        "h2o-4x": (75.0, 54.2, 74.3),
        "tova-4x": (70.0, 43.8, 50.6),
    },
}

SPEED_SHAPE, PROMPT = "r1-distill-qwen-7b", 128
LENGTHS = (4096, 8192, 16384, 32768)
# By method and batch size: tokens/s and peak GB at each of the lengths; None: out of memory.
SpeedColumns = tuple[tuple[float | None, ...], tuple[float | None, ...]]
SPEED: dict[str, dict[int, SpeedColumns]] = {
    FULL: {
        8: ((402, 369, 330, 257), (19.2, 23.0, 30.5, 45.5)),
        16: ((670, 653, 505, 343), (23.1, 30.6, 45.6, 75.7)),
        32: ((1329, 1032, 672, None), (30.9, 45.9, 76.0, None)),
    },
    RPC_4096: {
        8: ((406, 421, 386, 363), (19.2, 20.1, 22.0, 25.8)),
        16: ((753, 709, 671, 575), (23.1, 25.0, 28.7, 36.2)),
        32: ((1318, 1247, 1064, 883), (30.9, 34.6, 42.1, 57.2)),
    },
    RPC_1024: {
        8: ((448, 428, 407, 385), (17.1, 18.0, 20.3, 24.8)),
        16: ((849, 795, 752, 650), (18.9, 20.7, 25.2, 34.2)),
        32: ((1504, 1500, 1289, 977), (22.4, 26.2, 35.0, 53.1)),
    },
}


def _accuracy() -> list[AccuracyCell]:
    return [
        AccuracyCell(model, benchmark, method, policy, ACCURACY[model][method][place], share, lacks)
        for model in ACCURACY
        for place, benchmark in enumerate((AIME24, LIVECODEBENCH, IFEVAL))
        for method, policy, share, lacks in METHODS
        if method in ACCURACY[model]
    ]


def _speed() -> list[SpeedCell]:
    cells = []
    for batch in (8, 16, 32):
        for place, length in enumerate(LENGTHS):
            figures = {}
            for method, batches in SPEED.items():
                speed, memory = (column[place] for column in batches[batch])
                figures[method] = SpeedFigures(speed, memory, out_of_memory=speed is None)
            cells.append(SpeedCell(SPEED_SHAPE, batch, length, PROMPT, figures))
    # Of QwQ-32B, on four H100, the headline alone.
    cells.append(SpeedCell("qwq-32b", 16, 16384, PROMPT, {FULL: SpeedFigures(), RPC_4096: SpeedFigures(to_full=1.60)}))
    return cells


PAPER = Paper(
    "rpc",
    "RPC (Reasoning Path Compression)",
    "2505.13866",
    (*_accuracy(), *_speed()),
    (
        "H2O and TOVA keep a fixed budget of a quarter of full KV's mean generated length on the benchmark, as published: what "
        "full KV's cell found, or --mean-length.",
        "On AIME24 every command also runs full KV, the baseline of paired differences, unless its directory has it already.",
        "An earlier version of the paper has 45.0 for H2O and 31.7 for TOVA on AIME24, 7B.",
        "Published speed: one H100 for 7B, four for 32B, where the interval of the 1.60x is taken to be 4,096.",
    ),
)
