"""The loop against Kafka and Redis behind TLS and logins, with exactly the rights that the page for operators names."""

import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from store.errors import LogUnavailableError
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaSettings, KafkaTopics
from tests.integration.alerting import free_port
from tests.integration.rig import Rig
from tests.kafka.broker import Broker, running_broker
from tests.kafka.fixtures import tidy_sockets
from tests.ops.children import REPOSITORY
from tests.secured import (
    NAME,
    PASSWORD,
    Certificates,
    administered,
    redis_admin,
    secured_redis,
    with_certificates,
    with_passwords,
)

__all__ = ["tidy_sockets"]

PAGE: Final = REPOSITORY / "docs" / "how-to" / "secure.md"
COMMANDS: Final = (
    "status",
    "verify",
    "lag",
    "history",
    "producers",
    "dlq list",
    "dlq drop --all --reason it-was-a-test",
    "buffer rebuild --reason a-test",
    "pause --reason a-test",
    "resume --reason over",
    "cycle start --reason a-test",
)
_RULES: Final = re.compile(r"```text\n(~[^\n]+)\n```")
_ROWS: Final = re.compile(r"^\| (topic|group) \| `([^`]+)`[^|]*\| ([a-z, ]+) \|$", re.MULTILINE)


def redis_rules() -> str:
    """The rights of Redis' user, as the page has them."""
    (found,) = _RULES.findall(PAGE.read_text("utf-8"))
    return str(found)


def kafka_rules() -> list[ACL]:
    """The rights of Kafka's user, as the page has them."""
    rows = _ROWS.findall(PAGE.read_text("utf-8"))
    assert len(rows) == 2
    return [
        ACL(
            principal=f"User:{NAME}",
            host="*",
            operation=ACLOperation[what.strip().upper()],
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(ResourceType[kind.upper()], name, ACLResourcePatternType.PREFIXED),
        )
        for kind, name, operations in rows
        for what in operations.split(",")
    ]


class Servers:
    """Both of them, and what reaches them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.certificates = Certificates.make(folder)
        self.broker: Broker = stack.enter_context(running_broker(with_passwords(self.certificates)))
        with administered(self.broker, self.certificates) as admin:
            admin.create_acls(kafka_rules())
        self.redis_port = free_port()
        self.kafka = KafkaSettings(
            bootstrap=self.broker.bootstrap,
            security_protocol="SASL_SSL",
            ssl_cafile=str(self.certificates.ca),
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username=NAME,
            sasl_password=PASSWORD,
            replication_factor=1,
        )
        rules, port = redis_rules(), self.redis_port
        self.redis_url = stack.enter_context(secured_redis(folder, self.certificates, rules, port=port))

    def settings(self) -> dict[str, str]:
        """Of an installation."""
        return {
            "url": f'"{self.redis_url}"',
            "kind": '"kafka"',
            "bootstrap": f'"{self.broker.bootstrap}"',
            "security_protocol": '"SASL_SSL"',
            "ssl_ca_file": f'"{self.certificates.ca}"',
            "sasl_username": f'"{NAME}"',
            "sasl_password_env": '"KAFKA_PASSWORD"',
        }


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path_factory.mktemp("secured"), stack)


@pytest.fixture(autouse=True)
def failed_handshakes() -> Iterator[None]:
    """kafka-python leaves their sockets to the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def installed(tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    with ExitStack() as stack:
        yield Rig(tmp_path, stack, **servers.settings())


def test_the_loop_runs_with_the_rights_that_the_page_names_and_uses_no_others(installed: Rig, servers: Servers) -> None:
    installed.start("ingest", "serve", "train")
    installed.until("all are ready", lambda: all(map(installed.ready, installed.ports)))
    for _ in range(5):
        assert installed.ask() == 200
    installed.until("they are learned from", lambda: installed.metric("understudy_ingest_events_total", "ingest") >= 5)
    installed.publish(b"no event")
    installed.until("letters", lambda: installed.metric("understudy_ingest_dead_letters_total", "ingest") >= 1)
    for command in COMMANDS:
        installed.command(*command.split())
    denied = denials(servers)
    assert denied == []


def denials(servers: Servers) -> list[Any]:
    """What Redis refused."""
    with redis_admin(servers.certificates, servers.redis_port) as client:
        return [one for one in client.acl_log() if one["username"] == NAME]


@pytest.mark.parametrize(
    "wrong",
    [{"sasl_password": "another"}, {"security_protocol": "PLAINTEXT"}, {"ssl_cafile": None}],
)
def test_kafka_turns_away_who_shows_something_else(servers: Servers, wrong: dict[str, Any], tidy_sockets: None) -> None:
    with pytest.raises(LogUnavailableError):
        KafkaTopics(replace(servers.kafka, **wrong)).ensure("understudy.turned-away", 1)


def test_redis_turns_away_who_has_no_password_and_what_was_not_granted(servers: Servers) -> None:
    url = servers.redis_url.replace(PASSWORD, "another")
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()
    with redis.Redis.from_url(servers.redis_url) as client:
        for forbidden in ("FLUSHALL", "KEYS *", "SHUTDOWN", "CONFIG SET maxmemory 1", "SET another-service 1"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden.split())


def test_certificates_both_ways_take_the_place_of_a_password(tmp_path: Path, tidy_sockets: None) -> None:
    certificates = Certificates.make(tmp_path)
    with running_broker(with_certificates(certificates)) as broker:
        named = KafkaSettings(
            bootstrap=broker.bootstrap,
            security_protocol="SSL",
            ssl_cafile=str(certificates.ca),
            ssl_certfile=str(certificates.folder / "server.pem"),
            ssl_keyfile=str(certificates.folder / "server.key"),
        )
        KafkaTopics(named).ensure("understudy.a", 1)
        with closing(KafkaAppender(named)) as appender:
            appender.append("understudy.a", key=b"k", value=b"v").result(60)
        with pytest.raises(LogUnavailableError):
            KafkaTopics(replace(named, ssl_certfile=None, ssl_keyfile=None)).ensure("understudy.b", 1)
