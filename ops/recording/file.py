"""The file that calls are recorded in: a line each, on disk before its client has the end of its answer; bounded."""

import threading
from pathlib import Path
from typing import Final

from store.log.lazy import logger
from store.registry.files.durable import append_line

_log: Final = logger(__name__)


class RecordedLog:
    """`calls.jsonl`, and before it `calls.jsonl.1`, `calls.jsonl.2` …, the oldest last. May be used from any thread."""

    def __init__(self, path: Path, *, most_bytes: int, keep: int) -> None:
        """Append to what is there.

        Args:
            path: of the newest file.
            most_bytes: that one file may have.
            keep: older files beside it; what is older still is deleted.
        """
        self._path = path
        self._most_bytes = most_bytes
        self._keep = keep
        self._turn = threading.Lock()

    def append(self, line: bytes) -> None:
        """Add a line.

        Raises:
            OSError: it was not written.
        """
        with self._turn:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size and size + len(line) >= self._most_bytes:
                self._rotate()
            append_line(self._path, line)

    def _rotate(self) -> None:
        oldest = self._older(self._keep)
        if oldest.exists() or self._keep == 0:
            _log.warning("the oldest calls are deleted: raise --keep or --max-mb to have more", file=str(oldest))
        for place in range(self._keep - 1, -1, -1):
            if (newer := self._older(place)).exists():
                newer.replace(self._older(place + 1))
        if self._keep == 0:
            self._path.unlink()

    def _older(self, place: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{place}") if place else self._path
