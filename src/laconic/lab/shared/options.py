"""The options that only the lab's commands have: each name, letter and explanation once, as in `laconic.cli.options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laconic.cli.options import INTERVALS, SOURCE, WINDOWS

# ---- problems and traces ----------------------------------------------------------------------------------------------

Sources = Annotated[list[str] | None, SOURCE]
ProblemSeed = Annotated[
    int, typer.Option("--problem-seed", help="Of the bundled problems, and of the order of gpqa-diamond's choices.")
]
SAMPLE_SEED = typer.Option("--sample-seed", help="Of the sampling alone: the same problems, other traces.")
SampleSeed = Annotated[int, SAMPLE_SEED]
SampleSeedOrNone = Annotated[int | None, SAMPLE_SEED]
# Without the letter for one release, in which it still is the old name of --problems.
TracesOfEach = Annotated[int, typer.Option("--n", help="Traces of each problem.")]
TraceNumbers = Annotated[str, typer.Option("--n", "-n", metavar="N,N,...", help="Traces of each problem.")]
TRACE_FILE = typer.Option("--traces", "-t", help="Recorded traces, as `laconic collect` writes them.")
Orders = Annotated[
    int,
    typer.Option("--orders", help="Play back in so many orders of each problem's traces; more, narrower intervals."),
]
Pools = Annotated[
    str,
    typer.Option(
        "--pools",
        help="Budgets that all problems share, by commas: 4x is four traces a problem in the mean. Played back only.",
    ),
]
TraceFileOption = Annotated[Path, TRACE_FILE]
TraceFileOrNone = Annotated[Path | None, TRACE_FILE]
Texts = Annotated[
    list[Path] | None, typer.Option("--texts", help="Plain text files that are fed like traces. Repeatable.")
]
TextPrompt = Annotated[
    int, typer.Option("--prompt-tokens", help="Of each text, how many of its first tokens are the prompt.")
]
TokensOfEach = Annotated[int | None, typer.Option("--tokens", help="Cut traces to at most so many generated tokens.")]
UnseenTraces = Annotated[
    list[Path] | None, typer.Option("--unseen", help="Traces of a reasoner that no judge knows. Repeatable.")
]
WrittenTraces = Annotated[
    Path | None,
    typer.Argument(help="JSON lines with token_ids or text, such as traces.jsonl of `bench accuracy --keep-tokens`."),
]
ConfidenceTopK = Annotated[
    int,
    typer.Option(
        "--confidence-top-k",
        help="Also write each token's confidence: its mean log-probability of so many candidates; 0 is off.",
    ),
]
KeepTokens = Annotated[
    bool, typer.Option("--keep-tokens/--no-keep-tokens", help="Also write token ids, for `laconic analyze`.")
]

# ---- what is compared -------------------------------------------------------------------------------------------------

Ratios = Annotated[str, typer.Option("--ratios", "-c", help="Compression ratios, separated by commas.")]
Intervals = Annotated[str | None, INTERVALS]
Windows = Annotated[str, WINDOWS]
ScheduleKind = Annotated[
    str,
    typer.Option("--schedule", help="common: every scorer on RPC's schedule; own: each policy's, at equal mean cache."),
]
OraclePattern = Annotated[
    str | None,
    typer.Option("--oracle-pattern", help="Regular expression of the token texts that the policy oracle keeps."),
]
STRATEGIES = typer.Option("--strategies", "-s", help="Strategies by semicolons; `laconic strategies` lists them.")
Strategies = Annotated[str, STRATEGIES]
StrategiesOrNone = Annotated[str | None, STRATEGIES]
JUDGES = typer.Option("--judges", "-j", help="Judges by semicolons; `laconic judges` lists them.")
Judges = Annotated[str, JUDGES]
JudgesRepeated = Annotated[list[str], JUDGES]
FewTraces = Annotated[
    str,
    typer.Option("--few", help="Also cons@m for these m, which costs about what pruning does; empty: none."),
]
Timed = Annotated[int, typer.Option("--timed", help="Problems on which everything also runs live, against the clock.")]
Excerpts = Annotated[str, typer.Option("--excerpts", help="Kinds of excerpts, separated by commas.")]

# ---- speed ------------------------------------------------------------------------------------------------------------

Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="cpu-kv, cpu-policies, cpu-weights, cpu-parity or rpc-paper; or say what to run with the options below.",
    ),
]
Shape = Annotated[str | None, typer.Option("--shape", help="A model shape by name, with random weights.")]
Shapes = Annotated[
    str | None,
    typer.Option("--shapes", help="Model shapes by name, separated by commas; with a preset, only these of its."),
]
Batches = Annotated[str, typer.Option("--batches", "-b", help="Rows at once, separated by commas.")]
Lengths = Annotated[
    str | None, typer.Option("--lengths", help="Numbers of generated tokens to measure at, separated by commas.")
]
At = Annotated[
    str | None,
    typer.Option("--at", help="Or only --steps steps from these numbers on, the cache being as it is there."),
]
Steps = Annotated[int, typer.Option("--steps", help="Steps timed with --at.")]
REPEATS = typer.Option("--repeats", "-r", help="Of everything, interleaved.")
Repeats = Annotated[int, REPEATS]
RepeatsOrPreset = Annotated[int | None, REPEATS]
THREADS = typer.Option("--threads", help="Threads on a CPU.")
Threads = Annotated[int, THREADS]
ThreadsOrDefault = Annotated[int | None, THREADS]
Force = Annotated[bool, typer.Option("--force", help="Run a GPU preset on a CPU.")]

# ---- inside vLLM ------------------------------------------------------------------------------------------------------

CacheSizes = Annotated[
    str,
    typer.Option("--cache", help="Sizes of the KV cache, in % of what full KV needs for all requests at once."),
]
Requests = Annotated[int, typer.Option("--requests", help="Requests sent at once.")]
Output = Annotated[int, typer.Option("--output", help="Tokens that each request generates.")]
Eager = Annotated[
    bool | None,
    typer.Option("--eager/--no-eager", help="No compilation, no CUDA graphs; without it, that is so on a CPU only."),
]

# ---- how much traces repeat themselves --------------------------------------------------------------------------------

Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", help="Name or path; cuts a file's texts into tokens, or gives the text of its token ids."
    ),
]
Spans = Annotated[
    int | None,
    typer.Option("--spans", help="Cut traces into spans of so many tokens, instead of sentences and lines."),
]
Threshold = Annotated[float, typer.Option("--threshold", help="Cosine above which a span repeats an earlier one.")]
Embedder = Annotated[
    str,
    typer.Option("--embedder", help="tfidf, or sentence-transformers:MODEL for rates like the published ones."),
]

# ---- training a judge -------------------------------------------------------------------------------------------------

JudgeKind = Annotated[str, typer.Option("--kind", help="encoder or llm.")]
Base = Annotated[str | None, typer.Option("--base", help="For --kind llm: the language model to begin with.")]
Lora = Annotated[int, typer.Option("--lora", help="For --kind llm: rank of an adapter; 0 tunes all weights.")]
Vectors = Annotated[
    str,
    typer.Option(
        "--vectors",
        help="What an encoder reads beside tokens: none, states (the reasoner's), or model:NAME instead.",
    ),
]
Layers = Annotated[
    str, typer.Option("--layers", help="Whose hidden states, for --vectors states: 0 is the embedding, -1 the last.")
]
Width = Annotated[int, typer.Option("--width", help="Of the encoder's own transformer.")]
Depth = Annotated[int, typer.Option("--depth", help="Layers of the encoder's own transformer.")]
Focal = Annotated[bool, typer.Option("--focal/--cross-entropy", help="The loss.")]
Alpha = Annotated[
    float,
    typer.Option("--alpha", help="Focal loss: the weight of pairs that are the same; 1 - alpha of the others."),
]
Gamma = Annotated[float, typer.Option("--gamma", help="Focal loss: how little easy pairs count; 0 is not at all less.")]
Oversample = Annotated[
    int, typer.Option("--oversample", help="How often a pair of the rarer class is drawn an epoch; 1 is off.")
]
Epochs = Annotated[
    int,
    typer.Option("--epochs", help="At most; training ends early where the validation part no longer improves."),
]
PerStep = Annotated[int | None, typer.Option("--per-step", help="Problems a step (1), or pairs a step of an LLM (16).")]
Micro = Annotated[int, typer.Option("--micro", help="Pairs that go through an LLM at once; 0 is all of a step.")]
Every = Annotated[int, typer.Option("--every", help="Steps between looks at the validation part; 0 is an epoch's.")]
Rate = Annotated[float | None, typer.Option("--rate", help="Learning rate; 1e-3, for an LLM 1e-5, with --lora 1e-4.")]
Patience = Annotated[
    int, typer.Option("--patience", help="Looks at the validation part without a better AUROC; 0 is off.")
]
Shares = Annotated[
    str, typer.Option("--shares", help="Shares of problems for training, validation and test, by commas.")
]
Folds = Annotated[
    int,
    typer.Option(
        "--folds",
        help="Train crosswise: a judge for each of so many parts of the problems, without it; every problem is tested on. "
        "0 trains one, by --shares.",
    ),
]
SplitSeed = Annotated[int, typer.Option("--split-seed", help="Another seed, another split of the problems.")]

# ---- training a selector ----------------------------------------------------------------------------------------------

LearnedModel = Annotated[str, typer.Argument(help="A directory, a Hub name, or bundled, the reasoner that ships.")]
CheckTraces = Annotated[
    Path | None, typer.Option("--check", help="Other recorded traces that the selector is checked on.")
]
RecipeSpec = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="group (a network for each KV head) or layer, or NAME:setting=value,... of features, target, weighted, delay, "
        "loss, hidden, epochs, rate; docs/learning.md explains them.",
    ),
]
LearnFrom = Annotated[
    int, typer.Option("--learn-from", help="At most so many tokens are learned from, over all traces.")
]
WorkFolder = Annotated[
    Path | None,
    typer.Option("--work", help="Where traces and what was read of them is kept; without it, in the cache folder."),
]

# ---- a paper's tables -------------------------------------------------------------------------------------------------

PaperName = Annotated[str, typer.Argument(help="rpc or deepprune.")]
CellsToRun = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="CELL", help="Run these cells, by name or by a pattern such as votes/*. Repeatable."),
]
CellPattern = Annotated[
    str, typer.Option("--cells", metavar="GLOB", help="Only the cells whose names match, such as accuracy/qwq-32b/*.")
]
ResultDirectories = Annotated[
    list[Path] | None,
    typer.Option("--results", metavar="DIR", help="Merge the cells' results below this directory. Repeatable."),
]
MeanLength = Annotated[
    float | None,
    typer.Option("--mean-length", help="Generated tokens of a trace under full KV, for budgets and estimates."),
]
TokensPerSecond = Annotated[
    float | None, typer.Option("--tokens-per-second", help="Of one GPU, for estimates of hours.")
]

# ---- results ----------------------------------------------------------------------------------------------------------

Plot = Annotated[
    bool | None, typer.Option("--plot/--no-plot", help="Draw plot.png; without it, if matplotlib is there.")
]
