"""Keeps the document vectors of a lane's gateway as its catalogue on disk has them."""

import threading
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ops.sections import LaneSection
from ops.settings import Settings
from store.errors import CorruptVersionError
from store.log.lazy import logger

_log = logger(__name__)


def folder_of(settings: Settings, section: LaneSection) -> Path:
    """Where the lane's catalogue is kept."""
    return settings.state_dir / "catalogue" / section.tenant / section.use_case


class Primer:
    """Keeps the document vectors of one lane's gateway as its catalogue has them; the catalogue is only a help."""

    def __init__(self, folder: Path) -> None:
        """Read nothing yet."""
        self._folder = folder
        self._priming: Any = None
        self._cache: Any = None
        self._thread: threading.Thread | None = None

    def loaded(self, student: object) -> None:
        """Prime a version that has just been loaded, if it has vectors of documents."""
        if not isinstance(student, _WithVectors) or student.vectors is None:
            self._cache = None
            return
        from store.student.rank.catalogue import Catalogue, Priming  # noqa: PLC0415 - as above

        if self._priming is None:
            self._priming = Priming(Catalogue(self._folder))
        fresh = student.vectors is not self._cache
        self._cache = student.vectors
        self._look(fresh=fresh)

    def look(self) -> None:
        """Prime again where the catalogue has changed, in a thread of its own: nobody waits for a large file."""
        if self._cache is None or (self._thread is not None and self._thread.is_alive()):
            return
        if self._priming.changed(self._cache):
            self._thread = threading.Thread(target=self._look, kwargs={"fresh": False}, name="catalogue", daemon=True)
            self._thread.start()

    def _look(self, *, fresh: bool) -> None:
        try:
            taken = self._priming.look(self._cache, fresh=fresh)
        except (CorruptVersionError, OSError) as error:
            _log.warning("a catalogue cannot be read: its documents are embedded as they come", why=str(error))
            return
        if taken:
            _log.info("document vectors of the catalogue are in memory", documents=taken)


@runtime_checkable
class _WithVectors(Protocol):
    """A student that may keep the vectors of documents."""

    vectors: Any  # None: it keeps none
