"""A Kafka and a Redis as they stand in production: TLS with a CA of our own, logins, and rights by name."""

import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka import KafkaAdminClient

from store.buffer.server import find_server
from tests.kafka.broker import Broker, Door

NAME: Final = "understudy"
PASSWORD: Final = "a-password-of-the-tests"  # noqa: S105 - nothing else knows it
_ADMIN: Final = "admin"
_START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one CA: itself, and a certificate with its key for a server and for us."""

    folder: Path
    authority: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        """Write the files."""
        made = cls(folder, trustme.CA())
        made.authority.cert_pem.write_to_path(made.ca)
        for name in ("server", NAME):
            leaf = made.authority.issue_cert("127.0.0.1", "localhost", common_name=name)
            key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            chain = b"".join(one.bytes() for one in leaf.cert_chain_pems)
            (folder / f"{name}.key").write_bytes(pem)
            (folder / f"{name}.pem").write_bytes(chain)
            (folder / f"{name}.both.pem").write_bytes(pem + chain)
        return made

    @property
    def ca(self) -> Path:
        """Of the CA."""
        return self.folder / "ca.pem"

    @property
    def client(self) -> ssl.SSLContext:
        """With our certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.folder / f"{NAME}.pem", self.folder / f"{NAME}.key")
        return context


def _stores(certificates: Certificates) -> str:
    return f"""
ssl.keystore.type=PEM
ssl.keystore.location={certificates.folder}/server.both.pem
ssl.truststore.type=PEM
ssl.truststore.location={certificates.ca}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{_ADMIN};User:server
"""


def with_passwords(certificates: Certificates) -> Door:
    """SASL_SSL with SCRAM-SHA-512: a user of ours, who may nothing yet, and an administrator."""
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    jaas = f'{login} username="{_ADMIN}" password="{PASSWORD}";'
    return Door(
        protocol="SASL_SSL",
        properties=f"""{_stores(certificates)}
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={jaas}
""",
        format=[
            word
            for name in (NAME, _ADMIN)
            for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={PASSWORD}]")
        ],
        tls=certificates.client,
    )


def with_certificates(certificates: Certificates) -> Door:
    """SSL both ways: who has no certificate of the CA is nobody; its common name is the user."""
    return Door(
        protocol="SSL",
        properties=f"""{_stores(certificates)}
ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([a-z]+).*$/$1/,DEFAULT
""",
        tls=certificates.client,
    )


@contextmanager
def administered(broker: Broker, certificates: Certificates) -> Iterator[Any]:
    """A client of an administrator's, who logs in with a password."""
    client: Any = KafkaAdminClient(
        bootstrap_servers=broker.bootstrap,
        security_protocol="SASL_SSL",
        ssl_cafile=str(certificates.ca),
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=_ADMIN,
        sasl_plain_password=PASSWORD,
    )
    with closing(client):
        yield client


@contextmanager
def secured_redis(folder: Path, certificates: Certificates, rules: str, *, port: int) -> Iterator[str]:
    """A Redis behind TLS whose one user has these rights (`ACL SETUSER`, as words); its address, with the password."""
    words = [
        *("--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
        *("--tls-cert-file", str(certificates.folder / "server.pem")),
        *("--tls-key-file", str(certificates.folder / "server.key")),
        *("--tls-ca-cert-file", str(certificates.ca), "--tls-auth-clients", "no"),
        *("--appendonly", "yes", "--maxmemory-policy", "noeviction"),
        *("--user", "default", "off"),
        *("--user", _ADMIN, "on", f">{PASSWORD}", "~*", "&*", "+@all"),
        *("--user", NAME, "on", f">{PASSWORD}", *rules.split()),
    ]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([find_server(), *words], stdout=log, stderr=log)
    try:
        with redis_admin(certificates, port) as client:
            _until_up(client, folder / "redis.log")
        yield f"rediss://{NAME}:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificates.ca}"
    finally:
        process.terminate()
        process.wait(30)


def redis_admin(certificates: Certificates, port: int) -> redis.Redis:
    """An administrator's client."""
    return redis.Redis(
        host="127.0.0.1", port=port, username=_ADMIN, password=PASSWORD, ssl=True, ssl_ca_certs=str(certificates.ca)
    )


def _until_up(client: redis.Redis, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(client):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False
