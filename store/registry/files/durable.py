"""Files that survive a power cut, and the one file system property the registry cannot do without."""

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from store.errors import RegistryError, SettingsError
from store.log.lazy import logger

_log: Final = logger(__name__)
_Kept = TypeVar("_Kept")
_MOST_KEPT_BYTES: Final = 1 << 20
_OTHERS: Final = 0o077  # what group and others may do
PROBE_PREFIX: Final = ".probe-"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename or link is on disk only after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, where they are missing, and make their names durable; `mode` is the last one's.

    Without it a power cut may take a new folder with all that was fsynced in it.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(mode=mode if new == missing[0] else 0o777, exist_ok=True)
        sync_folder(new.parent)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put these bytes in a file's place, durably: after a power cut it is the old file or the new one, whole.

    One writer at a time: callers hold a lock, or are the only ones who write it.

    Raises:
        OSError: it was not written; the file that was there is as it was.
    """
    aside = _written_aside(path, data, mode)
    try:
        aside.replace(path)
    except OSError:
        clear_away(aside)
        raise
    sync_folder(path.parent)


def create(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make a file that must not be there yet, durably: after a power cut or a kill it is whole, or not there.

    Raises:
        FileExistsError: there is one already; it is not touched.
        OSError: it could not be written, and is not there.
    """
    aside = _written_aside(path, data, mode)
    try:
        os.link(aside, path)
    except FileExistsError as error:
        raise FileExistsError(error.errno, error.strerror, str(path)) from error
    finally:
        clear_away(aside)
    sync_folder(path.parent)


def _written_aside(path: Path, data: bytes, mode: int) -> Path:
    aside = path.with_name(f".{path.name}.new")
    clear_away(aside)  # of a writer that was killed
    write_new(aside, data, mode=mode)
    return aside


def write_new(path: Path, data: bytes, *, mode: int = 0o444) -> None:
    """Write a file that must not exist yet, and fsync it; the caller syncs the folder.

    Raises:
        FileExistsError: there is one already; it is not touched.
        OSError: it could not be written, and is not there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a full disk must not keep a half of it
        with suppress(OSError):
            path.unlink()
        raise


def append_line(path: Path, line: bytes) -> None:
    """Append a line, for its owner alone, and fsync it. All of it is there, or none: a full disk leaves no half line.

    A torn line that an earlier crash left stays a line of its own.

    Raises:
        OSError: it was not written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
            if size == 0:
                sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a symbolic link is not followed, a pipe is not waited for.

    Raises:
        FileNotFoundError: there is none.
        RegistryError: it is no regular file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise RegistryError(message) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = f"{path} is not a regular file"
        raise RegistryError(message)
    return os.fdopen(descriptor, "rb")


def read_private(path: Path, what: str) -> bytes:
    """Read a file that is for its owner alone: a key, a secret, tokens.

    Raises:
        SettingsError: group or others may do something with it; the message says what it is.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            message = f"{what} {path} is readable by others: chmod 600 it"
            raise SettingsError(message)
        return file.read()


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`.

    Raises:
        FileNotFoundError: there is none.
        RegistryError: it is larger, no regular file, or cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        message = f"{path} is larger than the {limit_bytes} bytes it may have"
        raise RegistryError(message)
    return data


def read_kept(path: Path, kind: type[_Kept]) -> _Kept | None:
    """What a process kept for its next start with `replace`; None where there is none, or, aloud, it is damaged."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MOST_KEPT_BYTES), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        _log.warning("what was kept for this start is unreadable", path=str(path), error=type(error).__name__)
        return None


def remove_unfinished(path: Path) -> str | None:
    """Remove a file or folder that a writer of ours left unfinished; why it is still there, where it is.

    Nothing raises: what is left over harms nobody, and must never turn a write that happened into an error. A link, a
    pipe or a device is not ours, whatever its name: it is neither followed nor removed.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        elif stat.S_ISREG(mode):
            path.unlink()
        else:
            return "neither a file nor a folder"
    except FileNotFoundError:
        return None
    except (OSError, RecursionError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def clear_away(path: Path) -> None:
    """Remove whatever lies at a path of ours that is to be made anew, as far as that can be done.

    A link is removed and never followed, a folder is removed with all it holds.
    """
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def require_exclusive_create(folder: Path) -> None:
    """See that creating a name twice fails the second time, by open and by hard link.

    Without it two writers could both believe that they made move 42.

    Raises:
        RegistryError: the file system of this folder cannot do it, or it cannot be written.
    """
    probe = folder / f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    second = probe.with_name(probe.name + "-link")
    try:
        make_folder(folder)
        write_new(probe, b"")
        os.link(probe, second)
        linked = probe.stat().st_nlink == 2  # noqa: PLR2004 - the file and its link
        exclusive = linked and _refuses(probe, second)
    except OSError as error:
        message = f"{folder} cannot hold a registry: {error}; use a local file system that has hard links"
        raise RegistryError(message) from error
    finally:
        for leftover in (probe, second):
            with suppress(OSError):
                leftover.unlink()
    if not exclusive:
        message = f"{folder} cannot hold a registry: its file system creates a name twice; use a local file system"
        raise RegistryError(message)


def _refuses(probe: Path, second: Path) -> bool:
    try:
        write_new(second, b"")
    except FileExistsError:
        pass
    else:
        return False
    try:
        os.link(probe, second)
    except FileExistsError:
        return True
    return False
