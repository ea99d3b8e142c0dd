"""Prose of Markdown pages in pieces of one length, for `laconic analyze` beside traces: do they repeat more than plain text?

    python benchmarks/plain_text.py MODEL OUT.jsonl docs/*.md README.md --tokens 512

Headings, tables, lists of links and code are left out. A piece is of one page; what is left at its end is left out.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from transformers import AutoTokenizer

from laconic.files import write_text


def prose(markdown: str) -> str:
    """The paragraphs of a page, without markup of links."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("#", "|", "![", "- ["))]
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", "\n".join(lines)).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=512)
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    lines = []
    for page in asked.pages:
        ids = tokenizer.encode(prose(page.read_text(encoding="utf-8")), add_special_tokens=False)
        for start in range(0, len(ids) - asked.tokens + 1, asked.tokens):
            piece = ids[start : start + asked.tokens]
            lines.append({"group": "plain text", "problem": f"{page.name} {start}", "token_ids": piece})
    write_text(asked.out, "".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} pieces of {asked.tokens} tokens in {asked.out}")


if __name__ == "__main__":
    main()
