"""What an LLM judge costs: judgements a second of a randomly initialised model of the published judge's shape.

    python benchmarks/llm_judge.py --out benchmarks/llm-judge          # a GPU with 12 GB or more
    python benchmarks/llm_judge.py --tiny --out runs/llm-judge         # a shape for any CPU, to see that it runs

Speed follows from the shape, not from what the weights say, so nothing is downloaded: the shape is Qwen3-4B's, which
THU-KEG/DeepPrune-Judge-4B is tuned from, and the words are made up, one token each. A judgement is one pair of excerpts. As
in the online clustering, one new trace is compared with many others; `shared` is whether what their prompts have in common
is computed once. All settings of a repeat follow each other, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from laconic.engines.hf.shapes import Shape, build, get_shape, parameter_count, pick_device, resolve_dtype
from laconic.environment import script_environment
from laconic.errors import InputError, LaconicError
from laconic.judges.llm import LLMJudge
from laconic.judges.prompts import LLMJudgeSettings
from laconic.prune.judge import Excerpt

QWEN3_4B = Shape(
    "qwen3-4b",
    "qwen3",
    "Qwen3-4B-Instruct-2507: 4.0 B parameters, 8 KV heads",
    {
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9728,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
)
CHAT = "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}<assistant>"
QUESTION_TOKENS = 100


def tokenizer(vocabulary: int) -> Any:
    """Words w0, w1, ... and those of the template, one token each; the rest of the vocabulary is never written."""
    words = [
        "<pad>",
        "<unk>",
        "<user>",
        "<assistant>",
        "Yes",
        "No",
        *(f"w{i}" for i in range(min(vocabulary, 500) - 6)),
    ]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    made.chat_template = CHAT
    return made


def excerpts(count: int, tokens: int, seed: int = 0) -> list[Excerpt]:
    rng = random.Random(seed)

    def words(n: int) -> str:
        return " ".join(f"w{rng.randrange(400)}" for _ in range(n))

    question = words(QUESTION_TOKENS)
    return [Excerpt(f"t{i}", f"tokens:{tokens}", question, (), (0,) * tokens, words(tokens)) for i in range(count)]


def judgement_rows(
    model: Any, made: Any, tokens: int, batches: list[int], pairs: int, repeats: int, progress: Any
) -> list[dict[str, Any]]:
    """One row a batch size, without and with shared prefixes: median and all samples of judgements a second."""
    given = excerpts(pairs + 1, tokens)
    longest = len(LLMJudge(model, made).prompts.ids(given[0].question, given[0].text, given[1].text))
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for shared in (False, True):
            rows.append({"batch": batch, "shared": shared, "samples": [], "tokens_a_judgement": 0.0, "peak_gib": 0.0})
    for repeat in range(-1, repeats):  # the first warms up
        for row in rows:
            settings = LLMJudgeSettings(batch_tokens=row["batch"] * longest, share_prefix=row["shared"])
            judge = LLMJudge(model, made, settings)
            readings = judge.read(given)
            if model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(model.device)
            start = time.perf_counter()
            said = judge.compare([(readings[0], other) for other in readings[1:]])  # on the CPU: the GPU has finished
            seconds = time.perf_counter() - start
            if len(said) != pairs or not all(0 <= p <= 1 for p in said):
                raise InputError(f"The judge said {said[:3]}... of {pairs} pairs; expected a probability of each")
            if repeat < 0:
                continue
            row["samples"].append(pairs / seconds)
            row["tokens_a_judgement"] = judge.cost.tokens / pairs
            if model.device.type == "cuda":
                row["peak_gib"] = round(torch.cuda.max_memory_allocated(model.device) / 2**30, 2)
            progress(
                f"repeat {repeat + 1}: batch {row['batch']}, shared {row['shared']}: {row['samples'][-1]:.2f} a second"
            )
    for row in rows:
        row["judgements_a_second"] = statistics.median(row["samples"])
    return rows


def table(record: dict[str, Any]) -> str:
    lines = [
        "| batch | prefix | judgements/s | tokens a judgement | peak GiB |",
        "|---:|---|---:|---:|---:|",
    ]
    for row in record["rows"]:
        prefix = "shared" if row["shared"] else "each its own"
        lines.append(
            f"| {row['batch']} | {prefix} | {row['judgements_a_second']:.2f} | {row['tokens_a_judgement']:.0f} | "
            f"{row['peak_gib'] or ''} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of results.json and table.md")
    parser.add_argument("--tiny", action="store_true", help="a shape of 3 M parameters, excerpts of 40 tokens")
    parser.add_argument("--tokens", type=int, help="of an excerpt (500; tiny: 40)")
    parser.add_argument("--batches", help="pairs a forward pass, with commas (1,4,16,64; tiny: 1,4)")
    parser.add_argument("--pairs", type=int, help="judgements a repeat (64; tiny: 8)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args(argv)
    tokens = given.tokens or (40 if given.tiny else 500)
    pairs = given.pairs or (8 if given.tiny else 64)
    try:
        batches = [int(n) for n in (given.batches or ("1,4" if given.tiny else "1,4,16,64")).split(",")]
    except ValueError:
        parser.error(f"--batches is {given.batches!r}; expected whole numbers with commas, 1,4,16")
    if min(tokens, pairs, given.repeats, *batches) < 1:
        parser.error("--tokens, --batches, --pairs and --repeats must be at least 1")
    try:
        shape = get_shape("tiny-kv") if given.tiny else QWEN3_4B
        device = pick_device(given.device)
        dtype = resolve_dtype(given.dtype, device)
        model = build(shape, dtype, device)
        rows = judgement_rows(
            model,
            tokenizer(model.config.vocab_size),
            tokens,
            batches,
            pairs,
            given.repeats,
            lambda line: print(line, file=sys.stderr),
        )
    except LaconicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    here = script_environment(__file__, argv)
    record = {
        "environment": here,
        "shape": shape.name,
        "parameters": parameter_count(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "excerpt_tokens": tokens,
        "question_tokens": QUESTION_TOKENS,
        "pairs": pairs,
        "rows": rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (given.out / "table.md").write_text(table(record), encoding="utf-8")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
