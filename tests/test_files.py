"""Outputs: refused where they can't be files, locked, replaced whole; a full disk in a sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.files import check_regular, lock_directory, name_write_errors, open_locked, replace_file, write_text


def full(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_what_is_no_regular_file_is_refused_without_being_opened(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    for path, kind in (
        (tmp_path, "a directory"),
        (pipe, "a pipe"),
        (Path("/dev/full"), "a device"),
        (tmp_path / "link", "a device"),
    ):
        with pytest.raises(LaconicError, match=f"{path} is {kind}; expected the name of a file for the page"):
            check_regular(path, "the page")
        for write in (lambda path: write_text(path, "x"), lambda path: open_locked(path)):
            with pytest.raises(LaconicError, match=f"is {kind}; expected the name of a file to write"):
                write(path)
    check_regular(tmp_path / "new")
    check_regular(tmp_path / "new" / "inner")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    os.chmod(path, 0o640)
    write_text(path, "second")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("second", 0o640)

    def half(new: Path) -> None:
        new.write_text("hal")
        full(new)

    with pytest.raises(LaconicError, match=f"no room left to write {path} .*make room and run the same command again"):
        replace_file(path, half)
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["results.json"]


def test_another_error_names_the_file_and_not_the_name_it_was_written_under(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(new))

    with pytest.raises(OSError, match="Input/output error") as caught:
        replace_file(tmp_path / "a.json", fail)
    assert caught.value.filename == str(tmp_path / "a.json")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "link.txt").is_symlink()


def test_a_read_only_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != path)  # root may write anything
    with pytest.raises(PermissionError):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_what_libraries_raise_where_a_disk_is_full_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(LaconicError, match=r"w\.pt can't be written \(file write failed\); most often there is no room"),
        name_write_errors(tmp_path / "w.pt", RuntimeError),
    ):
        raise RuntimeError("file write failed\nmore")
    with pytest.raises(RuntimeError, match="ours"), name_write_errors(tmp_path / "w.pt"):
        raise RuntimeError("ours")


def test_a_directory_is_one_runs_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "a" / "judge"
    with lock_directory(place):
        says = f"^{place} is in use by another run; wait for it, or name another"
        with pytest.raises(LaconicError, match=says), lock_directory(place):
            raise AssertionError("both")
        (place / "weights").write_text("w")
    assert os.listdir(place) == ["weights"]
    with lock_directory(place):
        pass
    with lock_directory(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from laconic.files import lock_directory\n"
        "with lock_directory(Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "judge")], check=False).returncode == 9
    with lock_directory(tmp_path / "judge"):
        pass
