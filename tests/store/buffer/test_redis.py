"""The buffer in Redis under faults: lost replies, races, damage, a full or absent server."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from store.buffer.effects import ItemKey
from store.buffer.item import Item
from store.buffer.ledger import Applied, AuditTally, Counters
from store.buffer.memory import MemoryBuffer
from store.buffer.redis import RedisBuffer
from store.errors import CorruptItemError, StoreUnavailableError
from tests.contracts.escalations import LANE, Partition, check_integrity, escalation, slot


class LosingConnection(redis.UnixDomainSocketConnection):
    """Loses replies to a script: what was asked for is done, and nobody hears of it."""

    to_lose = 0
    lost = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
        self._script = b"EVALSHA" in b"".join(command)  # after it: connecting anew sends commands of its own

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        response = super().read_response(*args, **kwargs)
        if self._script and LosingConnection.to_lose:
            LosingConnection.to_lose -= 1
            LosingConnection.lost += 1
            self.disconnect()  # type: ignore[no-untyped-call]
            message = "Timeout reading from socket"
            raise redis.TimeoutError(message)
        return response


def losing_buffer(url: str, *, resends: int, lose: int) -> RedisBuffer:
    pool = redis.ConnectionPool(
        connection_class=LosingConnection,
        path=url.removeprefix("unix://"),
        retry=Retry(NoBackoff(), resends),
        retry_on_error=[redis.TimeoutError],
    )
    buffer = RedisBuffer(redis.Redis(connection_pool=pool), 100)
    LosingConnection.to_lose = 0
    buffer.claim("warm-up", slot(9), "test")
    LosingConnection.lost, LosingConnection.to_lose = 0, lose
    return buffer


def test_a_batch_whose_reply_was_lost_is_resent_by_the_client_and_counts_once(redis_url: str) -> None:
    buffer = losing_buffer(redis_url, resends=3, lose=0)
    reader = Partition(buffer, 0)
    reader.apply([escalation("warm", number=9)])
    LosingConnection.to_lose = 2
    assert reader.apply([escalation("a", number=1, reason="audit")], {"oversized": 1}) == Applied("ok", "3")
    assert LosingConnection.lost == 2
    assert buffer.counters(LANE) == Counters(counted=2, new_items=2)
    assert buffer.audits(LANE) == {"v1": AuditTally(audits=1, agreed=1)}
    assert buffer.dead("support") == {"oversized": 1}


def test_a_batch_whose_reply_was_lost_is_ok_when_the_caller_tries_again(redis_url: str) -> None:
    buffer = losing_buffer(redis_url, resends=0, lose=0)
    reader = Partition(buffer, 0)
    reader.apply([escalation("warm", number=9)])
    batch = reader.batch([escalation("a", number=1)])
    LosingConnection.to_lose = 1
    with pytest.raises(StoreUnavailableError):
        buffer.apply(batch)
    assert LosingConnection.lost == 1
    assert buffer.apply(batch) == Applied("ok", "2")
    assert buffer.counters(LANE) == Counters(counted=2, new_items=2)


def test_a_batch_whose_reply_was_lost_is_fenced_once_another_has_claimed(redis_url: str) -> None:
    buffer = losing_buffer(redis_url, resends=0, lose=0)
    reader = Partition(buffer, 0)
    reader.apply([escalation("warm", number=9)])
    batch = reader.batch([escalation("a", number=1)])
    LosingConnection.to_lose = 1
    with pytest.raises(StoreUnavailableError):
        buffer.apply(batch)
    assert buffer.claim("support", slot(0), "heir").position == "2"
    assert buffer.apply(batch).outcome == "fenced"
    assert buffer.counters(LANE).counted == 2


def test_a_claim_whose_reply_was_lost_still_draws_the_highest_fence(redis_url: str) -> None:
    buffer = losing_buffer(redis_url, resends=3, lose=1)
    reader = Partition(buffer, 0)
    assert LosingConnection.lost == 1
    assert reader.apply([escalation("a")]).outcome == "ok"


class Racing(RedisBuffer):
    """Lets another partition in between reading the items and applying, a number of times."""

    def __init__(self, client: redis.Redis, rival: Iterator[Any]) -> None:
        super().__init__(client, 2)
        self._rival = rival

    def _read(self, keys: list[ItemKey]) -> dict[ItemKey, tuple[Item, str]]:
        found = super()._read(keys)
        next(self._rival, None)
        return found


def test_an_item_that_another_partition_changes_meanwhile_keeps_both_events(redis_client: redis.Redis) -> None:
    rival = Partition(RedisBuffer(redis_client, 2), 1)

    def steps() -> Iterator[Any]:
        for number in (1, 2):
            yield rival.apply([escalation("a", number=number, label="cancel")])

    reader = Partition(Racing(redis_client, steps()), 0)
    assert reader.apply([escalation("a", number=3), escalation("b", number=4)]).outcome == "ok"
    counts = {item.count: item.tally for item in rival.buffer.items(LANE)}
    assert counts == {3: {"teacher-1@p1": {"cancel": 2, "refund": 1}}, 1: {"teacher-1@p1": {"refund": 1}}}
    check_integrity(rival.buffer, "support", [LANE], 4)


def test_an_item_that_is_evicted_meanwhile_is_read_again(redis_client: redis.Redis) -> None:
    rival = Partition(RedisBuffer(redis_client, 2), 1)
    rival.apply([escalation(f"q{number}", number=number) for number in range(2)])
    kept = sorted(rival.buffer.items(LANE), key=lambda item: item.item_id)

    def steps() -> Iterator[Any]:
        yield rival.apply([escalation(f"r{number}", number=number) for number in range(10, 60)])

    reader = Partition(Racing(redis_client, steps()), 0)
    texts = [item.input.text for item in kept if hasattr(item.input, "text")]
    reader.apply([escalation(text, number=100 + place) for place, text in enumerate(texts)])
    check_integrity(rival.buffer, "support", [LANE], 54)


def test_a_race_without_end_is_a_fault_to_retry(redis_client: redis.Redis) -> None:
    rival = Partition(RedisBuffer(redis_client, 2), 1)

    def steps() -> Iterator[Any]:
        for number in range(1, 10_000):
            yield rival.apply([escalation("a", number=number)])

    reader = Partition(Racing(redis_client, steps()), 0)
    with pytest.raises(StoreUnavailableError, match="retry"):
        reader.apply([escalation("a", number=0)])
    assert reader.buffer.claim("support", slot(0), "x").position == "-1"


def test_partitions_that_write_the_same_items_at_once_lose_nothing(redis_url: str) -> None:
    def run(partition: int) -> None:
        with redis.Redis.from_url(redis_url) as client:
            reader = Partition(RedisBuffer(client, 3), partition)
            for batch in range(20):
                start = 1000 * partition + 10 * batch
                events = [escalation(f"q{number % 7}", number=number) for number in range(start, start + 10)]
                while reader.apply(events).outcome != "ok":
                    pass

    threads = [threading.Thread(target=run, args=[each]) for each in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with redis.Redis.from_url(redis_url) as client:
        buffer = RedisBuffer(client, 3)
        check_integrity(buffer, "support", [LANE], 600)
        assert buffer.counters(LANE).counted == 600
        assert len(list(buffer.items(LANE))) == 3


@pytest.mark.parametrize("place", [0, 3, 9, 20, -1])
def test_a_flipped_byte_is_noticed(redis_client: redis.Redis, place: int) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    (name,) = redis_client.keys("*:item:*")
    value = bytearray(redis_client.get(name))  # type: ignore[arg-type]
    value[place] ^= 0x81
    redis_client.set(name, bytes(value))
    with pytest.raises(CorruptItemError, match="rebuild"):
        list(buffer.items(LANE))
    with pytest.raises(CorruptItemError, match="rebuild"):
        buffer.apply(reader.batch([escalation("a", number=2)]))
    assert buffer.positions("support") == {slot(0): "1"}


def test_a_value_that_is_gone_without_eviction_is_noticed(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    Partition(buffer, 0).apply([escalation("a", number=1), escalation("b", number=2)])
    redis_client.delete(redis_client.keys("*:item:*")[0])
    with pytest.raises(CorruptItemError, match="rebuild"):
        list(buffer.items(LANE))


def test_a_full_redis_takes_all_of_a_batch_or_nothing(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 1000)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    batch = reader.batch([escalation(f"q{number}", number=number) for number in range(2, 100)])
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailableError):
            buffer.apply(batch)
        assert buffer.counters(LANE) == Counters(counted=1, new_items=1)
        assert buffer.positions("support") == {slot(0): "1"}
    finally:
        redis_client.config_set("maxmemory", 0)
    assert buffer.apply(batch) == Applied("ok", "99")
    check_integrity(buffer, "support", [LANE], 99)


def test_an_absent_redis_is_a_fault_to_retry() -> None:
    client = redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=Retry(NoBackoff(), 0))
    buffer = RedisBuffer(client, 9)
    batch = Partition(MemoryBuffer(9), 0).batch([escalation("a")])
    for call in (
        lambda: buffer.claim("support", slot(0), "me"),
        lambda: buffer.apply(batch),
        lambda: buffer.positions("support"),
        lambda: list(buffer.items(LANE)),
        lambda: buffer.counters(LANE),
        lambda: buffer.dead("support"),
        lambda: buffer.audits(LANE),
    ):
        with pytest.raises(StoreUnavailableError):
            call()


def test_every_key_carries_the_tag_of_its_use_case(redis_client: redis.Redis) -> None:
    Partition(RedisBuffer(redis_client, 1), 0).apply(
        [escalation(f"q{number}", number=number, reason="audit") for number in range(3)], {"oversized": 1}
    )
    assert redis_client.keys("*")
    assert len(redis_client.keys("*")) == len(redis_client.keys("{support}:*"))


def test_a_restart_of_redis_forgets_nothing(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    redis_client.script_flush()  # as a restart does: the scripts are sent again
    assert reader.apply([escalation("a", number=2)]) == Applied("ok", "2")
    assert [item.count for item in buffer.items(LANE)] == [2]
