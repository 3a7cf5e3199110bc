"""A bounded queue on disk for what the log cannot take now: fsynced before it is accepted, sent oldest first.

Frames are `length, CRC32, payload`; a torn tail was never accepted and is cut off at the start. A segment is deleted
once all of it was sent, so a crash in between sends some of it again: ids make that harmless.

A disk that takes nothing costs the events that would have gone there, each said to whoever brought it, and no more: the
spool opens, and writes on, once there is room, also where there was none when the process started.
"""

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from store.errors import LogError, SpoolFullError
from store.faults.points import reach
from store.log.lazy import logger
from store.registry.files.durable import make_folder, sync_folder

_HEADER: Final = struct.Struct("<II")
_SEGMENTS: Final = 16
_MIN_SEGMENT_BYTES: Final = 4096
_CLOSE_S: Final = 10.0
_OPEN_AGAIN_S: Final = 1.0

_log = logger(__name__)


@dataclass(slots=True, kw_only=True)
class _Segment:
    """One file. Everything below `size` is whole frames on disk; everything below `sent` was sent."""

    path: Path
    ours: bool = False  # made by this process, and in order
    size: int = 0
    sent: int = 0


class Spool:
    """One process's spool; it holds a lock on its directory."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Open the spool and find what an earlier process left; later, where the disk does not let us now.

        Raises:
            LogError: another process uses the directory.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = max(_MIN_SEGMENT_BYTES, max_bytes // _SEGMENTS)
        self._lock_file: int | None = None  # None: not open yet
        self._segments: deque[_Segment] = deque()
        self._number = 0
        self._reserved_bytes = 0
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._head: deque[int] = deque()  # frame sizes of what the last `head` returned
        self._writing: _Segment | None = None
        self._closed = False
        self._wake = threading.Condition()  # guards every field above
        if (error := self._open()) is not None:
            _log.error("the spool cannot be opened: events that the log does not take are lost", reason=str(error))
        self._writer = threading.Thread(target=self._run, name="spool", daemon=True)
        self._writer.start()

    @property
    def bytes_kept(self) -> int:
        """What the spool holds, bytes, with what is being written."""
        return self._reserved_bytes

    @property
    def empty(self) -> bool:
        """Whether everything was sent."""
        return self._reserved_bytes == 0

    def append(self, payload: bytes) -> Future[None]:
        """Queue one payload; the future resolves once it is on disk. One fsync serves all that wait.

        Raises:
            SpoolFullError: at the limit; also from the future, when the disk refuses.
        """
        frame = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        done: Future[None] = Future()
        with self._wake:
            if self._closed or self._reserved_bytes + len(frame) > self._max_bytes:
                message = (
                    f"the spool {self._directory} is closed"
                    if self._closed
                    else f"the spool {self._directory} holds its {self._max_bytes} bytes: the event is dropped. "
                    "Bring the log back, or give the spool more room"
                )
                raise SpoolFullError(message)
            self._reserved_bytes += len(frame)
            self._waiting.append((frame, done))
            self._wake.notify_all()
        return done

    def head(self, limit: int) -> list[bytes]:
        """The oldest payloads that were not sent, at most `limit`; the same again until `advance`. One caller only."""
        while True:
            with self._wake:
                self._drop_sent()
                oldest = self._segments[0] if self._segments else None
                start, end = (oldest.sent, oldest.size) if oldest is not None else (0, 0)
            if oldest is None or start >= end:
                return []
            frames = _frames(oldest.path, start, end, limit)
            with self._wake:
                self._head = deque(stop for _, stop in frames)
                if frames:
                    return [payload for payload, _ in frames]
                oldest.sent = end  # nothing but damaged frames is left in it

    def advance(self, count: int) -> None:
        """The first `count` payloads of the last `head` were sent: forget them."""
        with self._wake:
            for _ in range(count):
                self._segments[0].sent = self._head.popleft()
            self._drop_sent()

    def close(self) -> None:
        """Write what waits and stop; what was not sent stays for the next process."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._writer.join(_CLOSE_S)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _open(self) -> OSError | None:
        """Take the directory, once; why it cannot be taken now.

        Raises:
            LogError: another process uses the directory.
        """
        if self._lock_file is not None:
            return None
        lock_file = None
        try:
            make_folder(self._directory, mode=0o700)
            lock_file = _lock(self._directory)
            paths = sorted(path for path in self._directory.glob("*.spool") if path.stem.isdecimal())
            found = [segment for path in paths if (segment := _scan(path)) is not None]
        except OSError as error:
            if lock_file is not None:
                os.close(lock_file)
            return error
        with self._wake:
            self._segments.extend(found)
            self._number = max((int(path.stem) for path in paths), default=0)
            self._reserved_bytes += sum(segment.size for segment in found)
            self._lock_file = lock_file
        return None

    def _try_open(self) -> OSError | LogError | None:
        """The same from the writer's thread, where another owner of the directory is a reason like others."""
        try:
            return self._open()
        except LogError as error:
            return error

    def _drop_sent(self) -> None:
        """Delete segments that were sent whole, but never the one that is being written."""
        while self._segments:
            oldest = self._segments[0]
            if oldest.sent < oldest.size or oldest is self._writing:
                return
            self._segments.popleft()
            self._reserved_bytes -= oldest.size
            reach("spool.sent")
            oldest.path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closed and self._lock_file is not None:
                    self._wake.wait()
                if not self._waiting and not self._closed:
                    self._wake.wait(_OPEN_AGAIN_S)
                if not self._waiting and self._closed:
                    return
                taken = self._take()
            error = self._try_open()
            if error is None and taken:
                error = self._write_all([frame for frame, _ in taken])
            if error is not None:
                with self._wake:
                    self._reserved_bytes -= sum(len(frame) for frame, _ in taken)
            for _, done in taken:
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(SpoolFullError(f"the spool {self._directory} could not be written: {error}"))

    def _write_all(self, frames: Sequence[bytes]) -> OSError | None:
        with self._wake:
            self._writing = segment = self._segment()
        error = _write(segment, frames)
        with self._wake:
            self._writing = None
            if error is None:
                segment.size += sum(map(len, frames))
            elif segment.size == 0:  # it is worth neither a file nor a place in the queue
                self._segments.remove(segment)
                with contextlib.suppress(OSError):
                    segment.path.unlink(missing_ok=True)
        return error

    def _take(self) -> list[tuple[bytes, Future[None]]]:
        taken = [(frame, done) for frame, done in self._waiting if done.set_running_or_notify_cancel()]
        self._reserved_bytes -= sum(len(frame) for frame, done in self._waiting if done.cancelled())
        self._waiting = []
        return taken

    def _segment(self) -> _Segment:
        """The segment to write to: the newest one, until it has its size. An earlier process's is never added to."""
        if self._segments and (newest := self._segments[-1]).ours and newest.size < self._segment_bytes:
            return newest
        self._number += 1
        segment = _Segment(path=self._directory / f"{self._number:010d}.spool", ours=True)
        self._segments.append(segment)
        return segment


