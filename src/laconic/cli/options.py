"""Options that several commands have, so that they are called, explained and read alike. Defaults are each command's own."""

from __future__ import annotations

from typing import Annotated

import typer

# ---- the problem ------------------------------------------------------------------------------------------------------

ProblemText = Annotated[str | None, typer.Argument(help="The problem. Without one: a problem of the bundled set.")]
ProblemFile = Annotated[
    str | None,
    typer.Option("--file", "-f", help="Read the problem from a text file, a .jsonl (its first line) or - ."),
]
BundledSeed = Annotated[
    int | None, typer.Option("--bundled", help="Solve the held-out bundled problem of this seed.", metavar="SEED")
]
Level = Annotated[int | None, typer.Option("--level", help="Steps of the bundled problem, 1 to 8.")]

# ---- many problems ----------------------------------------------------------------------------------------------------

Source = Annotated[
    str,
    typer.Option("--source", help="Where problems come from: bundled, a JSON-lines file, or hub:NAME[:SPLIT]."),
]
ProblemSeed = Annotated[int, typer.Option(help="Which bundled problems.")]
Levels = Annotated[int | None, typer.Option(help="Steps of the bundled problems; without it the mixture.")]

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

ModelName = Annotated[
    str | None, typer.Option("--model", "-m", help="A directory or a Hub name; without it the bundled reasoner.")
]
EngineSpec = Annotated[
    str,
    typer.Option("--engine", "-e", help="hf, or vllm:MODEL for vLLM in this machine; vllm alone takes --model."),
]
EngineSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-set",
        metavar="SETTING=VALUE",
        help="A setting of vLLM's own, such as tensor_parallel_size=2; may be given several times.",
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
BenchDtype = Annotated[str, typer.Option(help="auto (bfloat16 on a GPU, float32 on a CPU), float32, ...")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
EngineDevice = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...; vLLM takes its own.")]
Batch = Annotated[int, typer.Option(help="Traces that run at once.")]

# ---- compression ------------------------------------------------------------------------------------------------------

PolicySpec = Annotated[
    str, typer.Option("--policy", "-p", help="NAME or NAME:setting=value,...; `laconic policies` lists them.")
]
Interval = Annotated[int | None, typer.Option(help="Generated tokens between two compressions.")]
Ratio = Annotated[float | None, typer.Option(help="How many times slower than the output the cache grows.")]
Window = Annotated[int | None, typer.Option(help="Latest generated tokens that always stay.")]
Budget = Annotated[int | None, typer.Option(help="Generated tokens kept, for policies with a fixed budget.")]
Ratios = Annotated[str, typer.Option("--ratios", "-c", help="Compression ratios, separated by commas.")]
BenchWindow = Annotated[int, typer.Option(help="RPC's window of most recent tokens.")]

# ---- sampling ---------------------------------------------------------------------------------------------------------

MaxNewTokens = Annotated[int | None, typer.Option(help="At most so many; the context is a limit too.")]
TraceLimit = Annotated[int | None, typer.Option(help="Limit of a trace.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Above 0, at most 1.")]
TopK = Annotated[int | None, typer.Option(help="0 is off.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
SampleSeed = Annotated[int, typer.Option(help="Another seed, other traces.")]

# ---- results ----------------------------------------------------------------------------------------------------------

Plot = Annotated[bool | None, typer.Option(help="Draw plot.png; without it, if matplotlib is there.")]
JsonResults = Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")]

# ---- lists of what there is -------------------------------------------------------------------------------------------

ListedName = Annotated[str | None, typer.Argument(help="Only this one.")]
JsonListing = Annotated[
    bool, typer.Option("--json", help="One JSON array: name, forms, summary, source, settings of each.")
]
