"""A file system that remembers what would outlive a power cut: only what was fsynced, names and bytes apart.

A file's bytes are durable as they were at its last fsync, a folder's names as they were at the folder's. What was
never fsynced may be there or not, so a cut has several outcomes; `disks` gives those that matter. An fsync that fails
makes nothing durable, and neither does a later one of the same file: the kernel has dropped its dirty pages.
"""

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

_CALLS: Final = ("open", "fsync", "link", "rename", "replace", "mkdir", "unlink", "truncate", "ftruncate", "close")
_MOST_FOLDERS: Final = 4  # whose names are durable or not, each on its own


@dataclass(frozen=True, slots=True)
class _Kept:
    """One file or folder, as an outcome has it."""

    inode: int
    mode: int
    data: bytes | None  # None: a folder


Disk = dict[str, _Kept]
"""Path below the root -> what lies there after the cut."""


@dataclass(slots=True, kw_only=True)
class PowerCut:
    """Everything that was fsynced below a root since `recording` began; what lay there then is durable."""

    root: Path
    bytes_of: dict[int, bytes] = field(default_factory=dict)  # inode -> durable content
    names_of: dict[int, dict[str, int]] = field(default_factory=dict)  # a folder's inode -> durable name -> inode
    fsyncs_to_fail: int = 0  # the next so many fail
    looking: bool = False  # what is done now is the test's own
    _lost: set[int] = field(default_factory=set)  # inodes of which an fsync failed
    _held: list[int] = field(default_factory=list)  # keep inodes from being used again
    _modes: dict[int, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Everything that is there now is durable."""
        for folder, _, files in os.walk(self.root):
            self.synced(os.open(folder, os.O_RDONLY))
            for name in files:
                self.synced(os.open(Path(folder) / name, os.O_RDONLY))

    def synced(self, descriptor: int) -> None:
        """Take note of an fsync that succeeded; the descriptor is kept."""
        found = os.fstat(descriptor)
        self._held.append(descriptor)
        self._modes[found.st_ino] = found.st_mode
        if stat.S_ISDIR(found.st_mode):
            self.names_of[found.st_ino] = self._present(Path(f"/proc/self/fd/{descriptor}"))
        elif found.st_ino not in self._lost:
            self.bytes_of[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def fail(self, descriptor: int) -> None:
        """Fail an fsync: what was written is lost, whatever a later fsync of the file says."""
        self.fsyncs_to_fail -= 1
        found = os.fstat(descriptor)
        self.bytes_of.setdefault(found.st_ino, b"")
        self._lost.add(found.st_ino)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def disks(self) -> Iterator[Disk]:
        """What a power cut now may leave: names of each changed folder as fsynced or as they are, bytes as fsynced."""
        changed = [inode for inode, now in self._folders().items() if self.names_of.get(inode, {}) != now]
        for flushed in itertools.product([False, True], repeat=min(len(changed), _MOST_FOLDERS)):
            # Beyond the first few, all together: 2**n outcomes of a deep new tree say no more.
            chosen = dict(itertools.zip_longest(changed, flushed, fillvalue=bool(flushed and flushed[-1])))
            yield self._disk({inode for inode, happened in chosen.items() if happened})

    def close(self) -> None:
        """Let the inodes go."""
        for descriptor in self._held:
            os.close(descriptor)

    def _present(self, folder: Path) -> dict[str, int]:
        names: dict[str, int] = {}
        for entry in os.scandir(folder):
            found = entry.stat(follow_symlinks=False)
            names[entry.name] = found.st_ino
            self._modes[found.st_ino] = found.st_mode
        return names

    def _folders(self) -> dict[int, dict[str, int]]:
        """The names of every folder as they are now, by its inode."""
        return {Path(folder).stat().st_ino: self._present(Path(folder)) for folder, _, _ in os.walk(self.root)}

    def _disk(self, flushed: set[int]) -> Disk:
        now = self._folders()
        disk: Disk = {}

        def found_in(path: str, inode: int) -> None:
            names = now.get(inode, {}) if inode in flushed else self.names_of.get(inode, {})
            for name, child in names.items():
                mode = self._modes[child]
                data = None if stat.S_ISDIR(mode) else self.bytes_of.get(child, b"")
                disk[f"{path}{name}"] = _Kept(child, mode, data)
                if data is None:
                    found_in(f"{path}{name}/", child)

        found_in("", self.root.stat().st_ino)
        return disk


@contextmanager
def recording(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, before_each: Callable[[PowerCut], None] = lambda _: None
) -> Iterator[PowerCut]:
    """Record what becomes durable below a root; `before_each` is called before each file system call of the code."""
    power = PowerCut(root=root)
    power.begin()
    fsync, dup = os.fsync, os.dup

    def instead(name: str) -> Callable[..., Any]:
        call = fsync_and_note if name == "fsync" else getattr(os, name)

        def run(*arguments: Any, **named: Any) -> Any:
            if not power.looking:
                before_each(power)
            return call(*arguments, **named)

        return run

    def fsync_and_note(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if power.fsyncs_to_fail > 0:
            power.fail(descriptor)
        fsync(descriptor)
        power.synced(dup(descriptor))

    with monkeypatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, instead(name))
        yield power
    power.close()


def outcomes(power: PowerCut, aside: Path, seen: list[Disk] | None = None) -> Iterator[Path]:
    """Each disk that a power cut now may leave, laid out in `aside`; those that were `seen` are left out."""
    found = [disk for disk in power.disks() if seen is None or disk not in seen]
    if seen is not None:
        seen += found
    power.looking = True
    try:
        for number, disk in enumerate(found):
            folder = aside / str(number)
            _lay(disk, folder)
            yield folder
            shutil.rmtree(folder)
    finally:
        power.looking = False


def _lay(disk: Disk, folder: Path) -> None:
    """Make the files of an outcome, hard links included."""
    folder.mkdir()
    first: dict[int, Path] = {}
    for name, kept in disk.items():
        path = folder / name
        if kept.data is None:
            path.mkdir()
        elif kept.inode in first:
            path.hardlink_to(first[kept.inode])
        else:
            path.write_bytes(kept.data)
            first[kept.inode] = path
    for name, kept in disk.items():
        (folder / name).chmod(stat.S_IMODE(kept.mode) | (stat.S_IRWXU if kept.data is None else 0))
