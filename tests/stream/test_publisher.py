"""Publishing: acknowledged by the log, or on disk, before publish() returns."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from random import Random

import pytest

from store.errors import LogUnavailableError, RecordTooLargeError, SpoolFullError
from store.event import (
    MAX_EVENT_BYTES,
    ClassifyEscalation,
    EscalationCause,
    LabelAnswer,
    TextInput,
    decode,
    encode,
    new_event_id,
    utc,
)
from stream.log import Headers, Record, topic_of
from stream.memory import MemoryLog
from stream.publisher import Publisher
from stream.spool import Spool

TOPIC = topic_of("support")
ACK_S = 1.0  # a host that stands still for longer than this makes one arrive twice
PUBLISH = """
import asyncio, sys
from pathlib import Path
from stream.publisher import Publisher
from stream.spool import Spool
from tests.stream.test_publisher import DownLog, event

async def main():
    publisher = Publisher(DownLog(), Spool(Path(sys.argv[1]), 1 << 22), ack_timeout_s=0.05)
    await publisher.start()
    async def one(number):
        escalation = event(number)
        await publisher.publish(escalation, "item")
        print(escalation.id, flush=True)
    for start in range(0, 10**9, 20):
        await asyncio.gather(*(one(start + number) for number in range(20)))

asyncio.run(main())
"""


def event(seed: int, text: str = "where is my card?") -> ClassifyEscalation:
    return ClassifyEscalation(
        id=new_event_id(1_700_000_000.0, Random(seed)),
        time=utc(1_700_000_000.0),
        use_case="support",
        tenant="acme",
        student=None,
        escalation=EscalationCause(reason="cold", threshold=None, propensity=1.0),
        input=TextInput(text=text),
        teacher=LabelAnswer(model="gpt", prompt_version="1", label="card"),
    )


class FlakyLog(MemoryLog):
    """A log in memory that can be down (fails at once), or deaf (never answers)."""

    def __init__(self) -> None:
        super().__init__()
        self.state = "well"
        self.appends = 0
        self.ensure(TOPIC, 2)

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        self.appends += 1
        if self.state == "well":
            return super().append(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms)
        future: Future[None] = Future()
        if self.state == "down":
            future.set_exception(LogUnavailableError("down"))
        return future

    def records(self) -> list[Record]:
        return [record for slot in self.slots(TOPIC) for record in self.read(slot, *self.bounds(slot))]

    def ids(self) -> list[str]:
        decoded = [decode(record.value) for record in self.records()]
        return [found.id for found in decoded if isinstance(found, ClassifyEscalation)]


class DownLog(FlakyLog):
    """A log that never comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.state = "down"


def publisher_on(log: FlakyLog, folder: Path, *, max_bytes: int = 1 << 22, max_in_flight: int = 1000) -> Publisher:
    return Publisher(log, Spool(folder, max_bytes), ack_timeout_s=ACK_S, max_in_flight=max_in_flight)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other threads bring it about
            await asyncio.sleep(0.005)


def test_an_event_goes_straight_to_the_log_under_its_item_id(tmp_path: Path) -> None:
    log = FlakyLog()

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        await publisher.publish(event(1), "item-1", traceparent="00-ab-cd-01")
        await publisher.publish(event(2), "item-2")
        await publisher.close()
        return publisher

    publisher = asyncio.run(scene())
    traced, plain = sorted(log.records(), key=lambda record: record.key or b"")
    assert (traced.key, traced.headers) == (b"item-1", (("traceparent", b"00-ab-cd-01"),))
    assert (plain.key, plain.headers) == (b"item-2", ())
    assert decode(traced.value) == event(1)
    assert (publisher.counts.acknowledged, publisher.counts.spooled) == (2, 0)
    assert list(tmp_path.glob("*.spool")) == []


@pytest.mark.parametrize("state", ["down", "deaf"])
def test_events_are_spooled_while_the_log_is_away_and_sent_in_order_when_it_is_back(tmp_path: Path, state: str) -> None:
    log = FlakyLog()

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        await publisher.publish(event(0), "item")
        log.state = state
        for number in range(1, 250):
            await publisher.publish(event(number), "item")
        assert log.ids() == [event(0).id]
        log.state = "well"
        await until(lambda: len(log.ids()) == 250)
        await until(lambda: publisher._direct)
        await publisher.publish(event(250), "item")
        assert publisher.counts.acknowledged == 2
        await publisher.close()
        return publisher

    publisher = asyncio.run(scene())
    assert log.ids() == [event(number).id for number in range(251)]
    assert (publisher.counts.spooled, publisher.counts.resent) == (249, 249)


class PickyLog(FlakyLog):
    """A log that refuses one event the first few times, and takes those around it."""

    def __init__(self, refused: str, times: int) -> None:
        super().__init__()
        self.refused, self.times = refused, times

    def append(
        self, topic: str, *, key: bytes, value: bytes, headers: Headers = (), timestamp_ms: int | None = None
    ) -> Future[None]:
        found = decode(value)
        if self.state == "well" and self.times and isinstance(found, ClassifyEscalation) and found.id == self.refused:
            self.times -= 1
            future: Future[None] = Future()
            future.set_exception(LogUnavailableError("not this one"))
            return future
        return super().append(topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms)


