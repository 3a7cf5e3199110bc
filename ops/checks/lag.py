"""`understudy lag`: how far ingest is behind, partition by partition."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ops.open_log import open_history
from ops.reports import PartitionLag
from ops.site import Site
from store.buffer.ledger import BEGINNING, LogSlot
from store.errors import DamagedRecordError
from stream.log import History, topic_of


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadRecords:
    """What one partition still holds for ingest."""

    slot: LogSlot
    position: str
    begin: int
    end: int

    @property
    def first(self) -> int:
        """The first offset that was not applied; the log's beginning where the position is none, or damaged."""
        return int(self.position) if self.position.isdecimal() else self.begin

    @property
    def lag_records(self) -> int:
        """Records at most: a log may have gaps."""
        return max(0, self.end - self.first)


def partitions(history: History, use_case: str, positions: Mapping[LogSlot, str]) -> Iterator[UnreadRecords]:
    """Every partition of a use case's topic.

    Raises:
        LogUnavailableError: the log did not answer.
    """
    for slot in history.slots(topic_of(use_case)):
        begin, end = map(int, history.bounds(slot))
        yield UnreadRecords(slot=slot, position=positions.get(slot, BEGINNING), begin=begin, end=end)


def lags_of(site: Site, use_cases: list[str]) -> list[PartitionLag]:
    """How far ingest is behind in each partition.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    with site.redis_client() as client, open_history(site, client) as history:
        return [
            PartitionLag(
                use_case=use_case,
                topic=one.slot.topic,
                partition=one.slot.partition,
                position=one.position,
                begin=one.begin,
                end=one.end,
                lag_records=one.lag_records,
                oldest_unread=_oldest(history, one) if one.lag_records else None,
            )
            for use_case in use_cases
            for one in list(partitions(history, use_case, site.buffer(client).positions(use_case)))
        ]


def _oldest(history: History, one: UnreadRecords) -> str | None:
    """When the log took the oldest unread record; None where it cannot be read."""
    start = max(one.first, one.begin)
    try:
        record = next(history.read(one.slot, str(start), str(one.end)), None)
    except DamagedRecordError:
        return None
    return None if record is None else datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat()
