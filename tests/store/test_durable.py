"""Lines that are appended whole, or not at all."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.access.tokens import add_token, read_tokens
from store.errors import SettingsError
from store.registry.files.durable import append_line
from store.registry.signing import SigningKey
from store.secrets import DataSecret


def test_a_line_is_appended_whole_and_a_torn_one_before_it_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "cycles.jsonl"
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
    write, room = os.write, [taken]

    def full(descriptor: int, data: bytes) -> int:
        if room[0]:
            left, room[0] = room[0], 0
            return write(descriptor, data[:left])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            append_line(path, b'{"b":2}')
    assert path.read_bytes() == b'{"a":1}\n'
    append_line(path, b'{"b":2}')
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("make", "read", "what"),
    [
        (lambda path: SigningKey.create(path, "ada"), SigningKey.load, "signing key"),
        (DataSecret.create, DataSecret.load, "data secret"),
        (lambda path: add_token(path, "ada", "view", 1.0), read_tokens, "keys.tokens:"),
    ],
)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_what_is_for_its_owner_alone_is_not_read_where_others_may_touch_it(
    tmp_path: Path, make: Callable[[Path], Any], read: Callable[[Path], Any], what: str, mode: int
) -> None:
    path = tmp_path / "private"
    make(path)
    assert read(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"{what} {path} is readable by others: chmod 600 it"):
        read(path)
