"""The tokens of a fine-tuned model's thoughts, read from `lightthinker.json` beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.utils import cached_file

from laconic.compress.thoughts import FILE, NAME, ThoughtTokens
from laconic.errors import InputError, LaconicError, reason


def read_thought_tokens(model: str, vocabulary: int) -> ThoughtTokens:
    """model: a folder or a name on the Hub; vocabulary: its number of tokens. Raises InputError where there is no such file, or
    one that doesn't fit."""
    expected = f"policy {NAME} runs on a model that was fine-tuned for it (python -m training.lightthinker does so)"
    folder = Path(model).expanduser()
    if not model or (folder.is_dir() and not (folder / FILE).is_file()):
        raise InputError(f"{model or 'this model, which was loaded from nowhere,'} has no {FILE}: {expected}")
    try:
        file = folder / FILE if folder.is_dir() else Path(str(cached_file(model, FILE)))
        tokens = ThoughtTokens.of(json.loads(file.read_text(encoding="utf-8")))
    except LaconicError:
        raise
    except ValueError as error:
        raise InputError(f"{FILE} of {model} is no JSON ({reason(error)}): write it again") from error
    except Exception as error:  # the Hub's, of many kinds
        raise InputError(f"{FILE} of {model} can't be read ({reason(error)}): {expected}") from error
    if max(tokens.splitter, *tokens.fed) >= vocabulary:
        raise InputError(
            f"{FILE} of {model} names tokens up to {max(tokens.splitter, *tokens.fed)}, the model has {vocabulary}; expected "
            "ids below that: export the model and the file together"
        )
    return tokens
