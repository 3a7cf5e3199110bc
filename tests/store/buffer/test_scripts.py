"""What the scripts leave in Redis beside what a buffer says of itself: notes, bytes kept aside, counts in full."""

import pytest
import redis

from store.buffer.keys import position_key
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
