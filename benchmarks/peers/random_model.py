"""A model of one of laconic's shapes with random weights, as a directory that every peer loads: for speed alone.

    python benchmarks/peers/random_model.py tiny-kv DIR

The tokenizer is the bundled reasoner's: peers want one, and no text is made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from laconic.assets import reasoner_path
from laconic.engines.hf.shapes import build, get_shape
from laconic.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    try:
        shape = get_shape(asked.shape)
    except InputError as error:
        sys.exit(f"error: {error}")
    build(shape, torch.float32, torch.device("cpu")).save_pretrained(asked.out)
    AutoTokenizer.from_pretrained(reasoner_path()).save_pretrained(asked.out)


if __name__ == "__main__":
    main()
