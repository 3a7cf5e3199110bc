"""`understudy import`, put together: publish a file's rows, wait until ingest has them, ask for a cycle."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from ops.cli.actions import ask_for_cycle
from ops.cli.reports import ImportReport
from ops.imports.importer import (
    Columns,
    ImportLane,
    await_applied,
    publish_rows,
    read_rows,
    report,
)
from ops.imports.jsonl import BadRow
from ops.open_log import ensure_topics, open_appender, open_history
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring import present_prompt
from store.control import Control
from store.event import wall_clock_s
from store.redact import redact_input
from stream.ingest import IngestSettings
from stream.log import topic_of

_STALLED_S: Final = 15.0


def dry_run(section: LaneSection, path: Path, columns: Columns) -> ImportReport:
    """What an import would do with the file."""
    found = list(read_rows(path, columns, frozenset(section.labels)))
    bad = [row for row in found if isinstance(row, BadRow)]
    return report(path, section.lane, columns, len(found) - len(bad), bad)


def import_file(
    site: Site, section: LaneSection, path: Path, columns: Columns, *, seen: Callable[[], None]
) -> ImportReport:
    """Publish the rows, wait for ingest, ask for a cycle.

    Args:
        site: where to.
        section: the lane.
        path: the file.
        columns: of `find_columns`.
        seen: called once a row.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer; import again, nothing counts twice.
    """
    now_s, lane = wall_clock_s(), section.lane
    redaction_key = site.secret.redaction_key(lane)
    into = ImportLane(
        lane=lane,
        labels=frozenset(section.labels),
        lane_key=site.secret.lane_key(lane),
        redact=lambda value: redact_input(value, redaction_key),
        model=section.teacher.model,
        prompt_version=present_prompt(section),
    )
    with site.redis_client() as client:
        ensure_topics(site, client)
        with closing(open_appender(site, client)) as appender:
            published, bad = publish_rows(
                read_rows(path, columns, into.labels),
                into,
                appender,
                undated_s=now_s - site.settings.trainer.quarantine_s - 1.0,
                oldest_s=now_s - IngestSettings().max_age_s,
                seen=seen,
            )
        with open_history(site, client) as history:
            ends = {slot: history.bounds(slot)[1] for slot in history.slots(topic_of(lane.use_case))}
        buffer = site.buffer(client)
        ingested = await_applied(ends, lambda: buffer.positions(lane.use_case), stalled_s=_STALLED_S)
        asked = ingested and published > 0
        if asked:
            why = f"import of {path.name}"
            ask_for_cycle(Control(client), lane, kind="head", candidate=None, why=why, now_s=wall_clock_s())
    return report(path, lane, columns, published, bad, ingested=ingested, cycle_asked=asked)
