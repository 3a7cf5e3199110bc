"""What the scripts leave in Redis beside what a buffer says of itself: notes, bytes kept aside, counts in full."""

import pytest
import redis

from store.buffer.keys import position_key, script_of
from store.buffer.ledger import Counters
from store.buffer.redis import RedisBuffer
from tests.contracts.escalations import LANE, Partition, check_integrity, escalation

PREFIX = "{support}:acme:"


def test_an_evicted_item_is_counted_with_all_its_events(redis_client: redis.Redis) -> None:
    """More than nine of them: a count is kept in hexadecimal digits."""
    buffer = RedisBuffer(redis_client, 1)
    reader = Partition(buffer, 0)
    for question in range(3):
        reader.apply([escalation(f"q{question}", number=100 * question + number) for number in range(17)])
    assert buffer.counters(LANE) == Counters(counted=51, evicted=34, new_items=3)
    check_integrity(buffer, "support", [LANE], 51)


@pytest.mark.parametrize("name", ["counters", "audits", "strata", "stratum:refund"])
def test_what_is_not_of_its_kind_is_kept_aside_and_noted(redis_client: redis.Redis, name: str) -> None:
    buffer = RedisBuffer(redis_client, 9)
    redis_client.set(PREFIX + name, "somebody's")
    assert Partition(buffer, 0).apply([escalation("a", number=1, reason="audit")]).outcome == "ok"
    assert redis_client.get(f"{PREFIX}{name}:aside") == b"somebody's"
    assert name in buffer.damaged(LANE)
    assert [item.count for item in buffer.items(LANE)] == [1]
    assert buffer.counters(LANE).counted == 1


@pytest.mark.parametrize(("value", "counted", "noted"), [("many", 1, True), ("-5", -4, False), ("1.5", 1, True)])
def test_a_count_that_is_no_number_begins_anew_and_is_noted(
    redis_client: redis.Redis, value: str, counted: int, *, noted: bool
) -> None:
    buffer = RedisBuffer(redis_client, 9)
    redis_client.hset(f"{PREFIX}counters", "counted", value)
    Partition(buffer, 0).apply([escalation("a", number=1)])
    assert redis_client.hget(f"{PREFIX}counters", "counted") == str(counted).encode()
    assert redis_client.hget(f"{PREFIX}damaged", "counters:counted") == (value.encode() if noted else None)


def test_a_count_of_evictions_that_is_no_number_stops_no_eviction(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 1)
    redis_client.hset(f"{PREFIX}counters", "evicted", "many")
    assert Partition(buffer, 0).apply([escalation("a", number=1), escalation("b", number=2)]).outcome == "ok"
    assert buffer.counters(LANE).evicted == 1


def test_a_damaged_item_is_kept_in_its_bytes_and_ranked_no_more(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    reader.apply([escalation("a", label="refund", number=1)])
    (item,) = buffer.items(LANE)
    name = f"{PREFIX}item:{item.item_id}"
    redis_client.setrange(name, 40, b"\x00")
    damaged = redis_client.get(name)
    reader.apply([escalation("a", label="cancel", number=2)])
    assert redis_client.hget(f"{PREFIX}damaged", item.item_id) == damaged
    assert redis_client.zscore(f"{PREFIX}stratum:refund", item.item_id) is None
    assert redis_client.zscore(f"{PREFIX}stratum:cancel", item.item_id) is not None
    assert [(kept.count, kept.stratum) for kept in buffer.items(LANE)] == [(1, "cancel")]


def test_what_stands_where_positions_belong_is_kept_aside(redis_client: redis.Redis) -> None:
    redis_client.set("{support}:slots", "somebody's")
    buffer = RedisBuffer(redis_client, 9)
    assert Partition(buffer, 0).apply([escalation("a", number=1)]).outcome == "ok"
    assert redis_client.get("{support}:slots:aside") == b"somebody's"
    assert list(buffer.positions("support").values()) == ["1"]


def test_who_owns_a_slot_is_written_for_people(redis_client: redis.Redis) -> None:
    reader = Partition(RedisBuffer(redis_client, 9), 0)
    position = position_key("support", reader.slot)
    assert redis_client.hget(position, "owner") == b"test"
    redis_client.hset(position, "fence", "torn")
    assert reader.buffer.claim("support", reader.slot, "next").fence > 1_700_000_000_000_000  # above any drawn so far


def test_a_fence_after_a_damaged_one_is_higher_than_any_that_was_drawn(redis_client: redis.Redis) -> None:
    buffer = RedisBuffer(redis_client, 9)
    reader = Partition(buffer, 0)
    position = position_key("support", reader.slot)
    redis_client.hset(position, "fence", 10**12)  # a million claims a second for eleven days
    before = buffer.claim("support", reader.slot, "test").fence
    redis_client.hset(position, "fence", "torn")
    assert buffer.claim("support", reader.slot, "test").fence > before
    redis_client.hset(position, "fence", "torn again")
    assert buffer.claim("support", reader.slot, "test").fence > 10**15  # of the clock, in microseconds


def test_bytes_of_a_thousand_damaged_items_are_kept_and_after_that_their_names(redis_client: redis.Redis) -> None:
    script = redis_client.register_script(script_of("set_aside.lua"))
    keys = [f"{PREFIX}item:x", f"{PREFIX}damaged", f"{PREFIX}strata"]
    redis_client.hset(keys[1], mapping={str(number): "bytes" for number in range(999)})
    for name, kept in (("first", b"torn"), ("second", b"")):
        redis_client.set(keys[0], b"torn")
        assert script(keys=keys, args=[name, b"torn", f"{PREFIX}stratum:"]) == 1
        assert redis_client.hget(keys[1], name) == kept
        assert not redis_client.exists(keys[0])


def test_an_item_that_was_written_anew_is_not_set_aside(redis_client: redis.Redis) -> None:
    script = redis_client.register_script(script_of("set_aside.lua"))
    redis_client.set(f"{PREFIX}item:x", b"whole")
    keys = [f"{PREFIX}item:x", f"{PREFIX}damaged", f"{PREFIX}strata"]
    assert script(keys=keys, args=["x", b"torn", f"{PREFIX}stratum:"]) == 0
    assert redis_client.get(f"{PREFIX}item:x") == b"whole"
    assert not redis_client.exists(f"{PREFIX}damaged")
