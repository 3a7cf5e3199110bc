"""The buffer in Redis under faults: lost replies, races, damage, a full or absent server."""

import threading
import zlib
from collections.abc import Callable, Iterator
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
from store.errors import CorruptItemError, PositionOutsideLogError, StoreUnavailableError
from store.event import TextInput
from stream.slots import start_offset
from tests.contracts.escalations import LANE, Partition, check_integrity, entry, escalation, slot


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

    def _read(self, keys: list[ItemKey]) -> tuple[dict[ItemKey, tuple[Item, str]], dict[ItemKey, bytes]]:
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


def flip(client: redis.Redis, name: bytes | str, place: int = 20) -> bytes:
    """Change one byte of a stored value; what it is now."""
    value = bytearray(client.get(name))  # type: ignore[arg-type]
    value[place] ^= 0x81
    client.set(name, bytes(value))
    return bytes(value)


def replace(client: redis.Redis, name: str) -> None:
    """Put a list where something else was."""
    client.delete(name)
    client.lpush(name, "x")


def name_of(text: str) -> str:
    return f"{{support}}:acme:item:{entry(escalation(text)).item_id}"


@pytest.mark.parametrize("place", [0, 3, 9, 20, -1])
def test_a_flipped_byte_costs_readers_one_item_and_is_noted(redis_client: redis.Redis, place: int) -> None:
    buffer = RedisBuffer(redis_client, 9)
    Partition(buffer, 0).apply([escalation("a", number=1), escalation("b", number=2)])
    damaged = flip(redis_client, name_of("a"), place)
    assert [item.input for item in buffer.items(LANE)] == [TextInput(text="b")]
    assert buffer.damaged(LANE) == {entry(escalation("a")).item_id}
    assert redis_client.get(name_of("a")) == damaged  # a reader changes nothing


@pytest.mark.parametrize("place", [0, 9, 20])
def test_a_batch_that_meets_a_damaged_item_sets_it_aside_and_begins_it_anew(
    redis_client: redis.Redis, place: int
) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1, label="refund"), escalation("b", number=2)])
    damaged = flip(redis_client, name_of("a"), place)
    assert reader.apply([escalation("a", number=3, label="cancel"), escalation("b", number=4)]).outcome == "ok"
    counts = {getattr(item.input, "text", ""): (item.stratum, item.count) for item in buffer.items(LANE)}
    assert counts == {"a": ("cancel", 1), "b": ("refund", 2)}
    name = entry(escalation("a")).item_id
    assert buffer.damaged(LANE) == {name}
    assert redis_client.hget("{support}:acme:damaged", name) == damaged  # what is left of it is kept
    assert redis_client.zscore("{support}:acme:stratum:refund", name) is None  # in one stratum alone


def test_a_damaged_item_that_another_has_written_anew_is_not_set_aside(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    key = ItemKey(LANE, entry(escalation("a")).item_id)
    buffer._put_aside(key, b"what was seen before")
    assert [item.count for item in buffer.items(LANE)] == [1]
    assert buffer.damaged(LANE) == frozenset()


def test_an_item_of_another_release_is_never_thrown_away(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    body = b"00000001" + b'{"another": "release"}'
    redis_client.set(name_of("a"), b"%08x" % zlib.crc32(body) + body)
    with pytest.raises(CorruptItemError, match="not written by this release"):
        list(buffer.items(LANE))
    with pytest.raises(CorruptItemError, match="not written by this release"):
        buffer.apply(reader.batch([escalation("a", number=2)]))
    assert buffer.positions("support") == {slot(0): "1"}
    assert buffer.damaged(LANE) == frozenset()


def test_a_value_that_is_gone_without_eviction_is_noted(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    Partition(buffer, 0).apply([escalation("a", number=1), escalation("b", number=2)])
    redis_client.delete(name_of("a"))
    assert [item.input for item in buffer.items(LANE)] == [TextInput(text="b")]
    assert buffer.damaged(LANE) == {entry(escalation("a")).item_id}


@pytest.mark.parametrize(
    ("damage", "noted"),
    [
        (lambda client: client.hset("{support}:acme:counters", "counted", "1x"), "counters:counted"),
        (lambda client: client.hset("{support}:acme:counters", "evicted", "?"), "counters:evicted"),
        (lambda client: client.hset("{support}:acme:audits", "v1:audits", "many"), "audits:v1:audits"),
        (lambda client: client.hset("{support}:dead", "undecodable", ""), "dead:undecodable"),
        (lambda client: replace(client, "{support}:acme:counters"), "counters"),
        (lambda client: replace(client, "{support}:acme:audits"), "audits"),
        (lambda client: replace(client, "{support}:dead"), "dead"),
        (lambda client: replace(client, "{support}:acme:strata"), "strata"),
        (lambda client: replace(client, "{support}:acme:stratum:refund"), "stratum:refund"),
        (lambda client: replace(client, name_of("a")), None),
    ],
)
def test_whatever_is_damaged_ingest_goes_on_applies_all_of_a_batch_and_says_so(
    redis_client: redis.Redis, damage: Callable[[redis.Redis], object], noted: str | None
) -> None:
    buffer = RedisBuffer(redis_client, 1)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1, reason="audit")], {"undecodable": 1})
    damage(redis_client)
    fresh = [escalation("a", number=2, reason="audit"), escalation("b", number=3, reason="audit")]
    assert reader.apply(fresh, {"undecodable": 1}) == Applied("ok", "5")
    assert (noted or entry(escalation("a")).item_id) in buffer.damaged(LANE)
    assert reader.apply([escalation("c", number=4, label="cancel")]).outcome == "ok"
    assert "cancel" in {item.stratum for item in buffer.items(LANE)}
    assert buffer.counters(LANE).counted >= 3
    assert buffer.dead("support")["undecodable"] >= 1


def test_readers_leave_out_what_is_no_number_and_say_so_once(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    Partition(buffer, 0).apply([escalation("a", number=1, reason="audit")])
    redis_client.hset("{support}:acme:counters", mapping={"counted": "one", "of another release": "3"})
    redis_client.hset("{support}:acme:audits", "v2:audits", b"\xff")
    assert buffer.counters(LANE) == Counters(new_items=1)
    assert buffer.audits(LANE) == {"v1": AuditTally(audits=1, agreed=1)}
    assert buffer.damaged(LANE) == {"counters:counted", "audits:v2:audits"}


def test_a_position_that_is_damaged_is_claimed_with_a_higher_fence_and_waits_for_a_person(
    redis_client: redis.Redis,
) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", number=1)])
    place = f"{{support}}:pos:{slot(0).uuid}:0"
    redis_client.hset(place, mapping={"fence": "4x", "next": b"\xff\x31"})
    assert buffer.apply(reader.batch([escalation("a", number=2)])).outcome == "fenced"
    claim = buffer.claim("support", slot(0), "me")
    assert claim.fence > 1_000_000
    with pytest.raises(PositionOutsideLogError, match="damaged"):
        start_offset(slot(0), claim.position, 0, 9)
    redis_client.delete(place)
    redis_client.set(place, "no hash")
    assert buffer.apply(reader.batch([escalation("a", number=2)])).outcome == "fenced"
    with pytest.raises(PositionOutsideLogError, match="damaged"):
        start_offset(slot(0), buffer.claim("support", slot(0), "me").position, 0, 9)


def test_a_damaged_entry_of_the_list_of_slots_hides_no_other(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    Partition(buffer, 0).apply([escalation("a", number=1)])
    redis_client.sadd("{support}:slots", b'["understudy.sup\xff')
    assert buffer.positions("support") == {slot(0): "1"}


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
