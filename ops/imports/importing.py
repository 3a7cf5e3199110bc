"""`understudy import`, put together: publish a file's rows, wait until ingest has them, ask for a cycle."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from ops.answers.reading import Reading
from ops.cycles.asking import ask_for_cycle
from ops.imports.importer import (
    ImportLane,
    await_applied,
    publish_rows,
    report,
)
from ops.open_log import ensure_topics, open_appender, open_history
from ops.readers.files import BadRow
from ops.readers.rows import Reader, Told
from ops.reports import ImportReport
from ops.sections import LaneSection
from ops.site import Site
from store.buffer.ledger import LogSlot
from store.control import Control
from store.cycles.signs import Signs
from store.errors import StoreUnavailableError
from store.event import Lane, wall_clock_s
from store.tasks.tasks import TASKS
from stream.ingest import IngestSettings
from stream.log import Appender, Headers, topic_of

_STALLED_S: Final = 15.0
_MARK_EVERY_S: Final = 2.0


def dry_run(site: Site, section: LaneSection, path: Path, reader: Reader) -> ImportReport:
    """What an import would do with the file: the same steps, up to the log."""
    told = Told()
    published, bad = _publish(site, section, reader, _Nowhere(), seen=lambda: None, told=told)
    return msgspec.structs.replace(report(path, section.lane, reader.columns, published, bad, told=told), dry_run=True)


def import_file(
    site: Site, section: LaneSection, path: Path, reader: Reader, *, seen: Callable[[], None]
) -> ImportReport:
    """Publish the rows, wait for ingest, ask for a cycle.

    Args:
        site: where to.
        section: the lane.
        path: the file.
        reader: of the file.
        seen: called once a row.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer; import again, nothing counts twice.
    """
    lane, told = section.lane, Told()
    with site.redis_client() as client, _import_marked(Signs(client), lane) as mark:
        ensure_topics(site, client)

        def counted() -> None:
            mark()
            seen()

        with closing(open_appender(site, client)) as appender:
            published, bad = _publish(site, section, reader, appender, seen=counted, told=told)
        with open_history(site, client) as history:
            ends = {slot: history.bounds(slot)[1] for slot in history.slots(topic_of(lane.use_case))}
        buffer = site.buffer(client)

        def positions() -> Mapping[LogSlot, str]:
            mark()
            return buffer.positions(lane.use_case)

        ingested = await_applied(ends, positions, stalled_s=_STALLED_S)
        asked = ingested and published > 0
        if asked:
            why = f"import of {path.name}"
            ask_for_cycle(Control(client), lane, kind="head", candidate=None, why=why, now_s=wall_clock_s())
    return report(path, lane, reader.columns, published, bad, ingested=ingested, cycle_asked=asked, told=told)


@contextmanager
def _import_marked(signs: Signs, lane: Lane) -> Iterator[Callable[[], None]]:
    """Hold back the schedule's cycles until all rows are there; yields what is to be called again and again."""
    said_s = -math.inf

    def mark() -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= _MARK_EVERY_S:
            said_s = time.monotonic()
            signs.import_goes_on(lane)

    mark()
    try:
        yield mark
    finally:
        with suppress(StoreUnavailableError):  # it is forgotten by itself
            signs.import_ended(lane)


def into(site: Site, section: LaneSection) -> ImportLane:
    """The lane that rows go to."""
    lane = section.lane
    return ImportLane(
        lane=lane,
        rules=TASKS[section.task](section.terms(site.rules(lane).earlier)),
        lane_key=site.secret.lane_key(lane),
        redaction_key=site.secret.redaction_key(lane),
        model=section.teacher.model,
        prompt_version=Reading.of(section).version(),
    )


def _publish(
    site: Site,
    section: LaneSection,
    reader: Reader,
    appender: Appender,
    *,
    seen: Callable[[], None],
    told: Told,
) -> tuple[int, list[BadRow]]:
    """Read and publish; (published, bad rows)."""
    now_s = wall_clock_s()
    return publish_rows(
        reader.rows(told),
        into(site, section),
        appender,
        undated_s=now_s - site.settings.trainer.quarantine_s - 1.0,
        oldest_s=now_s - IngestSettings().max_age_s,
        seen=seen,
        now_s=now_s,
        told=told,
    )


class _Nowhere:
    """Where a dry run's events go."""

    def append(
        self,
        topic: str,  # noqa: ARG002 - the log's method
        *,
        key: bytes,  # noqa: ARG002
        value: bytes,  # noqa: ARG002
        headers: Headers = (),  # noqa: ARG002
        timestamp_ms: int | None = None,  # noqa: ARG002
    ) -> Future[None]:
        """Take it, and keep nothing."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None:
        """Nothing was opened."""
