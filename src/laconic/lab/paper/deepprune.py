"""The tables of DeepPrune (arXiv 2510.08483) as cells: three reasoners' votes, and the judge by itself."""

from __future__ import annotations

from laconic.lab.paper.cells import JudgeCell, Paper, PaperBenchmark, PaperModel, TracesCell, VotesCell, VotesFigures

QWEN3_8B = PaperModel("r1-0528-qwen3-8b", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 8.2)
QWEN3_32B = PaperModel("qwen3-32b", "Qwen/Qwen3-32B", 32.8)
GPT_OSS = PaperModel("gpt-oss-20b", "openai/gpt-oss-20b", 3.6)
LLAMA_8B = PaperModel("r1-distill-llama-8b", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8.0)

N = 512
AIME24 = PaperBenchmark("aime24", 30, N)
AIME25 = PaperBenchmark("aime25", 30, N)
GPQA = PaperBenchmark("gpqa-diamond", 198, N)

CONS = "cons"
LOW, HIGH = "deepconf:low", "deepconf:high"
DEEPPRUNE = "deepprune:tau=0.5,K=32,K1=10,K2=20,early_end=false,finish=together"
EXCERPT = "words:25"
NAMES = {LOW: "DeepConf low", HIGH: "DeepConf high", DEEPPRUNE: "DeepPrune"}
# Accuracy in per cent and tokens in units of 1e8, of cons@512 and of DeepPrune.
ONLINE = {
    QWEN3_8B: {
        AIME24: ((86.7, 3.62), (86.7, 0.42)),
        AIME25: ((83.3, 4.19), (83.3, 0.35)),
        GPQA: ((66.2, 10.9), (63.1, 2.54)),
    },
    QWEN3_32B: {
        AIME24: ((86.7, 1.93), (90.0, 0.26)),
        AIME25: ((80.0, 2.64), (90.0, 0.23)),
        GPQA: ((70.7, 6.94), (70.2, 1.00)),
    },
    GPT_OSS: {
        AIME24: ((93.3, 2.05), (90.0, 0.42)),
        AIME25: ((90.0, 2.10), (93.3, 0.38)),
        GPQA: ((70.7, 4.60), (68.7, 2.20)),
    },
}

BASE = "Qwen/Qwen3-4B-Instruct-2507"
# (name, focal loss, oversampling)
VARIANTS = (("plain", False, 1), ("focal", True, 1), ("oversampling", False, 2), ("both", True, 2))
# AUROC and TNR at FNR 0.2, in the order of VARIANTS; means over three unseen models.
OFFLINE = {
    "tokens:500": ((0.856, 0.772), (0.836, 0.733), (0.761, 0.523), (0.861, 0.770)),
    "words:25": ((0.833, 0.665), (0.856, 0.740), (0.798, 0.676), (0.870, 0.819)),
}


def _votes() -> list[VotesCell]:
    return [
        VotesCell(
            model,
            benchmark,
            {
                CONS: VotesFigures(*cons),
                LOW: VotesFigures(),
                HIGH: VotesFigures(),
                DEEPPRUNE: VotesFigures(*deepprune),
            },
        )
        for model, benchmarks in ONLINE.items()
        for benchmark, (cons, deepprune) in benchmarks.items()
    ]


TRAINED = TracesCell(LLAMA_8B, PaperBenchmark("math500", 115, 16, part=True), "train")
READ = tuple(TracesCell(model, PaperBenchmark("aime24", 30, 16), "test") for model in ONLINE)


def _judges() -> list[JudgeCell]:
    trained = [
        JudgeCell(excerpt, name, published, READ, TRAINED, BASE, focal, oversample)
        for excerpt, figures in OFFLINE.items()
        for (name, focal, oversample), published in zip(VARIANTS, figures, strict=True)
    ]
    zero_shot = JudgeCell(EXCERPT, "zero-shot", (0.66, None), READ, judge=f"llm:{BASE}")
    embedding = JudgeCell(
        EXCERPT, "embedding", (0.58, None), READ, judge="embedding:sentence-transformers/all-MiniLM-L6-v2"
    )
    return [*trained, zero_shot, embedding]


PAPER = Paper(
    "deepprune",
    "DeepPrune",
    "2510.08483",
    (*_votes(), TRAINED, *READ, *_judges()),
    (
        "Sampling is each model's own (its generation_config): the paper's is not known here.",
        "Every strategy is played back on the same traces, as in the paper; bench parallel holds "
        "them in main memory, some 70 bytes a token.",
        "DeepConf's figures in the paper's table are not known here.",
        "Published tokens are the traces' alone; ours say the judge's beside them.",
        "K3 is not published: it is as K2 here.",
        "Which 115 problems the judge was trained on, and on which it was scored, we don't know: the first of MATH-500, and "
        "AIME24 of the three reasoners, stand for them. alpha, gamma and the learning rate are those of judge train. Which "
        "SentenceBERT the baseline is, is not known either.",
        "Version 2, on unseen models and problems: AUROC .707; no cell, as its problems (AIME22, AIME23) have no source here.",
    ),
)
