"""Files of selectors: written and read back, found by fingerprint, and every way in which one can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from laconic import selectors
from laconic.assets import reasoner_path
from laconic.compress import RPC, Learned, Rotation
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.engines.hf.facts import HFModelInfo
from laconic.errors import LaconicError
from laconic.problems import generate
from laconic.selectors import (
    cache_folder,
    check_named_file,
    digest_of,
    find_selector,
    place_of,
    read_selector,
    write_selector,
)
from tests.reference.selectors import Files, random_selector

ROTATION = Rotation(torch.tensor([1.0, 0.1]), halves=False)


SHIPPED = selectors.SHIPPED


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(selectors, "SHIPPED", tmp_path / "shipped")


@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["none", "rope"])
@pytest.mark.parametrize("per_head", [False, True])
def test_what_is_written_is_read(tmp_path: Path, per_head: bool, rotation: Rotation | None) -> None:
    made = random_selector(
        (0, 5), 3, 8, ("value", "key"), per_head, rotation, fingerprint="abc", recipe={"traces": 3, "seen": [1, 2.5]}
    )
    write_selector(tmp_path / "new" / "one.safetensors", made)
    read = read_selector(str(tmp_path / "new" / "one.safetensors"))
    for name in ("features", "layers", "kv_heads", "head_size", "per_head", "fingerprint", "recipe"):
        assert getattr(read, name) == getattr(made, name), name
    assert all(torch.equal(read.weights[name], made.weights[name]) for name in made.weights)
    assert set(read.weights) == set(made.weights)
    if rotation is None:
        assert read.rotation is None
    else:
        assert read.rotation is not None
        assert torch.equal(read.rotation.frequencies, rotation.frequencies)
        assert read.rotation.halves is False


def test_a_selector_is_told_by_its_content(tmp_path: Path) -> None:
    write_selector(tmp_path / "one.safetensors", random_selector(hidden=8))
    write_selector(tmp_path / "other.safetensors", random_selector(hidden=8))
    write_selector(place_of("abc"), random_selector(hidden=4))
    files = Files("abc")
    first = digest_of(Learned(str(tmp_path / "one.safetensors")), files)
    assert first is not None
    assert len(first) == 12
    assert digest_of(Learned(str(tmp_path / "other.safetensors")), files) == first
    assert digest_of(Learned(), files) not in (None, first)
    assert digest_of(RPC(), files) is None
    for policy, place in (
        (Learned(), Files("else")),
        (Learned(), Files(None)),
        (Learned(str(tmp_path / "none")), files),
    ):
        with pytest.raises(LaconicError, match="selector"):
            digest_of(policy, place)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_selector(path, random_selector(fingerprint="first"))
    write_selector(path, random_selector(fingerprint="second"))
    assert read_selector(path).fingerprint == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["one.safetensors"]


def test_where_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaconicError, match="is a directory; expected the name of a file"):
        write_selector(tmp_path, random_selector())
    with pytest.raises(LaconicError, match="selector is 5; expected a Selector"):
        write_selector(tmp_path / "x", 5)  # type: ignore[arg-type]
    path = tmp_path / "full.safetensors"
    write_selector(path, random_selector(fingerprint="first"))

    def full(*given: Any, **more: Any) -> None:
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LaconicError, match=r"full\.safetensors can't be written .*No space left.*make room"):
        write_selector(path, random_selector(fingerprint="second"))
    assert read_selector(path).fingerprint == "first"


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "selectors"
    monkeypatch.setenv("LACONIC_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine" / "selectors"
    monkeypatch.delenv("LACONIC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "laconic" / "selectors"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "laconic" / "selectors"
    assert place_of("abc") == cache_folder() / "abc.safetensors"


def test_the_users_own_comes_before_one_that_ships(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped" / "abc.safetensors"
    with pytest.raises(
        LaconicError, match=r"no selector for this model yet \(its fingerprint is abc\); make one with:"
    ):
        find_selector("abc")
    write_selector(shipped, random_selector())
    assert find_selector("abc") == shipped
    write_selector(place_of("abc"), random_selector())
    assert find_selector("abc") == place_of("abc")
    with pytest.raises(
        LaconicError, match="names no selector and the weights can't be told here; expected learned:FILE"
    ):
        find_selector(None)


def test_a_file_that_is_missing_or_no_path() -> None:
    with pytest.raises(LaconicError, match="there is no selector file no/such/file; expected one that laconic learn"):
        read_selector("no/such/file")
    with pytest.raises(LaconicError, match="path is 5; expected the path of a file"):
        read_selector(5)  # type: ignore[arg-type]


def test_a_file_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_selector(path, random_selector())
    whole = path.read_bytes()
    for length in (0, 4, 8, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LaconicError, match=r"is no whole selector file .* make it again") as caught:
            read_selector(path)
        assert "\n" not in str(caught.value)


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_text("not at all\n" * 30)
    with pytest.raises(LaconicError, match="is no whole selector file"):
        read_selector(path)
    for said in (None, {"laconic": json.dumps({"format": "laconic.selector/9"})}, {"laconic": "[]"}, {"other": "x"}):
        save_file({"a": torch.zeros(1)}, path, metadata=said)
        with pytest.raises(LaconicError, match=r"is no selector of the format laconic\.selector/1"):
            read_selector(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"laconic": "{"})
    with pytest.raises(LaconicError, match="is no whole selector file"):
        read_selector(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "lacks .*make it again"),
        ({"recipe": ...}, "lacks 'recipe'; .*make it again"),
        ({"features": ["colour"]}, "holds no selector that fits together: features is 'colour'"),
        ({"kv_heads": "2"}, "fits together: kv_heads is '2'"),
        ({"per_head": True}, "fits together: mean of the selector's weights has shape"),
        ({"layers": ["a"]}, "fits together: layers"),
        ({"fingerprint": 5}, "fits together: fingerprint is 5"),
    ],
)
def test_a_file_whose_parts_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "one.safetensors"
    write_selector(path, random_selector())
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["laconic"]) | change
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {name: value for name, value in about.items() if value is not ...}
    save_file(tensors, path, metadata={"laconic": json.dumps(kept)})
    with pytest.raises(LaconicError, match=message):
        read_selector(path)
    del tensors["scale"]
    save_file(tensors, path, metadata={"laconic": json.dumps(kept)})
    with pytest.raises(LaconicError, match=r"lack|fits together"):
        read_selector(path)


def test_a_policys_file_is_looked_at_before_a_model_is(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    for policy in (RPC(), Learned()):
        check_named_file(policy)
    with pytest.raises(LaconicError, match=r"there is no selector file .*one\.safetensors"):
        check_named_file(Learned(str(path)))
    write_selector(path, random_selector())
    check_named_file(Learned(str(path)))


def test_the_bundled_reasoners_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "SHIPPED", SHIPPED)
    model, tokenizer = load(reasoner_path())
    path = find_selector(HFModelInfo(model).fingerprint())
    assert path.parent == SHIPPED
    assert path.stat().st_size < 300_000
    assert read_selector(path).recipe["check"]["better"] is True
    engine = HFEngine(model, tokenizer, Learned(interval=64, window=16))
    engine.generate([generate(1)[0].question], Sampling(max_new_tokens=100, temperature=0))
    assert engine.stats.evicted == 48
