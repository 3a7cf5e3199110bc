"""Where backups go and come from: a file, standard output or input, or an address that fsspec knows (s3://, …)."""

import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ops.exits import RefusedError
from store.errors import SettingsError, StateUnwritableError
from store.registry.files.durable import sync_folder

STREAM: Final = "-"
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_address(place: str) -> bool:
    """Whether a place is an address, and no path."""
    return _local(place) is None and place != STREAM


def _local(place: str) -> Path | None:
    """The path, where it is one."""
    found = _ADDRESS.match(place)
    if found is None:
        return None if place == STREAM else Path(place)
    return Path(place[len("file://") :]) if found[1].lower() == "file" else None


@contextmanager
def writing(place: str, *, force: bool) -> Iterator[BinaryIO]:
    """A backup to write, for its owner alone. It gets its name once the block has ended well; until then there is none.

    Raises:
        RefusedError: there is a file already.
        SettingsError: the address is of a kind that nobody here knows.
        StateUnwritableError: it takes nothing.
    """
    path = _local(place)
    with _said(place):
        if place == STREAM:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path is None:
            yield from _writing_away(place, force=force)
        else:
            yield from _writing_here(path, force=force)


def _writing_here(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    if path.is_dir():
        message = f"{path} is a folder: name a file in it, such as {path / 'understudy.tar.zst'}"
        raise RefusedError(message)
    if not path.absolute().parent.is_dir():
        message = f"{path.parent}: there is no such folder"
        raise SettingsError(message)
    if path.exists() and not force:
        message = f"{path} is there already: --force replaces it"
        raise RefusedError(message)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.absolute().parent)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _writing_away(place: str, *, force: bool) -> Iterator[BinaryIO]:
    system, name = _opened(place)
    if not force and system.exists(name):
        message = f"{place} is there already: --force replaces it"
        raise RefusedError(message)
    file = system.open(name, "wb")
    try:
        yield cast("BinaryIO", file)
    except BaseException:
        with suppress(Exception):  # object stores make an object when it is closed: this one is given up
            file.discard()
        raise
    file.close()


@contextmanager
def reading(place: str) -> Iterator[BinaryIO]:
    """A backup to read; errors are those of `writing`, and SettingsError where there is none."""
    path = _local(place)
    with _said(place, missing=f"there is no backup {place}"):
        if place == STREAM:
            yield sys.stdin.buffer
        elif path is None:
            system, name = _opened(place)
            with system.open(name, "rb") as file:
                yield cast("BinaryIO", file)
        else:
            with path.open("rb") as file:
                yield file


def _opened(place: str) -> tuple[Any, str]:
    """The file system of an address, and the name on it."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - for an address alone

    try:
        system, name = url_to_fs(place)
    except (ImportError, ValueError) as error:
        message = (
            f"{place}: {error}. Install what fsspec needs for it (s3://: the extra `s3`), or write to a file or to -"
        )
        raise SettingsError(message) from error
    return system, str(name)


@contextmanager
def _said(place: str, *, missing: str | None = None) -> Iterator[None]:
    """What a place does not do, as an error of ours."""
    try:
        yield
    except FileNotFoundError as error:
        message = missing or f"{error.filename or place}: it is not there"
        raise SettingsError(message) from error
    except PermissionError as error:
        message = f"{error.filename or place}: {error.strerror or error}"
        raise SettingsError(message) from error
    except OSError as error:
        message = f"{error.filename or place}: {error.strerror or error}"
        raise StateUnwritableError(message) from error
