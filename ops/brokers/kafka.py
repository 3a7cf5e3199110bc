"""Opens Kafka as the settings name it; imported only where the log is one."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ops.settings import read_log_password
from ops.site import Site
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaHistory, KafkaSettings, KafkaTopics
from stream.log import Remake


@contextmanager
def open_history(site: Site) -> Iterator[KafkaHistory]:
    """The log, to read outside any group; errors are those of `kafka_settings` and of the log."""
    with closing(KafkaHistory(kafka_settings(site))) as history:
        yield history


def open_appender(site: Site, remake: Remake) -> KafkaAppender:
    """The log, to write to; the caller closes it."""
    return KafkaAppender(kafka_settings(site), remake=remake)


def open_topics(site: Site) -> KafkaTopics:
    """The log's topics."""
    return KafkaTopics(kafka_settings(site))


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
