"""What pages are made of: the values that the commands print, each read once for all who look."""

from collections.abc import Callable, Hashable
from typing import Final, TypeVar

from ops.console.kept import Kept
from ops.console.views import lane as lanes
from ops.console.views.buffer import Looked, look
from ops.sections import LaneSection
from ops.site import Site
from ops.status.collect import collect
from ops.status.past import Past, past_of
from ops.status.report import LaneStatus, StatusReport
from store.buffer.ledger import AuditTally
from store.errors import UnknownVersionError
from store.event import Lane
from store.registry.manifest import Manifest
from store.registry.sealed import OpenVersion

_NUMBERS_S: Final = 2.0  # for which they are kept
_PAST_S: Final = 5.0
_BUFFER_S: Final = 30.0
_WAIT_S: Final = 6.0  # an admin connection lasts 15 s
_MOVES: Final = 100

Found = TypeVar("Found")


class Reads:
    """One installation, as it is now or was seconds ago. What is not there in time raises StillReadingError."""

    def __init__(self, site: Site) -> None:
        """Read an installation."""
        self.site = site
        self._kept = Kept()

    def become(self, site: Site) -> None:
        """Read it by other settings from now on."""
        self.site = site
        self._kept.forget()

    def forget(self) -> None:
        """Read everything anew: something was moved."""
        self._kept.forget()

    def close(self) -> None:
        """Read nothing more."""
        self._kept.close()

    def section(self, tenant: str, use_case: str) -> LaneSection | None:
        """The settings of a lane; None: there is no such lane."""
        lane = Lane(tenant, use_case)
        return next((section for section in self.site.settings.lanes if section.lane == lane), None)

    def report(self) -> StatusReport:
        """What `understudy status` says of all lanes."""
        return self._read("status", lambda: collect(self.site, list(self.site.settings.lanes)), _NUMBERS_S)

    def status(self, section: LaneSection) -> LaneStatus:
        """What it says of one."""
        return next(one for one in self.report().lanes if one.lane == str(section.lane))

    def champion(self, section: LaneSection) -> Manifest | str | None:
        """As `ops.console.views.lane.champion_of`."""
        status = self.status(section)
        return self._read(
            ("champion", section.lane, status.champion), lambda: lanes.champion_of(self.site, status, section), _PAST_S
        )

    def evidence(self, section: LaneSection) -> lanes.Evidence:
        """What speaks for the champion and what against it."""
        status, champion = self.status(section), self.champion(section)
        return self._read(
            ("evidence", section.lane),
            lambda: lanes.evidence_of(self.site, status, section, champion),
            _NUMBERS_S,
        )

    def days(self, section: LaneSection) -> list[lanes.Day]:
        """The last days of its books."""
        return self._read(("days", section.lane), lambda: lanes.days_of(self.site, section), _PAST_S)

    def past(self, section: LaneSection) -> Past:
        """What `understudy history` says; errors are those of `past_of`."""
        return self._read(("past", section.lane), lambda: past_of(self.site, section.lane, _MOVES), _PAST_S)

    def version(self, section: LaneSection, version: str) -> OpenVersion:
        """What `understudy show` says.

        Raises:
            UnknownVersionError, CorruptVersionError, BadSignatureError: it cannot be told.
        """
        versions = self.site.registry.versions(section.lane)
        if version not in versions.list():
            message = f"there is no version {version} of {section.lane}"
            raise UnknownVersionError(message)
        return self._read(("version", section.lane, version), lambda: versions.open(version), _PAST_S)

    def looked(self, section: LaneSection) -> Looked:
        """What is in the buffer; errors are those of `look`."""
        champion = self.champion(section)
        topics = champion.topics if isinstance(champion, Manifest) else []

        def read() -> Looked:
            with self.site.redis_client() as client:
                return look(self.site, client, section, topics)

        return self._read(("buffer", section.lane), read, _BUFFER_S)

    def audits(self, section: LaneSection) -> dict[str, AuditTally]:
        """Audits by version, as ingest has tallied them.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """

        def read() -> dict[str, AuditTally]:
            with self.site.redis_client() as client:
                return dict(self.site.buffer(client).audits(section.lane))

        return self._read(("audits", section.lane), read, _PAST_S)

    def _read(self, name: Hashable, make: Callable[[], Found], keep_s: float) -> Found:
        return self._kept.get(name, make, keep_s=keep_s, wait_s=_WAIT_S)
