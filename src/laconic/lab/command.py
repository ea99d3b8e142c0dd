"""`laconic bench`: the experiments that compare policies and strategies, each a folder of its own."""

from __future__ import annotations

import typer

from laconic.lab.accuracy.command import accuracy
from laconic.lab.parallel.command import parallel
from laconic.lab.throughput.command import throughput
from laconic.lab.vllm.command import vllm

app = typer.Typer(
    no_args_is_help=True,
    help="Measure: accuracy against cache size, throughput against what bytes predict, what pruning saves, policies in vLLM.",
)
for command in (parallel, vllm, accuracy, throughput):
    app.command()(command)
