"""`laconic plan` from the command line: tables that say what the plan says, JSON, sizes, sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.plan import parse_size
from laconic.compress import RPC
from laconic.engines.hf.planning import plan
from laconic.errors import LaconicError

RUN = ("--prompt", 10, "--length", 200, "--batch", 4, "-p", "full;rpc:interval=32,ratio=4,window=8")


def test_it_says_what_the_plan_says(invoke: Any, tiny: Path) -> None:
    wanted = plan(tiny, ["full", "rpc:interval=32,ratio=4,window=8"], prompt=10, length=200, batch=4, memory=10**7)
    record = json.loads(invoke("plan", tiny, *RUN, "--memory", "10MB", "--json").stdout)
    assert record == json.loads(json.dumps(wanted.to_json()))
    out = invoke("plan", tiny, *RUN, "--memory", "10MB").stdout
    assert f"KV       float32, {wanted.bytes_per_token} bytes a token" in out
    assert "run      4 traces, each 10 prompt + 200 generated tokens" in out
    assert "million parameters, from the files)" in out
    table = out[out.index("KV of the batch") :]
    for one in wanted.policies:
        (line,) = [line for line in table.splitlines() if line.startswith(one.policy)]
        assert f" {one.fits} " in line
        assert f"{one.peak / 1024:.2f} KiB" in line


def test_a_config_alone_needs_no_weights(invoke: Any, tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny / "config.json", tmp_path)
    for model in (tmp_path, tmp_path / "config.json"):
        record = json.loads(invoke("plan", model, *RUN, "--json").stdout)
        assert record["weights"]["source"] == "config"
        assert record["policies"][0]["fits"] is None


def test_the_bundled_reasoner_has_settings_of_its_own(invoke: Any) -> None:
    record = json.loads(invoke("plan", "bundled", "--json").stdout)
    assert (record["model"], record["length"]) == ("bundled reasoner", 512)
    assert [one["policy"] for one in record["policies"]] == ["full", RPC(interval=128, ratio=4, window=32).spec()]


def test_a_published_shape_needs_no_file(invoke: Any) -> None:
    result = invoke("plan", "r1-distill-qwen-7b", "-b", 16, "--memory", "80GB", "--block-size", 16, "--json")
    record = json.loads(result.stdout)
    assert (record["bytes_per_token"], record["dtype"], record["weights"]["parameters"]) == (
        57344,
        "bfloat16",
        7615616512,
    )
    full, rpc = record["policies"]
    assert (full["peak"], full["fits"]) == (16 * 57344 * (128 + 32768), 34)
    assert rpc["fits"] > 2 * full["fits"]
    assert result.stderr == ""


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_any_width(invoke: Any, tiny: Path, columns: str) -> None:
    out = invoke("plan", tiny, *RUN, "--memory", "10MB", env={"COLUMNS": columns}).stdout
    tables = out[out.index("Layers") :]
    assert max(map(len, tables.splitlines())) <= int(columns)
    assert "full attention" in tables
    assert "rpc:interval=32,ratio=4,window=8" in tables


def test_a_trace_longer_than_the_context_is_told_once(invoke: Any, tiny: Path) -> None:
    result = invoke("plan", tiny, "--length", 300, "--json")
    assert result.exit_code == 0
    assert (
        result.stderr == f"warning: 128 + 300 tokens are more than the context of {tiny}, 256: traces would end there\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere/at/all"], "there is no model at /nowhere/at/all"),
        (["bundled", "--length", 0], "length is 0"),
        (["bundled", "-p", "rcp"], "policy 'rcp' is unknown"),
        (["bundled", "-p", ";"], "at least one policy"),
        (["bundled", "--memory", "much"], "--memory is 'much'; expected a size such as 80GB or 75GiB"),
        (["bundled", "--kv-dtype", "int4"], "dtype is 'int4'; expected one of auto, float32"),
        (["bundled", "--block-size", 0], "block_size is 0"),
    ],
)
def test_bad_input_is_one_sentence(invoke: Any, arguments: list[object], said: str) -> None:
    result = invoke("plan", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("80GB", 80 * 10**9),
        ("75 GiB", 75 * 2**30),
        ("1.5gb", 15 * 10**8),
        ("512MiB", 2**29),
        ("7B", 7),
        ("2tb", 2 * 10**12),
    ],
)
def test_sizes(text: str, bytes: int) -> None:
    assert parse_size(text) == bytes


@pytest.mark.parametrize("text", ["", "GB", "80", "0GB", "-3GB", "80 bananas", "1.2.3GB", "5iB", "1e9B", "nanGB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(LaconicError, match="--memory is"):
        parse_size(text)
