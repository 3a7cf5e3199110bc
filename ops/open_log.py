"""Opens the log that the settings name. Apart from `ops.site`, so that a rollback need not wait for these imports."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import redis

from ops.site import Site
from store.log.lazy import logger
from stream.embedded.log import EmbeddedLog
from stream.log import Appender, History, Remake, Topics, dead_topic_of, topic_of

_log = logger(__name__)


@contextmanager
def open_history(site: Site, client: redis.Redis) -> Iterator[History]:
    """The log, to read outside any group.

    Raises:
        LogUnavailableError: no broker answers.
    """
    if site.settings.log.kind == "embedded":
        with closing(EmbeddedLog(client)) as embedded:
            yield embedded
        return
    from ops.brokers.kafka import open_history as open_kafka  # noqa: PLC0415 - Kafka's client, where there is a Kafka

    with open_kafka(site) as history:
        yield history


def open_appender(site: Site, client: redis.Redis) -> Appender:
    """The log, to write to; it connects when it is used, and the caller closes it."""
    remake = remaker(site, client)
    if site.settings.log.kind == "embedded":
        return EmbeddedLog(client, remake=remake)
    from ops.brokers.kafka import open_appender as open_kafka  # noqa: PLC0415 - as above

    return open_kafka(site, remake)


def log_login(site: Site) -> None:
    """See that the log's password is there.

    Raises:
        SettingsError: its variable is not set.
    """
    if site.settings.log.kind == "kafka":
        from ops.brokers.kafka import kafka_settings  # noqa: PLC0415 - as above

        kafka_settings(site)


def ensure_topics(site: Site, client: redis.Redis) -> None:
    """Create the topics that are not there yet, those of dead letters too.

    Raises:
        LogUnavailableError: the log did not answer.
    """
    with _topics(site, client) as topics:
        for topic, partitions in _wanted(site).items():
            topics.ensure(topic, partitions)


def remaker(site: Site, client: redis.Redis) -> Remake:
    """Makes a topic of ours that has gone missing since the start: Redis was emptied, or somebody deleted it."""

    def remake(topic: str) -> None:
        if (partitions := _wanted(site).get(topic)) is None:
            return
        with _topics(site, client) as topics:
            topics.ensure(topic, partitions)
        _log.warning("a topic that was gone is made again", topic=topic, partitions=partitions)

    return remake


@contextmanager
def _topics(site: Site, client: redis.Redis) -> Iterator[Topics]:
    if site.settings.log.kind == "embedded":
        with closing(EmbeddedLog(client)) as embedded:
            yield embedded
        return
    from ops.brokers.kafka import open_topics  # noqa: PLC0415 - as above

    yield open_topics(site)


def _wanted(site: Site) -> dict[str, int]:
    """Every topic of the installation, with its number of partitions."""
    made = {topic_of(use_case): site.settings.log.partitions for use_case in site.use_cases}
    return made | {dead_topic_of(use_case): 1 for use_case in site.use_cases}
