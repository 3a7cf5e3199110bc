"""Files that are written aside and renamed."""

import errno
import os
from pathlib import Path

import pytest

from store.event import wall_clock_s
from trainer.learn.aside import put, sweep


def test_a_file_is_there_whole_and_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    put(path, b"one")
    put(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_where_it_cannot_be_written_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    put(path, b"one")
    monkeypatch.setattr(os, stage, full)
    with pytest.raises(OSError, match="No space left"):
        put(path, b"two")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("file", b"one")]


def test_it_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, replace = list[str](), os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        done.append("flushed")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    put(tmp_path / "file", b"one")
    assert done == ["flushed", "renamed"]


def test_what_killed_writers_left_is_swept_and_what_is_young_stays(tmp_path: Path) -> None:
    old, young, whole = tmp_path / "a.1.tmp", tmp_path / "a.2.tmp", tmp_path / "a"
    for one in (old, young, whole):
        one.write_bytes(b"x")
    os.utime(old, (0, wall_clock_s() - 7200.0))
    os.utime(whole, (0, wall_clock_s() - 7200.0))
    sweep(tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"a", "a.2.tmp"}
    sweep(tmp_path, older_s=0.0)
    assert {one.name for one in tmp_path.iterdir()} == {"a"}
