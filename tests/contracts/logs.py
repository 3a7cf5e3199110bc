"""The logs under the contract: one harness each, with the same ways to break it."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import uuid4

import redis
from kafka import TopicPartition

from store.buffer.ledger import BEGINNING, Applied, Claim, LogSlot
from stream.embedded.log import EmbeddedLog
from stream.kafka.appender import KafkaAppender
from stream.kafka.cluster import KafkaHistory, KafkaSettings, KafkaTopics, admin
from stream.kafka.source import KafkaSource
from stream.log import Appender, Batch, Claimer, History, Record, Remake, Source, Topics
from stream.memory import MemoryLog, MemorySource
from tests.kafka.broker import Broker

SESSION_S = 1.0
"""How soon each log under test gives a dead reader's slots away; Kafka adds its rebalance."""
MAX_RECORD_BYTES = 100_000


@dataclass(kw_only=True)
class Noted:
    """The store's half of the contract, as naive as can be: claim, and apply by compare-and-set."""

    fences: dict[LogSlot, int] = field(default_factory=dict)
    positions: dict[LogSlot, str] = field(default_factory=dict)
    applied: list[Record] = field(default_factory=list)

    def claim(self, slot: LogSlot) -> Claim:
        self.fences[slot] = self.fences.get(slot, 0) + 1
        return Claim(self.fences[slot], self.positions.get(slot, BEGINNING))

    def apply(self, batch: Batch) -> Applied:
        stored = self.positions.get(batch.slot, BEGINNING)
        if self.fences[batch.slot] != batch.fence:
            return Applied("fenced", stored)
        if stored != batch.start:
            return Applied("moved", stored)
        self.positions[batch.slot] = batch.next
        self.applied.extend(batch.records)
        return Applied("ok", batch.next)

    def values(self) -> list[bytes]:
        return [record.value for record in self.applied]


class Log(Protocol):
    """What the contract needs of a log and its surroundings."""

    appender: Appender
    history: History
    topics: Topics

    def source(self, topic: str, claim: Claimer, *, remake: Remake | None = None) -> Source:
        """A new reader; all readers of a topic are one group."""

    def crash(self, source: Source) -> None:
        """The reader dies without a word."""

    def delete(self, topic: str) -> None:
        """Delete a topic."""

    def trim(self, slot: LogSlot, before: int) -> None:
        """Delete the records below an offset, read or not."""

    def outage(self) -> AbstractContextManager[None]:
        """The log does not answer inside the context."""


class MemoryHarness:
    """The log in memory."""

    def __init__(self) -> None:
        self.log = MemoryLog(max_record_bytes=MAX_RECORD_BYTES)
        self.appender: Appender = self.log
        self.history: History = self.log
        self.topics: Topics = self.log

    def source(self, topic: str, claim: Claimer, *, remake: Remake | None = None) -> Source:
        return self.log.source(topic, "group", claim, remake=remake)

    def crash(self, source: Source) -> None:
        assert isinstance(source, MemorySource)
        source._members.remove(source)

    def delete(self, topic: str) -> None:
        del self.log._topics[topic]

    def trim(self, slot: LogSlot, before: int) -> None:
        partition = self.log._topics[slot.topic].partitions[slot.partition]
        del partition.records[: before - partition.begin]
        partition.begin = before

    @contextmanager
    def outage(self) -> Iterator[None]:
        """It is said to be down."""
        self.log.down = True
        try:
            yield
        finally:
            self.log.down = False


class EmbeddedHarness:
    """The embedded log on a real Redis of its own, so that it can be stopped."""

    def __init__(self, url: str, *, capacity_bytes: int = 1 << 26) -> None:
        self.client = redis.Redis.from_url(url)
        self.log = EmbeddedLog(self.client, max_record_bytes=MAX_RECORD_BYTES, capacity_bytes=capacity_bytes)
        self.appender: Appender = self.log
        self.history: History = self.log
        self.topics: Topics = self.log

    def source(self, topic: str, claim: Claimer, *, remake: Remake | None = None) -> Source:
        return self.log.source(topic, owner=str(uuid4()), claim=claim, lease_s=SESSION_S, remake=remake)

    def crash(self, source: Source) -> None:
        """It does not poll any more, so its lease runs out."""

    def delete(self, topic: str) -> None:
        keys = self.client.keys(f"log:{{{topic}}}*")
        assert isinstance(keys, list)
        self.client.delete(*keys)

    def trim(self, slot: LogSlot, before: int) -> None:
        self.client.xtrim(
            f"log:{{{slot.topic}}}:{slot.uuid}:{slot.partition}", minid=f"{before + 1}-0", approximate=False
        )

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Redis is frozen: connections stay open and nothing answers."""
        info = self.client.info("server")
        assert isinstance(info, dict)
        os.kill(info["process_id"], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(info["process_id"], signal.SIGCONT)

    def close(self) -> None:
        self.log.close()
        self.client.close()


class KafkaHarness:
    """Apache Kafka; every topic has a group of its own, named like it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.settings = KafkaSettings(
            bootstrap=broker.bootstrap, session_timeout_ms=int(SESSION_S * 1000), max_record_bytes=MAX_RECORD_BYTES
        )
        self.admin = admin(self.settings)
        self.appender: Appender = KafkaAppender(self.settings)
        self.history: History = KafkaHistory(self.settings)
        self.topics: Topics = KafkaTopics(self.settings)

    def source(self, topic: str, claim: Claimer, *, remake: Remake | None = None) -> Source:
        return KafkaSource(replace(self.settings, group=topic), topic, claim, remake=remake)

    def crash(self, source: Source) -> None:
        """Its network stands still, so that its heartbeats end and nobody hears it leave."""
        assert isinstance(source, KafkaSource)
        assert source._member is not None
        source._member._consumer._net.stop()

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])

    def trim(self, slot: LogSlot, before: int) -> None:
        self.admin.delete_records({TopicPartition(slot.topic, slot.partition): before})

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The broker is frozen for longer than its members' sessions."""
        self.broker.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.broker.send(signal.SIGCONT)

    def close(self) -> None:
        self.appender.close()
        self.history.close()
        self.admin.close()
