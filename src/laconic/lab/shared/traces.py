"""Whether recorded traces are a model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.engines.hf.models import text_config
from laconic.errors import InputError
from laconic.traces import TraceRecord, tokenizer_fingerprint


def check_tokenizer(records: Sequence[TraceRecord], tokenizer: Any, model: Any = None) -> None:
    """Raises InputError where traces were written with another tokenizer than this, or hold a token id beyond it.

    model: says what ids there are, if it is given: its embedding may have more rows than the tokenizer tokens.
    """
    most = len(tokenizer) if model is None else max(len(tokenizer), text_config(model).vocab_size)
    for record in records:
        for what, ids in (("token_ids", record.token_ids), ("prompt_ids", record.prompt_ids)):
            if ids and max(ids) >= most:
                raise InputError(
                    f"{what} of trace {record.index} of problem {record.problem} has the entry {max(ids)}; the model has the "
                    f"token ids 0 to {most - 1}: give the model that wrote the traces, or mend the file"
                )
    mine = tokenizer_fingerprint(tokenizer)
    for theirs in {str(record.settings.get("tokenizer", mine)) for record in records}:
        if theirs != mine:
            raise InputError(
                f"the traces were written with the tokenizer {theirs}, the model's is {mine}; give the model that wrote them"
            )
