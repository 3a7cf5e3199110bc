"""Opens the log that the settings name. Apart from `ops.site`, so that a rollback need not wait for these imports."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
import structlog

from ops.settings import read_log_password
from ops.site import Site
from stream.embedded.log import EmbeddedLog
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaHistory, KafkaSettings, KafkaTopics
from stream.log import Appender, History, Remake, Topics, dead_topic_of, topic_of

_log = structlog.get_logger(__name__)


@contextmanager
def open_history(site: Site, client: redis.Redis) -> Iterator[History]:
    """The log, to read outside any group.

    Raises:
        LogUnavailableError: no broker answers.
    """
    embedded = site.settings.log.kind == "embedded"
    with closing(EmbeddedLog(client) if embedded else KafkaHistory(kafka_settings(site))) as history:
        yield history


def open_appender(site: Site, client: redis.Redis) -> Appender:
    """The log, to write to; it connects when it is used, and the caller closes it."""
    remake = remaker(site, client)
    if site.settings.log.kind == "embedded":
        return EmbeddedLog(client, remake=remake)
    return KafkaAppender(kafka_settings(site), remake=remake)


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
    else:
        yield KafkaTopics(kafka_settings(site))


def _wanted(site: Site) -> dict[str, int]:
    """Every topic of the installation, with its number of partitions."""
    made = {topic_of(use_case): site.settings.log.partitions for use_case in site.use_cases}
    return made | {dead_topic_of(use_case): 1 for use_case in site.use_cases}


def kafka_settings(site: Site) -> KafkaSettings:
    """How to reach Kafka.

    Raises:
        SettingsError: the password's variable is not set.
    """
    section = site.settings.log
    with_login = section.security_protocol.startswith("SASL")
    return KafkaSettings(
        bootstrap=section.bootstrap,
        group=section.group,
        security_protocol=section.security_protocol,
        ssl_cafile=_text(section.ssl_ca_file),
        ssl_certfile=_text(section.ssl_certificate_file),
        ssl_keyfile=_text(section.ssl_key_file),
        sasl_mechanism=section.sasl_mechanism if with_login else None,
        sasl_username=section.sasl_username if with_login else None,
        sasl_password=read_log_password(section) if with_login else None,
        session_timeout_ms=int(section.session_timeout_s * 1000),
        replication_factor=section.replication_factor,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