@pytest.mark.parametrize("refused", [0, 3, 9])
def test_an_event_that_is_refused_amid_others_stays_in_the_spool_until_it_is_taken(
    tmp_path: Path, refused: int
) -> None:
    """What counts is the prefix that was acknowledged, not how many were."""
    ids = [event(number).id for number in range(10)]
    log = PickyLog(ids[refused], 3)
    log.state = "down"

    async def scene() -> None:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        for number in range(10):
            await publisher.publish(event(number), "item")
        log.state = "well"
        await until(lambda: set(log.ids()) == set(ids))
        await until(lambda: publisher._direct)
        assert publisher.spool_bytes == 0
        await publisher.close()

    asyncio.run(scene())
    assert log.times == 0


def test_only_the_first_event_waits_for_a_log_that_does_not_answer(tmp_path: Path) -> None:
    log = FlakyLog()
    log.state = "deaf"

    async def scene() -> float:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        await publisher.publish(event(0), "item")
        began = time.monotonic()
        for number in range(1, 21):
            await publisher.publish(event(number), "item")
        taken_s = time.monotonic() - began
        await publisher.close()
        return taken_s

    assert asyncio.run(scene()) < 20 * ACK_S
    assert log.appends < 10  # nor is a log that is down flooded with attempts


def test_past_the_cap_events_are_spooled_instead_of_piling_up_in_memory(tmp_path: Path) -> None:
    log = FlakyLog()
    log.state = "deaf"

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path, max_in_flight=5)
        await publisher.start()
        await asyncio.gather(*(publisher.publish(event(number), "item") for number in range(50)))
        await publisher.close()
        return publisher

    publisher = asyncio.run(scene())
    assert publisher.counts.spooled == 50
    assert log.appends < 10


def test_a_full_spool_drops_aloud_and_counts(tmp_path: Path) -> None:
    log = DownLog()

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path, max_bytes=3 * (len(encode(event(0))) + 100))
        await publisher.start()
        for number in range(3):
            await publisher.publish(event(number), "item")
        with pytest.raises(SpoolFullError):
            await publisher.publish(event(3), "item")
        await publisher.close()
        return publisher

    assert asyncio.run(scene()).counts.dropped == 1


def test_an_event_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    log = FlakyLog()

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        with pytest.raises(RecordTooLargeError):
            await publisher.publish(event(1, "x" * MAX_EVENT_BYTES), "item")
        await publisher.close()
        return publisher

    assert asyncio.run(scene()).counts.too_large == 1
    assert log.appends == 0


def test_a_spooled_event_that_the_log_refuses_for_its_size_does_not_block_the_others(tmp_path: Path) -> None:
    log = FlakyLog()
    log._max_record_bytes = 1000

    async def scene() -> None:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        log.state = "down"
        await publisher.publish(event(1), "item")
        await publisher.publish(event(2, "x" * 1000), "item")
        await publisher.publish(event(3), "item")
        log.state = "well"
        await until(lambda: publisher.spool_bytes == 0)
        await publisher.close()

    asyncio.run(scene())
    assert log.ids() == [event(1).id, event(3).id]


def test_what_an_earlier_process_spooled_is_sent_before_anything_new(tmp_path: Path) -> None:
    async def before() -> None:
        publisher = publisher_on(DownLog(), tmp_path)
        await publisher.start()
        for number in range(20):
            await publisher.publish(event(number), "item")
        await publisher.close()

    log = FlakyLog()

    async def after() -> None:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        await publisher.publish(event(20), "item")
        await until(lambda: len(log.ids()) == 21)
        await publisher.close()

    asyncio.run(before())
    asyncio.run(after())
    assert log.ids() == [event(number).id for number in range(21)]


def test_an_accepted_event_survives_kill_nine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUBLISH, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        accepted = [process.stdout.readline().strip() for _ in range(150)]
        process.send_signal(signal.SIGKILL)
        accepted += process.stdout.read().split("\n")[:-1]
    log = FlakyLog()

    async def after() -> None:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        await until(lambda: publisher.spool_bytes == 0)
        await publisher.close()

    asyncio.run(after())
    assert {line for line in accepted if len(line) == 36} <= set(log.ids())


def test_a_spool_that_takes_nothing_keeps_no_event_from_a_log_that_is_well_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FlakyLog()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def accepted(publisher: Publisher, number: int) -> bool:
        try:
            await publisher.publish(event(number), "item")
        except SpoolFullError:
            return False
        return True

    async def scene() -> Publisher:
        publisher = publisher_on(log, tmp_path)
        await publisher.start()
        log.state = "down"
        assert not await accepted(publisher, 0)
        log.state = "well"
        async with asyncio.timeout(20):
            number = 1
            while not await accepted(publisher, number):
                number += 1
                await asyncio.sleep(0.02)
        assert publisher.counts.dropped == number
        await publisher.close()
        return publisher

    monkeypatch.setattr(os, "fsync", refuse)
    publisher = asyncio.run(scene())
    assert publisher.counts.acknowledged == 1
    assert publisher.counts.spooled == 0
    assert len(log.ids()) == 1


def test_what_an_earlier_process_spooled_is_sent_also_where_it_comes_to_light_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.publisher._LOOK_AGAIN_S", 0.05)
    log, folder = FlakyLog(), tmp_path / "spool"

    async def spools(publisher: Publisher) -> None:
        await publisher.start()
        await publisher.publish(event(1), "item")
        await publisher.close()

    asyncio.run(spools(publisher_on(DownLog(), folder)))
    aside = folder.rename(tmp_path / "aside")
    folder.write_bytes(b"in its place")

    async def scene() -> None:
        publisher = publisher_on(log, folder)
        await publisher.start()
        folder.unlink()
        aside.rename(folder)
        await until(lambda: log.ids() == [event(1).id])
        await publisher.close()

    asyncio.run(scene())
