"""The log: does Kafka keep events for as long as ingest may be away, in enough copies, and how far is ingest behind?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ops.checks.lag import lags_of
from ops.doctor.finding import Finding, Level, Visit
from ops.reports import PartitionLag
from ops.state.run_files import read_run_file
from store.errors import LogUnavailableError
from stream.log import dead_topic_of, topic_of
from stream.outbox import MAX_RECORD_BYTES

if TYPE_CHECKING:  # Kafka's client, where there is a Kafka
    from stream.kafka.standing import ClusterStanding, TopicStanding

_CHECK: Final = "kafka"
_HOUR_MS: Final = 3_600_000
_COPIES: Final = 3
_BEHIND: Final = 10_000  # records of a partition


def kafka(visit: Visit) -> Iterator[Finding]:
    """Whether the cluster keeps what the gateway gives it."""
    settings = visit.site.settings.log
    if settings.kind != "kafka":
        yield Finding(check=_CHECK, level="ok", why="the log is embedded in Redis: there is no Kafka to look at")
        return
    from ops.brokers.kafka import kafka_settings  # noqa: PLC0415 - Kafka's client, where there is a Kafka
    from stream.kafka.standing import standing_of  # noqa: PLC0415 - as above

    topics = [name for use_case in visit.site.use_cases for name in (topic_of(use_case), dead_topic_of(use_case))]
    try:
        found = standing_of(kafka_settings(visit.site), topics)
    except LogUnavailableError as error:
        mend = f"kafka-broker-api-versions.sh --bootstrap-server {settings.bootstrap}"
        yield Finding(check=_CHECK, level="fault", why=str(error), mend=mend)
        return
    yield from cluster(found, topics, bootstrap=settings.bootstrap, outage_s=visit.outage_s)


def cluster(found: "ClusterStanding", topics: list[str], *, bootstrap: str, outage_s: float) -> Iterator[Finding]:
    """What is to be said of a cluster. Pure.

    Args:
        found: what it says.
        topics: ours.
        bootstrap: where it is, for the commands.
        outage_s: the longest for which ingest may be away.
    """
    yield Finding(
        check=_CHECK, level="ok", why=f"{found.brokers} broker{'s' * (found.brokers != 1)} answer at {bootstrap}"
    )
    for name in topics:
        if (topic := found.topics.get(name)) is None:
            why = f"there is no topic {name} yet: the first process that starts makes it"
            yield Finding(check=_CHECK, level="warning", why=why, mend="understudy run ingest")
            continue
        said = list(_topic(name, topic, found.brokers, bootstrap=bootstrap, outage_s=outage_s))
        yield from said
        if not said:
            kept = "for ever" if topic.retention_ms < 0 else f"for {topic.retention_ms / _HOUR_MS:,.0f} h"
            why = f"{name}: {topic.partitions} partitions in {topic.copies} copies, kept {kept}"
            yield Finding(check=_CHECK, level="ok", why=why)


def _topic(name: str, topic: "TopicStanding", brokers: int, *, bootstrap: str, outage_s: float) -> Iterator[Finding]:
    def finding(level: Level, why: str, mend: str) -> Finding:
        return Finding(check=_CHECK, level=level, why=f"{name}: {why}", mend=mend)

    def config(key: str, value: object) -> str:
        where = f"kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name {name}"
        return f"{where} --add-config {key}={value}"

    if 0 <= topic.retention_ms < outage_s * 1000:
        why = (
            f"records are deleted after {topic.retention_ms / _HOUR_MS:,.1f} h, and ingest may be away for"
            f" {outage_s / 3600:,.0f} h (--outage-h): what it has not read by then is lost"
        )
        yield finding("fault", why, config("retention.ms", int(outage_s * 1000)))
    if topic.retention_bytes >= 0:
        why = f"a partition keeps {topic.retention_bytes:,} bytes at most, however long ingest is away"
        yield finding("warning", why, config("retention.bytes", -1))
    if topic.compacted:
        why = "it is compacted: of a question's events the newest alone would be left"
        yield finding("fault", why, config("cleanup.policy", "delete"))
    if topic.max_message_bytes < MAX_RECORD_BYTES:
        why = f"it takes {topic.max_message_bytes:,} bytes at once, and one event may have {MAX_RECORD_BYTES:,}"
        yield finding("fault", why, config("max.message.bytes", MAX_RECORD_BYTES + (1 << 20)))
    if topic.in_sync < topic.min_in_sync:
        why = f"{topic.in_sync} copies are in step, {topic.min_in_sync} are needed: it takes no event now"
        yield finding("fault", why, f"kafka-topics.sh --bootstrap-server {bootstrap} --describe --topic {name}")
    elif topic.in_sync < topic.copies:
        why = f"{topic.in_sync} of {topic.copies} copies are in step"
        yield finding("warning", why, f"kafka-topics.sh --bootstrap-server {bootstrap} --describe --topic {name}")
    if topic.copies < _COPIES:
        copies = "one copy: what the broker loses is lost" if topic.copies == 1 else f"{topic.copies} copies"
        more = (
            "kafka-reassign-partitions.sh" if brokers >= _COPIES else "add brokers, then kafka-reassign-partitions.sh"
        )
        yield finding("warning", f"it has {copies}; production: 3", f"log.replication_factor = 3; {more}")


def lag(visit: Visit) -> Iterator[Finding]:
    """How far ingest is behind, in any log."""
    found = lags_of(visit.site, visit.site.use_cases)
    running = read_run_file(visit.site.run_directory, "ingest") is not None
    said = [one for partition in found for one in _partition(partition, running=running)]
    yield from said
    if not said:
        behind = sum(one.lag_records for one in found)
        yield Finding(check="lag", level="ok", why=f"ingest is {behind:,} records behind in {len(found)} partitions")


def _partition(one: PartitionLag, *, running: bool) -> Iterator[Finding]:
    name = f"{one.topic}/{one.partition}"
    if one.position.isdecimal() and not one.begin <= int(one.position) <= one.end:
        why = f"{name} stands still: its position {one.position} is not in the log ({one.begin} to {one.end})"
        mend = f"understudy ingest skip --use-case {one.use_case} --dry-run"
        yield Finding(check="lag", level="fault", why=why, mend=mend)
    elif one.lag_records > _BEHIND or (one.lag_records and not running):
        since = f", the oldest from {one.oldest_unread}" if one.oldest_unread else ""
        idle = "" if running else "; no ingest runs on this machine"
        why = f"{name}: {one.lag_records:,} records are not read yet{since}{idle}"
        mend = "understudy lag" if running else "understudy run ingest"
        yield Finding(check="lag", level="warning", why=why, mend=mend)
