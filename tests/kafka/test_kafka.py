"""What Kafka does beyond the contract: transactions, restarts, damage, and a producer that wedges."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer

import stream.kafka.appender
from ops.repair.skip import stopped
from store.errors import LogUnavailableError, RecordTooLargeError
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaHistory, KafkaSettings, KafkaTopics, admin
from stream.kafka.member import Member
from stream.kafka.source import KafkaSource
from stream.outbox import partition_of
from tests.contracts.logs import Noted
from tests.contracts.test_log import until
from tests.kafka.broker import Broker, MissingError
from tests.kafka.fixtures import no_kafka


@pytest.fixture
def topic() -> str:
    return f"understudy.{uuid4().hex[:12]}"


@pytest.fixture
def settings(kafka_broker: Broker, topic: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=kafka_broker.bootstrap, group=topic, session_timeout_ms=2000)


@pytest.fixture
def own_broker(tmp_path: Path, tidy_sockets: None) -> Iterator[Broker]:
    """A broker that the test may stop; it was not started."""
    try:
        broker = Broker(tmp_path)
    except MissingError as missing:
        no_kafka(missing)
        raise
    yield broker
    broker.stop()


def acknowledge(acks: list[Future[None]]) -> None:
    for ack in acks:
        ack.result(30)


def test_gaps_that_transactions_leave_are_stepped_over_and_aborted_records_hidden(
    settings: KafkaSettings, topic: str
) -> None:
    KafkaTopics(settings).ensure(topic, 1)
    producer: Any = KafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=topic)
    producer.init_transactions()
    for number, keep in enumerate([True, False, True]):
        producer.begin_transaction()
        producer.send(topic, key=b"k", value=b"%d" % number)
        producer.flush()
        if keep:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close(timeout=5)
    ledger = Noted()
    with closing(KafkaSource(settings, topic, ledger.claim)) as source:
        batches = until(source, ledger, lambda: len(ledger.applied) >= 2, limit=1)
        source.poll(0.5, 10)
        assert {lag.records for lag in source.lag().values()} <= {0, 1}  # the last marker counts until it is passed
    assert ledger.values() == [b"0", b"2"]
    assert [record.offset for record in ledger.applied] == [0, 4]
    assert batches[1].start == batches[0].next
    with closing(KafkaHistory(settings)) as history:
        (slot,) = history.slots(topic)
        assert history.bounds(slot) == ("0", "6")
        assert [record.value for record in history.read(slot, "0", "6")] == [b"0", b"2"]


def test_a_topic_that_takes_less_than_we_do_refuses_one_record_and_then_goes_on(
    settings: KafkaSettings, topic: str
) -> None:
    with closing(admin(settings)) as client:
        wanted = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "5000"}}
        client.create_topics({topic: wanted}, wait_for_metadata=True)
    with closing(KafkaAppender(settings)) as appender:
        noise = bytes(range(256)) * 100
        with pytest.raises(RecordTooLargeError):
            appender.append(topic, key=b"k", value=_incompressible(noise)).result(30)
        for _ in range(3):
            appender.append(topic, key=b"k", value=b"small").result(30)


def _incompressible(seed: bytes) -> bytes:
    state, out = 1, bytearray()
    for byte in seed:
        state = (state * 6364136223846793005 + byte + 1) & ((1 << 64) - 1)
        out.append(state >> 56)
    return bytes(out)


def test_kafka_may_come_late_go_away_and_come_back_with_a_damaged_record(
    own_broker: Broker, topic: str, tmp_path: Path
) -> None:
    settings = KafkaSettings(bootstrap=own_broker.bootstrap, group=topic, session_timeout_ms=2000)
    ledger = Noted()
    appender, source = KafkaAppender(settings), KafkaSource(settings, topic, ledger.claim)
    began = time.monotonic()
    assert source.poll(0.3, 10) == []  # there is no broker yet
    assert time.monotonic() - began < 1
    with pytest.raises(LogUnavailableError):
        appender.append(topic, key=b"k", value=b"early").result(30)

    own_broker.start()
    KafkaTopics(settings).ensure(topic, 2)
    written = [b"%d" % number for number in range(40)]
    acknowledge([appender.append(topic, key=value, value=value) for value in written])
    until(source, ledger, lambda: len(ledger.applied) >= 40)
    assert sorted(ledger.values()) == sorted(written)
    source.hold(None)
    assert source.poll(0.3, 10) == []
    for number in range(3):  # three batches in partition 0, the second of which will be damaged
        acknowledge([appender.append(topic, key=_key_of(0), value=b"damage me %d" % number)])

    own_broker.stop()
    began = time.monotonic()
    assert source.poll(0.5, 10) == []
    assert time.monotonic() - began < 2.5
    segment = tmp_path / "data" / f"{topic}-0" / f"{0:020d}.log"
    content = bytearray(segment.read_bytes())
    content[content.rindex(b"damage me 1")] ^= 1
    segment.write_bytes(content)
    own_broker.start()

    source.hold(())
    acknowledge([appender.append(topic, key=_key_of(1), value=b"on and on %d" % number) for number in range(5)])
    until(source, ledger, lambda: {b"damage me 0", b"on and on 4"} <= set(ledger.values()))
    spent = time.process_time()
    assert source.poll(2.0, 10) == []
    assert time.process_time() - spent < 1.0  # nothing spins
    assert len(ledger.applied) == 46  # the other partition went on, and this one never past the damage
    assert max(lag.records for lag in source.lag().values()) == 2

    damaged = next(slot for slot in ledger.positions if slot.partition == 0)
    assert "damaged" in source.health().stopped[damaged]
    found = stopped("support", damaged, ledger.positions[damaged], lambda: closing(KafkaHistory(settings)))
    assert found is not None
    skip = found.skip("beginning", who="me", why="damage", now_s=0.0)
    at = int(ledger.positions[damaged])
    assert (skip.to, skip.unread, skip.again) == (str(at + 1), (at, at + 1), (at + 1, at + 1))
    assert stopped("support", damaged, skip.to, lambda: closing(KafkaHistory(settings))) is None
    ledger.positions[damaged] = skip.to  # what `ingest skip` does; the reader looks by itself
    until(source, ledger, lambda: b"damage me 2" in ledger.values())
    assert b"damage me 1" not in ledger.values()
    assert source.health().stopped == {}
    source.close()
    appender.close()


def _key_of(partition: int) -> bytes:
    return next(b"%d" % n for n in range(100) if partition_of(b"%d" % n, 2) == partition)


class WedgedProducer:
    """Takes records and never says another word."""

    def __init__(self) -> None:
        self.closed = False

    def send(self, *_: object, **__: object) -> "WedgedProducer":
        return self

    def add_callback(self, _: object) -> None:
        """Never called."""

    def add_errback(self, _: object) -> None:
        """Never called."""

    def close(self, timeout: float) -> None:
        self.closed = True


def test_a_wedged_producer_is_replaced_and_its_records_fail(
    settings: KafkaSettings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    KafkaTopics(settings).ensure(topic, 1)
    wedged, connect = WedgedProducer(), KafkaAppender._connect
    monkeypatch.setattr(stream.kafka.appender, "_WEDGED_S", 0.2)
    monkeypatch.setattr(KafkaAppender, "_connect", lambda _: wedged)
    with closing(KafkaAppender(settings, delivery_s=0.2)) as appender:
        stuck = [appender.append(topic, key=b"k", value=b"v") for _ in range(5)]
        for ack in stuck:
            with pytest.raises(LogUnavailableError, match="neither"):
                ack.result(30)
        monkeypatch.setattr(KafkaAppender, "_connect", connect)
        monkeypatch.setattr(appender, "_delivery_s", 10.0)
        appender.append(topic, key=b"k", value=b"v").result(30)
    assert wedged.closed


def test_a_closing_writer_waits_for_what_is_in_flight(settings: KafkaSettings, topic: str) -> None:
    KafkaTopics(settings).ensure(topic, 1)
    appender = KafkaAppender(settings)
    acks = [appender.append(topic, key=b"k", value=b"%d" % number) for number in range(1000)]
    appender.close()
    acknowledge(acks)


def test_a_join_that_a_poll_gave_up_on_is_finished_all_the_same(settings: KafkaSettings, topic: str) -> None:
    KafkaTopics(settings).ensure(topic, 2)
    member = Member(settings, topic)
    coordinator = member._consumer._coordinator
    wait_for(lambda: member.fetch(0.2, 10) == {} and member.assigned() == {0, 1})
    with closing(admin(settings)) as client:
        client.create_partitions({topic: 4})
    member._consumer._client.cluster.request_update()
    wait_for(coordinator.need_rejoin)
    wait_for(lambda: member._consumer.poll(timeout_ms=1) == {} and coordinator._join_task is not None)
    wait_for(lambda: coordinator._join_task.is_done)
    assert not coordinator.need_rejoin()  # kafka-python thinks that all is well, and has lost the assignment
    assert coordinator.rejoining
    wait_for(lambda: member.fetch(0.2, 10) == {} and member.assigned() == {0, 1, 2, 3})
    member.leave({})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
