"""The real bench's own small parts; that it runs real models is tested from the command line (tests/cli/test_parallel.py)."""

from __future__ import annotations

import pytest

from laconic.errors import LaconicError
from laconic.lab.parallel.setup import confidence_top_k_of, slug


def test_log_probabilities_are_recorded_where_a_strategy_reads_them() -> None:
    assert confidence_top_k_of(["deepprune", "self-consistency"]) == 0
    assert confidence_top_k_of([]) == 0
    assert confidence_top_k_of(["deepprune", "deepconf:low", "deepconf:high"]) == 20
    assert confidence_top_k_of(["deepconf:low,top_k=5"]) == 5
    assert confidence_top_k_of(["deepprune:vote=confidence", "cons"]) == 20


def test_traces_are_recorded_with_one_number_of_candidates() -> None:
    with pytest.raises(LaconicError, match=r"deepconf:low,top_k=5 and deepconf:high .* \(5, 20\)"):
        confidence_top_k_of(["deepconf:low,top_k=5", "deepconf:high"])


def test_a_label_as_a_part_of_a_files_name() -> None:
    assert slug("none") == "none"
    assert slug("rpc:ratio=2.5,window=8") == "rpc-ratio-2.5-window-8"
