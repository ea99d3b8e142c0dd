"""``python -m training.reasoner train|export|evaluate``: see training/README.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers import __version__ as transformers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.reasoner", description="Train the bundled tiny reasoner.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train by a recipe; goes on from a checkpoint in the directory")
    train.add_argument("directory", type=Path, help="where checkpoint.pt and curve.jsonl go")
    train.add_argument("--recipe", default="shipped", help="shipped or toy")
    train.add_argument("--seed", type=int, help="another seed than the recipe's: another reasoner of the same kind")
    train.add_argument("--until", type=int, help="stop after this step")
    train.add_argument("--no-compile", action="store_true", help="without torch.compile")
    train.add_argument("--threads", type=int, default=2)
    export = commands.add_parser("export", help="write a checkpoint as a folder that transformers loads")
    export.add_argument("directory", type=Path, help="the training directory")
    export.add_argument("folder", type=Path, help="the folder to write")
    export.add_argument("--recipe", default="shipped", help="the recipe it was trained by")
    export.add_argument("--temperature", type=float, default=1.0, help="of its generation config")
    export.add_argument("--top-p", type=float, default=0.95, help="of its generation config")
    evaluate = commands.add_parser("evaluate", help="free-running figures of an exported folder, as JSON")
    evaluate.add_argument("folder", type=Path)
    evaluate.add_argument("--problems", type=int, default=200)
    evaluate.add_argument("--samples", type=int, default=16)
    evaluate.add_argument("--temperature", type=float, help="default: the folder's own; 0 is greedy")
    evaluate.add_argument("--top-p", type=float, help="default: the folder's own")
    evaluate.add_argument("--level", type=int, help="default: the mixture")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--split", default="heldout", help="heldout or train (where choices are made)")
    evaluate.add_argument("--out", type=Path, help="write the record there, with command, versions and machine")
    for command in (export, evaluate):
        command.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.command == "train":
        from training.reasoner.recipe import RECIPES
        from training.reasoner.train import Trainer

        if arguments.recipe not in RECIPES:
            parser.error(f"the recipe must be one of {', '.join(RECIPES)}, not {arguments.recipe!r}")
        recipe = RECIPES[arguments.recipe]
        if arguments.seed is not None:
            recipe = replace(recipe, seed=arguments.seed)
        trainer = Trainer(recipe, arguments.directory, compile=not arguments.no_compile)
        if trainer.checkpoint.exists():
            trainer.resume()
        trainer.run(until=arguments.until)
    elif arguments.command == "export":
        from training.reasoner.export import export as write
        from training.reasoner.export import load_student
        from training.reasoner.recipe import RECIPES

        if arguments.recipe not in RECIPES:
            parser.error(f"the recipe must be one of {', '.join(RECIPES)}, not {arguments.recipe!r}")
        student = load_student(arguments.directory / "checkpoint.pt", RECIPES[arguments.recipe].shape)
        write(student, arguments.folder, arguments.temperature, arguments.top_p)
    else:
        _evaluate(arguments)


def _evaluate(arguments: argparse.Namespace) -> None:
    from training.reasoner.evaluate import Settings, evaluate
    from training.reasoner.export import from_folder

    own = GenerationConfig.from_pretrained(arguments.folder)
    settings = Settings(
        problems=arguments.problems,
        samples=arguments.samples,
        temperature=own.temperature if arguments.temperature is None else arguments.temperature,
        top_p=own.top_p if arguments.top_p is None else arguments.top_p,
        level=arguments.level,
        seed=arguments.seed,
        split=arguments.split,
    )
    record = evaluate(from_folder(arguments.folder), settings)
    weights = (arguments.folder / "model.safetensors").read_bytes()
    record = {
        "command": f"python -m training.reasoner {' '.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "settings": asdict(settings),
    } | record
    if arguments.out:
        answers = record.pop("answers")
        lines = ",\n  ".join(json.dumps(group) for group in answers)
        text = json.dumps(record, indent=1)[:-2] + f',\n "answers": [\n  {lines}\n ]\n}}\n'
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    print(json.dumps({key: value for key, value in record.items() if key != "answers"}, indent=1))


if __name__ == "__main__":
    main()
