"""``python -m training.lightthinker WORK --out FOLDER``: see training/README.md."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from laconic.assets import reasoner_path
from training.lightthinker.recipe import RECIPES
from training.lightthinker.train import Tuner


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.lightthinker", description="Fine-tune the bundled reasoner as LightThinker does."
    )
    parser.add_argument(
        "directory", type=Path, help="where checkpoint.pt and curve.jsonl go; goes on from what is there"
    )
    parser.add_argument("--out", type=Path, help="the folder to write once all steps are done")
    parser.add_argument("--base", type=Path, help="the checkpoint to start from; default: the bundled reasoner")
    parser.add_argument(
        "--recipe", default="standard", choices=RECIPES, help="standard, or brief, which learns nothing"
    )
    parser.add_argument("--steps", type=int, help="another number of steps than the recipe's")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    parser.add_argument("--until", type=int, help="stop after this step")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    asked = {name: getattr(arguments, name) for name in ("steps", "seed") if getattr(arguments, name) is not None}
    try:
        recipe = replace(RECIPES[arguments.recipe], **asked)
        tuner = Tuner(recipe, arguments.base or Path(reasoner_path()), arguments.directory)
        if tuner.checkpoint.exists():
            tuner.resume()
        tuner.run(until=arguments.until)
        if arguments.out and tuner.step == recipe.steps:
            tuner.export(arguments.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
