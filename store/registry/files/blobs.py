"""Files kept once by their sha256 and hard-linked into every version that has them.

Forty versions with one encoder hold one encoder. A blob that no version links is left over from a crash.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from store.errors import RegistryError
from store.registry.files.durable import make_folder, open_regular, remove_unfinished, sync_folder
from store.registry.manifest import FileEntry

_BLOB: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = ".tmp-"
_CHUNK_BYTES: Final = 1 << 20


class Blobs:
    """One folder of blobs; callers hold the registry's lock."""

    def __init__(self, folder: Path) -> None:
        """Keep the blobs in `folder`, which is made when the first is added."""
        self._folder = folder

    def add(self, source: Path) -> FileEntry:
        """Keep a copy of the file, unless an intact one is kept already; the file itself is left as it is.

        Raises:
            RegistryError: it is no regular file, or changed while it was read.
        """
        entry = _entry_of(source)
        blob = self._folder / entry.sha256
        if _is_regular(blob) and _entry_of(blob) == entry:
            return entry
        make_folder(self._folder)
        temporary = self._folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        if _copy(source, temporary) != entry:
            message = f"{source} changed while it was being published: stop whatever writes it and publish again"
            raise RegistryError(message)
        temporary.replace(blob)
        sync_folder(self._folder)
        return entry

    def link(self, entry: FileEntry, target: Path) -> None:
        """Give a kept blob another name."""
        os.link(self._folder / entry.sha256, target)

    def collect(self) -> list[str]:
        """Remove what a crash or a failure left: half-written copies, and blobs that no version links.

        Returns:
            What is there and is not ours, or could not be removed, each with the reason.
        """
        odd: list[str] = []
        try:
            entries = sorted(os.scandir(self._folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            return [f"{self._folder}: {error.strerror}"]
        for entry in entries:
            why = self._look_at(entry)
            if why is not None:
                odd.append(f"{entry.path}: {why}")
        return odd

    def _look_at(self, entry: "os.DirEntry[str]") -> str | None:
        """Remove one name if it is left over; why not, where it should not be there."""
        path = Path(entry.path)
        if entry.name.startswith(_TEMPORARY):
            return remove_unfinished(path)
        try:
            found = path.lstat()
        except OSError as error:
            return None if isinstance(error, FileNotFoundError) else error.strerror
        if _BLOB.fullmatch(entry.name) is None or not stat.S_ISREG(found.st_mode):
            return "not a blob of ours"
        return remove_unfinished(path) if found.st_nlink == 1 else None


def _is_regular(path: Path) -> bool:
    """Whether a file lies there; a link to one is none."""
    return path.is_file() and not path.is_symlink()


def read_verified(path: Path, entry: FileEntry) -> bytes | None:
    """The file's bytes, hashed after they were read; None where they are not the entry's."""
    with open_regular(path) as file:
        data = file.read(entry.size_bytes + 1)
    return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None


def is_intact(path: Path, entry: FileEntry) -> bool:
    """Whether the file's size and sha256 are the entry's; a wrong size is not read."""
    return path.stat(follow_symlinks=False).st_size == entry.size_bytes and _entry_of(path) == entry


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _entry_of(path: Path) -> FileEntry:
    digest = hashlib.sha256()
    size_bytes = 0
    with open_regular(path) as file:
        for chunk in _chunks(file):
            digest.update(chunk)
            size_bytes += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size_bytes)


def _copy(source: Path, target: Path) -> FileEntry:
    digest = hashlib.sha256()
    size_bytes = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open_regular(source) as file, os.fdopen(os.open(target, flags, 0o444), "wb") as copy:
        for chunk in _chunks(file):
            digest.update(chunk)
            size_bytes += len(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size_bytes)
