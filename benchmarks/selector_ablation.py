"""Selectors of several recipes from the same traces, to be compared by one `laconic bench fidelity`.

    laconic learn MODEL --source PROBLEMS ... --work FOLDER          # samples the traces, and keeps what it reads of them
    python benchmarks/selector_ablation.py MODEL FOLDER/traces-*.jsonl --work FOLDER --out SELECTORS
    laconic bench fidelity --model MODEL ... --policies "learned:SELECTORS/group.safetensors;..."

Recipes differ from `group`, the default, in one thing each. What was trained is left as it is: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from laconic.engines.hf import load
from laconic.lab.learn.recipe import parse_recipe
from laconic.lab.learn.run import learn_selector
from laconic.lab.learn.traces import split_traces
from laconic.selectors import write_selector
from laconic.traces import read_traces

TOKENS = 60_000
RECIPES = {
    "group": ("group", TOKENS),
    "layer": ("layer", TOKENS),
    "key": ("group:features=key", TOKENS),
    "value": ("group:features=value", TOKENS),
    "squared": ("group:loss=squared", TOKENS),
    "rank": ("group:loss=rank", TOKENS),
    "mean": ("group:target=mean", TOKENS),
    "unweighted": ("group:weighted=false", TOKENS),
    "quarter-of-the-tokens": ("group", TOKENS // 4),
}
"""A recipe, and the tokens that are learned from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("traces")
    parser.add_argument("--work", type=Path, required=True, help="the folder of `laconic learn`")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the selectors")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, separated by commas")
    asked = parser.parse_args()
    names = asked.recipes.split(",")
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        parser.error(f"there is no recipe {unknown[0]!r}; expected some of {', '.join(RECIPES)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    learned, _ = split_traces(read_traces(asked.traces).records)
    model, _ = load(asked.model, fix_rotation=True)
    for name in names:
        recipe, tokens = RECIPES[name]
        place = asked.out / f"{name}.safetensors"
        if place.exists():
            continue
        start = time.monotonic()
        found = learn_selector(model, learned, parse_recipe(recipe), asked.work, tokens=tokens)
        write_selector(place, found.selector)
        hit = sum(fit.hit for fit in found.fits) / len(found.fits)
        print(f"{name}: {recipe}, hits {hit:.3f}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
