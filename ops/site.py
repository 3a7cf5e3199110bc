"""One installation as its settings describe it: opens the registry, Redis and the log. Imports nothing of torch."""

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import redis

from ops.oracle import LaneRules
from ops.process import read_run_file, run_directory
from ops.sections import LaneSection
from ops.settings import Settings, read_log_password
from store.buffer.redis import RedisBuffer
from store.control import Control
from store.errors import SettingsError, StoreUnavailableError
from store.event import Lane
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.versions import Registry
from store.secrets import DataSecret
from stream.embedded import EmbeddedLog
from stream.kafka import KafkaHistory, KafkaSettings, KafkaTopics
from stream.kafka_appender import KafkaAppender
from stream.log import Appender, History, Topics, dead_topic_of, topic_of

REDIS_RUN_NAME: Final = "redis"
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 5.0


@dataclass(frozen=True)
class Site:
    """Settings, and everything that is opened by them."""

    settings: Settings

    @cached_property
    def secret(self) -> DataSecret:
        """The data secret.

        Raises:
            SettingsError: the file is missing or readable by others.
        """
        return DataSecret.load(self.settings.keys.data_secret)

    @cached_property
    def registry(self) -> Registry:
        """Versions and moves of every lane.

        Raises:
            SettingsError: there are no trusted keys.
        """
        return Registry(self.registry_root, TrustedKeys.load(self.settings.keys.trusted))

    @property
    def registry_root(self) -> Path:
        """The registry's folder."""
        return self.settings.state_dir / "registry"

    @property
    def run_directory(self) -> Path:
        """Run files, locks, and the records of cycles and swaps."""
        return run_directory(self.settings.state_dir)

    @property
    def replica(self) -> str:
        """This gateway's name: the same after a restart, another for another state directory or machine."""
        place = hashlib.sha256(str(self.settings.state_dir.resolve()).encode()).hexdigest()[:4]
        return f"{socket.gethostname()}-{place}"

    def operator_key(self) -> SigningKey:
        """The key that signs an operator's moves.

        Raises:
            SettingsError: the file is missing or readable by others.
        """
        return SigningKey.load(self.settings.keys.operator)

    def lane(self, name: str | None) -> LaneSection:
        """The lane that is meant: `tenant/use_case`, or the only one there is.

        Raises:
            SettingsError: there is none of that name, or more than one to choose from.
        """
        lanes = {str(section.lane): section for section in self.settings.lanes}
        known = ", ".join(sorted(lanes))
        if name is None and len(lanes) != 1:
            message = f"--lane: which one? {known}"
            raise SettingsError(message)
        found = next(iter(lanes.values())) if name is None else lanes.get(name)
        if found is None:
            message = f"--lane: no lane {name}; there is {known}"
            raise SettingsError(message)
        return found

    def lanes(self, name: str | None) -> list[LaneSection]:
        """The lane of that name, or all of them."""
        return [self.lane(name)] if name is not None else list(self.settings.lanes)

    @property
    def use_cases(self) -> list[str]:
        """Every use case; each has a topic."""
        return sorted({section.use_case for section in self.settings.lanes})

    def rules(self) -> Mapping[str, Mapping[Lane, LaneRules]]:
        """What `verify` needs to know of each lane, by use case."""
        return {
            use_case: {
                section.lane: LaneRules(
                    lane_key=self.secret.lane_key(section.lane),
                    redaction_key=self.secret.redaction_key(section.lane),
                    task=section.task,
                    training_permitted=section.training_permitted,
                )
                for section in self.settings.lanes
                if section.use_case == use_case
            }
            for use_case in self.use_cases
        }

    def redis_url(self) -> str:
        """Where Redis is.

        Raises:
            StoreUnavailableError: it is the private one, and `run all` does not run.
        """
        if self.settings.redis.url:
            return self.settings.redis.url
        found = read_run_file(self.run_directory, REDIS_RUN_NAME)
        if found is None or found.url is None:
            message = (
                f"no private Redis runs on {self.settings.state_dir}: start `understudy run all`, or set redis.url"
            )
            raise StoreUnavailableError(message)
        return found.url

    @contextmanager
    def redis_client(self) -> Iterator[redis.Redis]:
        """A client of the site's Redis; it may not answer.

        Raises:
            StoreUnavailableError: there is no private Redis.
        """
        url = self.redis_url()
        with redis.Redis.from_url(url, socket_timeout=_ANSWER_S, socket_connect_timeout=_CONNECT_S) as client:
            yield client

    @contextmanager
    def control(self) -> Iterator[Control]:
        """The control plane; errors as of `redis_client`."""
        with self.redis_client() as client:
            yield Control(client)

    def buffer(self, client: redis.Redis) -> RedisBuffer:
        """The replay buffer."""
        return RedisBuffer(client, self.settings.buffer.items_per_stratum)

    @contextmanager
    def history(self, client: redis.Redis) -> Iterator[History]:
        """The log, to read outside any group.

        Raises:
            LogUnavailableError: no broker answers.
        """
        embedded = self.settings.log.kind == "embedded"
        with closing(EmbeddedLog(client) if embedded else KafkaHistory(self.kafka_settings())) as history:
            yield history

    def appender(self, client: redis.Redis) -> Appender:
        """The log, to write to; connects when it is used. The caller closes it."""
        return EmbeddedLog(client) if self.settings.log.kind == "embedded" else KafkaAppender(self.kafka_settings())

    def ensure_topics(self, client: redis.Redis) -> None:
        """Create the topics that are not there yet, those of dead letters too.

        Raises:
            LogUnavailableError: the log did not answer.
        """
        section = self.settings.log
        if section.kind == "embedded":
            with closing(EmbeddedLog(client)) as embedded:
                self._ensure(embedded)
        else:
            self._ensure(KafkaTopics(self.kafka_settings()))

    def _ensure(self, topics: Topics) -> None:
        for use_case in self.use_cases:
            topics.ensure(topic_of(use_case), self.settings.log.partitions)
            topics.ensure(dead_topic_of(use_case), 1)

    def kafka_settings(self) -> KafkaSettings:
        """How to reach Kafka.

        Raises:
            SettingsError: the password's variable is not set.
        """
        section = self.settings.log
        with_login = section.security_protocol.startswith("SASL")
        return KafkaSettings(
            bootstrap=section.bootstrap,
            group=section.group,
            security_protocol=section.security_protocol,
            ssl_cafile=None if section.ssl_ca_file is None else str(section.ssl_ca_file),
            sasl_mechanism=section.sasl_mechanism if with_login else None,
            sasl_username=section.sasl_username if with_login else None,
            sasl_password=read_log_password(section) if with_login else None,
            session_timeout_ms=int(section.session_timeout_s * 1000),
            replication_factor=section.replication_factor,
        )
