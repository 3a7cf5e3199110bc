"""What one process has done for a lane and not yet written into the books; nothing in it is ever written twice.

It goes out in numbered batches. One that may or may not have arrived is sent again as it was, and the books know its
number. Where they are away for longer, a small file keeps what waits, so that a restart loses nothing of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from store.errors import StoreUnavailableError
from store.event import Lane
from store.log.lazy import logger
from store.money.deeds import Deeds
from store.registry.files.durable import read_kept, replace

_log: Final = logger(__name__)


class DeedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Deeds under a number that their writer uses once."""

    writer: Annotated[str, msgspec.Meta(pattern="^[0-9A-Za-z-]{1,64}$")]
    number: Annotated[int, msgspec.Meta(ge=1)]
    deeds: Deeds


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    sent: DeedBatch  # may have arrived
    waiting: Deeds  # has not


Write = Callable[[Lane, DeedBatch], None]
"""Writes a batch into the books once, however often it is called; StoreUnavailableError while they are away."""


class Tally:
    """Used from one thread; the writing of a batch may run beside it."""

    def __init__(self, new_name: Callable[[], str], path: Path | None = None) -> None:
        """Go on with what the file holds, if there is one.

        Args:
            new_name: a name that no other writer has.
            path: where what waits is kept while the books are away; None: it ends with the process.
        """
        self._path = path
        kept = read_kept(path, _Kept) if path is not None else None
        self._sent = kept.sent if kept is not None else None
        self._waiting = kept.waiting if kept is not None else Deeds()
        self._writer = kept.sent.writer if kept is not None else new_name()
        self._number = kept.sent.number if kept is not None else 0
        self._on_disk = b"" if kept is None else msgspec.json.encode(kept)

    def add(self, deeds: Deeds) -> None:
        """Count."""
        self._waiting += deeds

    @property
    def pending(self) -> bool:
        """Whether anything is to be written."""
        return self._sent is not None or not self._waiting.empty

    def next_batch(self) -> DeedBatch | None:
        """What is to be written now: the last batch again until it is `written`; None where there is nothing."""
        if self._sent is None and not self._waiting.empty:
            self._number += 1
            self._sent = DeedBatch(writer=self._writer, number=self._number, deeds=self._waiting)
            self._waiting = Deeds()
        return self._sent

    def written(self) -> None:
        """The last batch is in the books."""
        self._sent = None

    def keep(self) -> None:
        """Leave what waits in the file, or take the file away where nothing does."""
        if self._path is None:
            return
        sent = self.next_batch()
        content = b"" if sent is None else msgspec.json.encode(_Kept(sent=sent, waiting=self._waiting))
        if content == self._on_disk:
            return
        try:
            if content:
                replace(self._path, content)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("what was done is not on disk", path=str(self._path), error=str(error))
        else:
            self._on_disk = content

    def flush(self, write: Write, lane: Lane) -> None:
        """Write what there is into the books, and wait for them. What they do not take waits in the file."""
        try:
            while (batch := self.next_batch()) is not None:
                write(lane, batch)
                self.written()
        except StoreUnavailableError:
            self.keep()
            raise
        self.keep()
