"""Ingest on the real parts of one machine: the embedded log and the buffer, both in Redis."""

import signal
import subprocess
import sys
import threading
import time
from random import Random

import redis
from prometheus_client import CollectorRegistry

from store.buffer.ledger import Counters
from store.buffer.redis import RedisBuffer
from store.event import encode
from store.secrets import DataSecret
from stream.dead_letter import read_dead_letters
from stream.embedded.log import EmbeddedLog
from stream.ingest import Ingest, IngestSettings, LaneKeys
from stream.log import dead_topic_of, topic_of
from stream.metrics import IngestMetrics
from tests.contracts.escalations import LANE, check_integrity, escalation

SECRET = DataSecret(b"s" * 32)
TOPIC = topic_of("support")
EVENTS, QUESTIONS, KILLS = 1500, 50, 3
DEADLINE_S = 60.0


def run(url: str, owner: str, stop: threading.Event) -> None:
    """One ingest process' work."""
    client = redis.Redis.from_url(url, socket_timeout=5)
    buffer, log = RedisBuffer(client, 20), EmbeddedLog(client)
    keys = LaneKeys(
        lane_key=b"l" * 32, redaction_key=b"r" * 32, subject_key=b"s" * 32, task="classify", training_permitted=True
    )
    source = log.source(TOPIC, owner=owner, claim=lambda slot: buffer.claim("support", slot, owner), lease_s=0.5)
    ingest = Ingest(
        source,
        buffer,
        log,
        use_case="support",
        lanes={LANE: keys},
        secret=SECRET,
        settings=IngestSettings(max_records=40, poll_s=0.05),
        metrics=IngestMetrics.create(CollectorRegistry()),
        rng=Random(0),
    )
    try:
        ingest.run(stop)
    finally:
        log.close()
        client.close()


def stored(buffer: RedisBuffer) -> int:
    return sum(int(position) for position in buffer.positions("support").values() if position != "-1")


def test_processes_killed_at_random_moments_count_every_record_once(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    buffer, log, rng = RedisBuffer(client, 20), EmbeddedLog(client), Random(5)
    log.ensure(TOPIC, 3)
    log.ensure(dead_topic_of("support"), 1)
    sent = []
    for number in range(EVENTS):
        question = f"question {number % QUESTIONS} of jane{number % QUESTIONS}@example.com"
        value = b"junk" if number % 100 == 99 else encode(escalation(question, number=number))
        sent.append(log.append(TOPIC, key=question.encode(), value=value))
    for future in sent:
        future.result(DEADLINE_S)

    deadline, kills = time.monotonic() + DEADLINE_S, 0
    while stored(buffer) < EVENTS:
        assert time.monotonic() < deadline
        before = stored(buffer)
        child = subprocess.Popen([sys.executable, "-m", "tests.stream.test_ingest_embedded", redis_url, str(kills)])
        target = EVENTS if kills >= KILLS else min(EVENTS, before + rng.randint(1, 400))
        while stored(buffer) < target and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if kills >= KILLS:
            child.send_signal(signal.SIGTERM)
            assert child.wait(DEADLINE_S) == 0
        else:
            child.kill()
            child.wait()
        kills += 1

    check_integrity(buffer, "support", [LANE], EVENTS)
    assert buffer.dead("support") == {"undecodable": EVENTS // 100}
    counters = buffer.counters(LANE)
    assert counters == Counters(counted=EVENTS - EVENTS // 100, evicted=counters.evicted, new_items=counters.new_items)
    assert len(list(buffer.items(LANE))) == 20
    assert not any("jane" in repr(item) for item in buffer.items(LANE))
    letters = list(read_dead_letters(log, "support", SECRET))
    assert len(letters) == EVENTS // 100
    assert {letter.raw() for letter in letters} == {b"junk"}
    log.close()
    client.close()


if __name__ == "__main__":
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    run(sys.argv[1], f"process-{sys.argv[2]}", stopped)
