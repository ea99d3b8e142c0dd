"""The results file: resumed, refused, torn."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.errors import LaconicError
from laconic.journal import Journal, differences

SETTINGS = {"model": "bundled", "sampling": {"temperature": 0.6, "seed": 0}, "ratios": [2, 4]}


def write(path: Path, count: int) -> None:
    with Journal(path, "test/1", SETTINGS) as journal:
        journal.append([{"n": n} for n in range(count)])


def test_a_second_run_finds_what_the_first_wrote(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    write(path, 3)
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}, {"n": 1}, {"n": 2}]
        journal.append([{"n": 3}])
        assert journal.torn == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("n") for line in lines] == [None, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "other"}, "model was 'bundled', now 'other'"),
        ({"sampling": {"temperature": 0.6, "seed": 1}}, "sampling.seed was 0, now 1"),
        ({"ratios": [2, 4, 8]}, r"ratios was \[2, 4\], now \[2, 4, 8\]"),
        ({"extra": 1}, "extra was not set, now 1"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path, change: dict, says: str) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 2)
    before = path.read_bytes()
    with pytest.raises(LaconicError, match=says):
        Journal(path, "test/1", {**SETTINGS, **change})
    assert path.read_bytes() == before


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 1)
    with pytest.raises(LaconicError, match=r"test/1.*test/2"):
        Journal(path, "test/2", SETTINGS)


def test_what_an_older_file_does_not_say_is_implied(tmp_path: Path) -> None:
    path, now = tmp_path / "results.jsonl", {**SETTINGS, "engine": {"name": "old"}}
    write(path, 1)
    before = path.read_bytes()
    with pytest.raises(LaconicError, match=r"engine was not set, now \{'name': 'old'\}"):
        Journal(path, "test/1", now)
    with pytest.raises(LaconicError, match=r"\(engine\.name was 'old', now 'new'\)"):
        Journal(path, "test/1", {**SETTINGS, "engine": {"name": "new"}}, implied={"engine": {"name": "old"}})
    assert path.read_bytes() == before
    with Journal(path, "test/1", now, implied={"engine": {"name": "old"}}) as journal:
        assert journal.records == [{"n": 0}]
    other = tmp_path / "other.jsonl"
    with Journal(other, "test/1", {**SETTINGS, "engine": {"name": "new"}}) as journal:
        journal.append([{"n": 0}])
    with pytest.raises(LaconicError, match=r"engine\.name was 'new', now 'old'"):
        Journal(other, "test/1", now, implied={"engine": {"name": "old"}})


def test_every_cut_of_the_last_line_is_survived(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    with Journal(whole, "test/1", SETTINGS) as journal:
        journal.append([{"text": "one"}, {"text": "zwölf"}])
    data = whole.read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(start + 1, len(data)):
        if cut in (len(data) - 1, start):
            continue
        path = tmp_path / f"cut{cut}.jsonl"
        piece = data[:cut]
        try:
            piece.decode()
        except UnicodeDecodeError:
            continue  # a cut inside a character has its own test
        path.write_bytes(piece)
        with Journal(path, "test/1", SETTINGS) as journal:
            assert journal.records == [{"text": "one"}]
            assert journal.torn > 0
            journal.append([{"text": "two"}])
        with Journal(path, "test/1", SETTINGS) as journal:
            assert journal.records == [{"text": "one"}, {"text": "two"}]
            assert journal.torn == 0


def test_a_cut_inside_a_character_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path, "test/1", SETTINGS) as journal:
        journal.append([{"text": "one"}, {"text": "zwölf"}])
    data = path.read_bytes()
    path.write_bytes(data[: data.index("ö".encode()) + 1])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"text": "one"}]
        journal.append([{"text": "two"}])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"text": "one"}, {"text": "two"}]


def test_a_missing_line_end_alone_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}, {"n": 1}]
        journal.append([{"n": 2}])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert len(journal.records) == 3


def test_a_torn_header_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "head')
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == []
        journal.append([{"n": 0}])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}]


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 2)
    lines = path.read_text().splitlines()
    lines[1] = "{broken"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(LaconicError, match="Line 2 of"):
        Journal(path, "test/1", SETTINGS)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"question": "?"}\n')
    with pytest.raises(LaconicError, match="not a results file"):
        Journal(path, "test/1", SETTINGS)
    assert path.read_text() == '{"question": "?"}\n'
    path.write_text("a note without a line end")
    with pytest.raises(LaconicError, match="not a results file"):
        Journal(path, "test/1", SETTINGS)
    assert path.read_text() == "a note without a line end"
    with pytest.raises(LaconicError, match="is a directory"):
        Journal(tmp_path, "test/1", SETTINGS)


def test_two_runs_on_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path, "test/1", SETTINGS), pytest.raises(LaconicError, match="in use by another run"):
        Journal(path, "test/1", SETTINGS)
    Journal(path, "test/1", SETTINGS).close()


def test_records_are_on_disk_before_append_returns(tmp_path: Path) -> None:
    """A process killed right after `append` (no exit handlers, no buffers flushed) has lost nothing."""
    path = tmp_path / "results.jsonl"
    code = (
        "import os, signal, sys; from laconic.journal import Journal\n"
        f"journal = Journal({str(path)!r}, 'test/1', {{}}); journal.append([{{'n': n}} for n in range(5)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == -signal.SIGKILL
    with Journal(path, "test/1", {}) as journal:
        assert [record["n"] for record in journal.records] == [0, 1, 2, 3, 4]


def test_differences_name_the_innermost_key() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == [("a.c", 2, 3)]
    assert differences({"a": 1}, {"a": 1.0}) == [("a", 1, 1.0)]  # an integer ratio is written as one: say so
    assert differences({"a": [1]}, {"a": [1]}) == []


def filling(room: int):
    """An os.write of a disk that has `room` bytes left: the last write that still fits in part is cut short."""
    real, left = os.write, room

    def write(fd: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(fd, data[:left])
        left -= done
        return done

    return write


def test_a_disk_that_fills_up_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = len(json.dumps({"n": 0})) + 1
    for room in range(3 * line):
        path = tmp_path / f"{room}.jsonl"
        write(path, 2)
        with Journal(path, "test/1", SETTINGS) as journal:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", filling(room))
                with pytest.raises(LaconicError, match=rf"no room left to write .*{room}\.jsonl .*No space left"):
                    journal.append([{"n": n} for n in range(2, 5)])
            assert journal.records == [{"n": 0}, {"n": 1}]
        with Journal(path, "test/1", SETTINGS) as journal:  # with room again
            assert journal.torn == 0
            assert journal.records == [{"n": n} for n in range(2 + room // line)]
            journal.append([{"n": 9}])
        assert json.loads(path.read_text().splitlines()[-1]) == {"n": 9}


def test_a_disk_full_at_the_flush_is_told_alike_and_other_errors_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 1)
    with Journal(path, "test/1", SETTINGS) as journal:
        for number, kind, says in ((errno.EDQUOT, LaconicError, "no room left"), (errno.EIO, OSError, str(path))):
            error = OSError(number, os.strerror(number))

            def fail(fd: int, error: OSError = error) -> None:
                raise error

            monkeypatch.setattr(os, "fsync", fail)
            with pytest.raises(kind, match=says):
                journal.append([{"n": 1}])


def test_an_interrupted_write_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 1)
    before = path.read_bytes()
    real = os.write

    def interrupted(fd: int, data: bytes) -> int:
        real(fd, data[:4])
        raise KeyboardInterrupt

    with Journal(path, "test/1", SETTINGS) as journal, monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append([{"n": 1}])
    assert path.read_bytes() == before


def test_broken_lines_are_passed_over_where_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 4)
    lines = path.read_bytes().splitlines()
    lines[2], lines[3] = b'{"n": ', b'["n"]'
    path.write_bytes(b"\n".join(lines) + b"\n")
    with Journal(path, "test/1", SETTINGS, skip_broken=True) as journal:
        assert journal.records == [{"n": 0}, {"n": 3}]
        assert journal.broken == ["line 3 is not JSON", "line 4 is not a JSON object"]
    lines[0] = b'{"kind": "header'
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(LaconicError, match="Line 1 of"):
        Journal(path, "test/1", SETTINGS, skip_broken=True)


def test_only_what_is_asked_for_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path, "test/1", SETTINGS, remember=lambda record: {"n": record["n"]}) as journal:
        journal.append([{"n": 0, "text": "long"}], sync=False)
        assert journal.records == [{"n": 0}]
        assert json.loads(path.read_text().splitlines()[-1]) == {"n": 0, "text": "long"}  # before any sync
        journal.sync()
    with Journal(path, "test/1", SETTINGS, remember=lambda record: {"n": record["n"]}) as journal:
        assert journal.records == [{"n": 0}]


def test_a_record_that_can_not_be_remembered_is_a_broken_line(tmp_path: Path) -> None:
    def positive(record: dict) -> dict:
        if record["n"] == 1:
            raise LaconicError("n is 1")
        return record

    path = tmp_path / "results.jsonl"
    write(path, 3)
    with Journal(path, "test/1", SETTINGS, remember=positive, skip_broken=True) as journal:
        assert journal.records == [{"n": 0}, {"n": 2}]
        assert journal.broken == ["line 3 is no record of its kind (n is 1)"]
    with pytest.raises(LaconicError, match=r"Line 3 of .* is no record of its kind \(n is 1\)"):
        Journal(path, "test/1", SETTINGS, remember=positive)


# ---- what a refused, removed or special file leaves behind ---------------------------------------------------------------


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path, "test/1", SETTINGS):
        assert path.exists()  # held, so that no other run takes it
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), Journal(path, "test/1", SETTINGS):
        raise ZeroDivisionError
    assert not path.exists()
    path.touch()
    with Journal(path, "test/1", SETTINGS):
        pass
    assert path.exists()  # somebody else's


def test_a_header_without_records_binds_nobody(tmp_path: Path) -> None:
    """Files of earlier versions, which wrote the header at once."""
    path = tmp_path / "results.jsonl"
    header = json.dumps({"kind": "header", "format": "test/1", "settings": {"model": "mistyped"}})
    for content in (header, header + "\n", header + '\n\n{"kind": "tra'):
        path.write_text(content)
        with Journal(path, "test/1", SETTINGS) as journal:
            journal.append([{"n": 0}])
        assert json.loads(path.read_text().splitlines()[0])["settings"] == SETTINGS
    path.write_text(header + '\n{"n": 0}\n')
    with pytest.raises(LaconicError, match="model was 'mistyped', now 'bundled'"):
        Journal(path, "test/1", SETTINGS)
    path.write_text(header)
    with pytest.raises(LaconicError, match=r"test/1.*test/2"):  # another kind of file may be anything
        Journal(path, "test/2", SETTINGS)


@pytest.mark.parametrize("directory", [False, True])
def test_a_file_that_is_removed_while_it_is_written_is_put_back(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "runs" / "results.jsonl"
    with Journal(path, "test/1", SETTINGS) as journal:
        journal.append([{"n": 0}])
        shutil.rmtree(path.parent) if directory else path.unlink()
        with pytest.raises(LaconicError, match=r"was removed while this run was writing to it; it has been put back"):
            journal.append([{"n": 1}])
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}, {"n": 1}]


def test_a_file_that_is_removed_after_the_last_record_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = Journal(path, "test/1", SETTINGS)
    journal.append([{"n": 0}])
    path.unlink()
    with pytest.raises(LaconicError, match="put back"), journal:
        pass
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}]


def test_a_file_that_takes_the_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with Journal(path, "test/1", SETTINGS) as journal:
        journal.append([{"n": 0}])
        path.unlink()
        path.write_text("other")
        with pytest.raises(LaconicError, match=r"another file stands there, and what it held is now in .*saved-1"):
            journal.append([{"n": 1}])
    assert path.read_text() == "other"
    with Journal(tmp_path / "results.jsonl.saved-1", "test/1", SETTINGS) as journal:
        assert journal.records == [{"n": 0}, {"n": 1}]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/full"), Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(LaconicError, match=f"{path} is a (device|pipe); expected the name of a file"):
            Journal(path, "test/1", SETTINGS)


def test_a_full_disk_at_the_first_record_leaves_one_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    header = len(json.dumps({"kind": "header", "format": "test/1", "settings": SETTINGS})) + 1
    for room in (0, 20, header, header + 3):
        with Journal(path, "test/1", SETTINGS) as journal:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", filling(room))
                with pytest.raises(LaconicError, match="no room left"):
                    journal.append([{"n": 0}])
            journal.append([{"n": 1}])
        lines = path.read_text().splitlines()
        assert [json.loads(line).get("kind") for line in lines] == ["header", None]
        path.unlink()


def test_lines_that_python_fails_on_are_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, 1)
    with open(path, "a") as file:
        file.write("[" * 100_000 + "]" * 100_000 + '\n{"n": "\\ud800"}\n{"n": ' + "9" * 5000 + '}\n{"n": 4}\n')
    with pytest.raises(LaconicError, match=r"Line 3 of .* is nested too deeply"):
        Journal(path, "test/1", SETTINGS)
    with Journal(path, "test/1", SETTINGS, skip_broken=True) as journal:
        assert journal.records == [{"n": 0}, {"n": 4}]
        assert len(journal.broken) == 3
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().splitlines()[0] + b"\n")  # an editor's mark
    with Journal(path, "test/1", SETTINGS) as journal:
        assert journal.records == []
