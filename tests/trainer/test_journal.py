"""What became of a cycle is written down whole, or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from store.registry.durable import append_line
from trainer.daemon.journal import summary_of
from trainer.worker import WorkFailedError


def test_a_line_is_appended_whole_and_a_torn_one_before_it_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "cycles.jsonl"
    append_line(path, b'{"a":1}')
    with path.open("ab") as file:
        file.write(b'{"half')
    append_line(path, b'{"b":2}')
    assert path.read_bytes() == b'{"a":1}\n{"half\n{"b":2}\n'
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("taken", [0, 3])
def test_a_full_disk_takes_none_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    path = tmp_path / "cycles.jsonl"
    append_line(path, b'{"a":1}')
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if taken:
            return write(descriptor, data[:taken])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            append_line(path, b'{"b":2}')
    assert path.read_bytes() == b'{"a":1}\n'
    append_line(path, b'{"b":2}')
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("odd"), "ValueError: odd"),
        (WorkFailedError("OSError: [Errno 28] full", "Traceback\n..."), "OSError: [Errno 28] full"),
    ],
)
def test_an_error_is_its_type_and_its_message(error: Any, said: str) -> None:
    assert summary_of(error) == said