def _write(segment: _Segment, frames: Sequence[bytes]) -> OSError | None:
    """Append the frames and fsync them; on an error the segment is as it was and takes no more."""
    try:
        descriptor = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.writelines(frames)
            file.flush()
            reach("spool.written")
            os.fsync(file.fileno())
        if segment.size == 0:
            sync_folder(segment.path.parent)
        reach("spool.synced")
    except OSError as error:
        segment.ours = False  # what the disk holds after a failed fsync is unknown: write elsewhere
        with contextlib.suppress(OSError):
            os.truncate(segment.path, segment.size)
        return error
    return None


def _frames(path: Path, start: int, end: int, limit: int) -> list[tuple[bytes, int]]:
    """(payload, where its frame stops) of at most `limit` frames in [start, end); damaged ones are skipped, aloud."""
    found: list[tuple[bytes, int]] = []
    with path.open("rb") as file:
        file.seek(start)
        while len(found) < limit and (position := file.tell()) + _HEADER.size <= end:
            length, crc = _HEADER.unpack(file.read(_HEADER.size))
            if length == 0 or position + _HEADER.size + length > end:
                break
            payload = file.read(length)
            if zlib.crc32(payload) == crc:
                found.append((payload, file.tell()))
            else:
                _log.error("a spooled event is damaged and cannot be sent", segment=path.name, at=position)
    return found


def _scan(path: Path) -> _Segment | None:
    """A segment that an earlier process left, without what follows its last good frame; None where it cannot be read.

    One that cannot be read stays where it is, for a later process: it must not keep the others from being sent.
    """
    try:
        on_disk = path.stat().st_size
        frames = _frames(path, 0, on_disk, on_disk)
    except OSError as error:
        _log.error("a segment of the spool cannot be read and stays unsent", segment=path.name, reason=str(error))
        return None
    size = frames[-1][1] if frames else 0
    if size < on_disk:
        _log.warning("a torn tail, never accepted, is cut off the spool", segment=path.name, bytes=on_disk - size)
        with contextlib.suppress(OSError):  # nothing beyond `size` is ever read
            os.truncate(path, size)
    return _Segment(path=path, size=size)


def _lock(directory: Path) -> int:
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        message = f"the spool {directory} is in use by another process: give each gateway its own"
        raise LogError(message) from error
    return file
