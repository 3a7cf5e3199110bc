"""Every record is applied exactly once, however its readers are killed and frozen."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random
from uuid import uuid4

import pytest
import redis

from stream.embedded.log import EmbeddedLog
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaSettings, KafkaTopics
from stream.log import Appender

READERS = 2
SECONDS = 8.0
DEADLINE_S = 60.0


class Readers:
    """Reader processes that are started again when they die, as a supervisor does."""

    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.reader", *arguments]
        self._processes = [self._start() for _ in range(READERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start()

    def send(self, number: int, what: signal.Signals) -> None:
        self._processes[number].send_signal(what)

    def alive(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def appender_of(kind: str, topic: str, client: redis.Redis, bootstrap: str) -> Iterator[Appender]:
    if kind == "embedded":
        with closing(EmbeddedLog(client)) as log:
            log.ensure(topic, 4)
            yield log
        return
    settings = KafkaSettings(bootstrap=bootstrap)
    KafkaTopics(settings).ensure(topic, 4)
    with closing(KafkaAppender(settings)) as appender:
        yield appender


def scene(appender: Appender, topic: str, readers: Readers, client: redis.Redis, seconds: float, rng: Random) -> int:
    """Write steadily while readers are killed, or frozen for longer than their sessions; the records written.

    A blow falls only after some records were applied since the last one: it is to hit readers at work.
    """
    written, applied, acks = 0, 0, []
    started = time.monotonic()
    next_blow, thaw_at, frozen = started, 0.0, -1
    while (now := time.monotonic()) < started + seconds:
        for _ in range(20):
            acks.append(appender.append(topic, key=b"%d" % rng.randrange(100), value=b"%d" % written))
            written += 1
        if frozen >= 0 and now > thaw_at:
            readers.send(frozen, signal.SIGCONT)
            frozen = -1
        if now > next_blow and _applied(client) > applied + 100:
            applied, victim, next_blow = _applied(client), rng.randrange(READERS), now + rng.uniform(0.1, 1.0)
            if frozen < 0 and rng.random() < 0.4:
                readers.send(victim, signal.SIGSTOP)
                frozen, thaw_at = victim, now + rng.uniform(1.0, 3.0)
            elif victim != frozen:
                readers.kill(victim)
        time.sleep(0.02)
    if frozen >= 0:
        readers.send(frozen, signal.SIGCONT)
    for ack in acks:
        ack.result(DEADLINE_S)
    return written


def _applied(client: redis.Redis) -> int:
    return client.hlen("applied")


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_every_record_is_applied_once_whatever_happens_to_its_readers(
    kind: str, request: pytest.FixtureRequest, redis_url: str, redis_client: redis.Redis
) -> None:
    bootstrap = request.getfixturevalue("kafka_broker").bootstrap if kind == "kafka" else ""
    topic = f"understudy.{uuid4().hex[:12]}"
    with appender_of(kind, topic, redis_client, bootstrap) as appender:
        readers = Readers([kind, redis_url, bootstrap, topic])
        try:
            written = scene(appender, topic, readers, redis_client, SECONDS, Random(7))
            deadline = time.monotonic() + DEADLINE_S
            while _applied(redis_client) < written:
                assert time.monotonic() < deadline, f"{_applied(redis_client)} of {written} applied"
                assert readers.alive()
                time.sleep(0.05)
        finally:
            readers.stop()
    counts = redis_client.hgetall("applied")
    assert isinstance(counts, dict)
    assert len(counts) == written
    assert {value: times for value, times in counts.items() if times != b"1"} == {}
