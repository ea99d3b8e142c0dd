"""The options of the library's commands, and those that the lab's share: each name, letter and explanation once.

So the same thing is called, explained and read alike, and a test goes over all commands for it. Defaults are each command's
own. Where a command takes several of a thing, its option has the plural (``--policy``, ``--policies``) and the same letter.
What was called otherwise before is in `renamed`; what only the lab has is in `laconic.lab.shared.options`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# ---- one problem ------------------------------------------------------------------------------------------------------

ProblemText = Annotated[str | None, typer.Argument(help="The problem. Without one: a problem of the bundled set.")]
ProblemFile = Annotated[
    str | None,
    typer.Option("--file", "-f", help="Read the problem from a text file, a .jsonl (its first line) or - ."),
]
BundledSeed = Annotated[
    int | None, typer.Option("--bundled", help="Solve the held-out bundled problem of this seed.", metavar="SEED")
]
Gold = Annotated[str | None, typer.Option("--gold", help="The right answer, where you know it.", metavar="ANSWER")]

# ---- many problems ----------------------------------------------------------------------------------------------------

SOURCE = typer.Option(
    "--source",
    help="Where problems come from: bundled, a JSON-lines file, hub:NAME[:SPLIT], or a benchmark: aime24, aime25, "
    "gpqa-diamond, math500, gsm8k, ifeval, livecodebench, of the Hub, or NAME:FILE of a file as its publishers have it.",
)
Source = Annotated[str, SOURCE]
SourceOrNone = Annotated[str | None, SOURCE]
PROBLEMS = typer.Option("--problems", help="How many problems.")
Problems = Annotated[int, PROBLEMS]
ProblemsOrAll = Annotated[int | None, PROBLEMS]
Level = Annotated[
    int | None,
    typer.Option("--level", "-l", help="Steps of the bundled problems, 1 to 8; without it a mixture of 5 to 8."),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="heldout (without it), or train: what the bundled model saw; of a data set its split."
    ),
]
TRACES = typer.Option("--n", "-n", help="Traces of each problem.")
Traces = Annotated[int, TRACES]
TracesOrAll = Annotated[int | None, TRACES]

# ---- what goes into the chat template beside it -----------------------------------------------------------------------

System = Annotated[str | None, typer.Option("--system", help="A system message before the problem.", metavar="TEXT")]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Switch thinking on or off, in chat templates that can."),
]
TemplateArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-template-arg",
        metavar="NAME=VALUE",
        help="Another argument of the chat template, such as reasoning_effort=high; may be given several times.",
    ),
]

# ---- the model and what runs it ---------------------------------------------------------------------------------------

MODEL = typer.Option(
    "--model", "-m", help="The reasoner: a directory, a Hub name, a .gguf file, or bundled, the one that ships."
)
ModelName = Annotated[str | None, MODEL]
Models = Annotated[list[str] | None, MODEL]
EngineSpec = Annotated[
    str,
    typer.Option("--engine", "-e", help="hf; vllm:MODEL, for vLLM in this machine; openai:URL,URL for servers."),
]
EngineSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-set",
        metavar="SETTING=VALUE",
        help="A setting of vLLM's own, or a field of each request to servers; may be given several times.",
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="Of the weights: auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...; vLLM takes its own.")]
Batch = Annotated[int, typer.Option("--batch", "-b", help="Traces that run at once.")]

# ---- compression ------------------------------------------------------------------------------------------------------

PolicySpec = Annotated[
    str,
    typer.Option(
        "--policy", "-p", help="NAME or NAME:setting=value,...; `laconic policies` lists them, none is full KV."
    ),
]
POLICIES = typer.Option(
    "--policies",
    "-p",
    help="Policies by semicolons, each NAME or NAME:setting=value,...; names alone also by commas.",
)
Policies = Annotated[str, POLICIES]
PoliciesOrDefault = Annotated[str | None, POLICIES]
BETWEEN = "Generated tokens between two compressions."
INTERVAL = typer.Option("--interval", help=BETWEEN)
INTERVALS = typer.Option("--interval", metavar="N,N,...", help=BETWEEN)
Interval = Annotated[int | None, INTERVAL]
IntervalOfAll = Annotated[int, INTERVAL]
RATIO = typer.Option("--ratio", help="How many times slower than the output the cache grows.")
Ratio = Annotated[float | None, RATIO]
RatioOfAll = Annotated[float, RATIO]
STAY = "Latest generated tokens that always stay."
WINDOW = typer.Option("--window", help=STAY)
WINDOWS = typer.Option("--window", metavar="N,N,...", help=STAY)
Window = Annotated[int | None, WINDOW]
WindowOfAll = Annotated[int, WINDOW]
Budget = Annotated[
    int | None, typer.Option("--budget", help="Generated tokens kept, for policies with a fixed budget.")
]

# ---- strategies and judges --------------------------------------------------------------------------------------------

StrategySpec = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-s",
        help="NAME or NAME:setting=value,...; `laconic strategies` lists them.",
    ),
]
JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge", "-j", help="Who says which traces agree: bundled, encoder:DIR, llm:NAME, probe, jaccard, ..."
    ),
]
ExcerptKind = Annotated[
    str | None, typer.Option("--excerpt", help="What the judge sees of a trace: tokens:K, words:K or kept.")
]
Tau = Annotated[float | None, typer.Option("--tau", help="Similarity above which a trace joins a cluster and stops.")]
Clusters = Annotated[int | None, typer.Option("--clusters", "--K", help="K: at most so many clusters.")]
Compare = Annotated[
    int | None, typer.Option("--compare", "--K1", help="K1: members of a cluster that a trace is compared with.")
]
Finish = Annotated[
    int | None,
    typer.Option("--finish", "--K2", help="K2: traces of the largest cluster that are finished, at most."),
]
Fallback = Annotated[int | None, typer.Option("--fallback", "--K3", help="K3: traces finished where no two agree.")]
Spend = Annotated[
    str | None,
    typer.Option(
        "--spend",
        metavar="BUDGET",
        help="4x (four traces a problem in the mean) or tokens, shared by a set; solve takes 30s too, and one problem, "
        "for which auto chooses by it.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration", help="What auto chooses by. [default: what laconic calibrate made of this model, or ships]"
    ),
]

# ---- sampling ---------------------------------------------------------------------------------------------------------

MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", help="At most so many generated tokens a trace; the context is a limit too."),
]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Above 0, at most 1.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="0 is off.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is drawn at random: another seed, other results.")]

# ---- memory before a run ----------------------------------------------------------------------------------------------

PlannedModel = Annotated[
    str,
    typer.Argument(
        help="A directory, a Hub name, a config.json, a .gguf file, bundled, or a shape of `bench throughput`."
    ),
]
PromptTokens = Annotated[int, typer.Option("--prompt", help="Prompt tokens of each trace.")]
Length = Annotated[int | None, typer.Option("--length", help="Generated tokens of each trace.")]
KVDtype = Annotated[
    str, typer.Option("--kv-dtype", help="Of the KV: auto (as the weights), float32, bfloat16, float16, float8.")
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", help="For weights and KV, such as 80GB or 75GiB: says how many traces fit."),
]
BlockSize = Annotated[
    int, typer.Option("--block-size", help="Tokens of a KV-cache block: a trace takes whole blocks, of 16 in vLLM.")
]

# ---- results ----------------------------------------------------------------------------------------------------------

OUT = typer.Option("--out", "-o", help="The file or the directory that results are written to.")
Out = Annotated[Path, OUT]
OutOrNone = Annotated[Path | None, OUT]
TracePage = Annotated[
    Path | None, typer.Option("--html", help="Also write the trace as a page that shows what was evicted.")
]
ShownTexts = Annotated[
    str | None,
    typer.Option("--show", metavar="winner|all", help="Print the winning trace's text, or that of every trace."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]

# ---- lists of what there is -------------------------------------------------------------------------------------------

ListedName = Annotated[str | None, typer.Argument(help="Only this one.")]
