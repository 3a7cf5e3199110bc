"""What is staged takes the place of what is kept, in one step, or nothing changes."""

import msgspec
import pytest
import redis

from store.buffer.item import Item
from store.buffer.ledger import AuditTally, Counters
from store.buffer.memory import MemoryBuffer
from store.buffer.redis import RedisBuffer
from store.buffer.repair.positions import Positions, Skip
from store.buffer.repair.rebuild import Staging, stage_dead, swap
from tests.contracts.escalations import LANE, Partition, check_integrity, escalation, slot


def items_of(*texts: str) -> dict[str, Item]:
    """Items as ingest would make them of one event each."""
    memory = MemoryBuffer(99)
    Partition(memory, 0).apply([escalation(text, number=number) for number, text in enumerate(texts)])
    return {item.item_id: item for item in memory.items(LANE)}


def texts(buffer: RedisBuffer) -> set[str]:
    return {str(getattr(item.input, "text", "")) for item in buffer.items(LANE)}


@pytest.fixture
def buffer(redis_client: redis.Redis) -> RedisBuffer:
    return RedisBuffer(redis_client, 9)


def test_a_swap_under_a_void_fence_changes_nothing(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    reader = Partition(buffer, 0)
    reader.apply([escalation("old", number=1)])
    staging = Staging(redis_client, LANE)
    staging.put(items_of("new"), staging.kept_ids(), Counters(counted=1, new_items=1), {})
    fence = buffer.claim("support", slot(0), "rebuild").fence
    buffer.claim("support", slot(0), "ingest")  # it was faster
    assert not swap(redis_client, "support", {slot(0): fence}, {LANE: True}, dead=False)
    assert texts(buffer) == {"old"}
    fence = buffer.claim("support", slot(0), "rebuild").fence
    assert swap(redis_client, "support", {slot(0): fence}, {LANE: True}, dead=False)
    assert texts(buffer) == {"new"}
    assert buffer.counters(LANE) == Counters(counted=1, new_items=1)
    assert not list(redis_client.scan_iter("*rebuild*"))


def test_only_what_was_staged_last_is_put(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    staging, first = Staging(redis_client, LANE), items_of("a", "b", "c")
    staging.stage(first)
    (a, b, c) = sorted(first)
    changed = msgspec.structs.replace(first[b], stratum="cancel", count=7)
    staging.put({a: first[a], b: changed}, [], Counters(counted=8), {"v1": AuditTally(audits=3, agreed=2)})
    stage_dead(redis_client, "support", {"undecodable": 4}, {"undecodable": 3})
    fence = buffer.claim("support", slot(0), "rebuild").fence
    assert swap(redis_client, "support", {slot(0): fence}, {LANE: True}, dead=True)
    assert {item.item_id: item for item in buffer.items(LANE)} == {a: first[a], b: changed}
    assert redis_client.exists(f"{{support}}:acme:item:{c}") == 0
    assert buffer.audits(LANE) == {"v1": AuditTally(audits=3, agreed=2)}
    assert buffer.dead("support") == {"undecodable": 4}
    assert buffer.open_dead("support") == {"undecodable": 1}
    stage_dead(redis_client, "support", {}, {})
    fence = buffer.claim("support", slot(0), "rebuild").fence
    assert swap(redis_client, "support", {slot(0): fence}, {LANE: False}, dead=True)
    assert buffer.dead("support") == buffer.open_dead("support") == {}


def test_where_not_all_is_staged_the_rest_stays_as_it_is(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    reader = Partition(buffer, 0)
    reader.apply([escalation(text, number=number) for number, text in enumerate(["a", "b", "c"])])
    kept = {item.item_id: item for item in buffer.items(LANE)}
    (a, b, c) = sorted(kept)
    staging = Staging(redis_client, LANE)
    staging.put({a: msgspec.structs.replace(kept[a], stratum="cancel")}, [a, b], None, None)
    fence = buffer.claim("support", slot(0), "rebuild").fence
    assert swap(redis_client, "support", {slot(0): fence}, {LANE: False}, dead=False)
    assert {item.item_id: item.stratum for item in buffer.items(LANE)} == {a: "cancel", c: kept[c].stratum}
    assert buffer.counters(LANE).counted == 3


def test_ranks_survive_a_rebuild_to_the_last_bit(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    reader = Partition(buffer, 0)
    reader.apply([escalation(f"q{number}", number=number) for number in range(9)])
    before = redis_client.zrange("{support}:acme:stratum:refund", 0, -1, withscores=True)
    staging = Staging(redis_client, LANE)
    staging.put({item.item_id: item for item in buffer.items(LANE)}, staging.kept_ids(), buffer.counters(LANE), {})
    claim = buffer.claim("support", slot(0), "rebuild")
    assert swap(redis_client, "support", {slot(0): claim.fence}, {LANE: True}, dead=False)
    assert redis_client.zrange("{support}:acme:stratum:refund", 0, -1, withscores=True) == before
    again = Partition(buffer, 0)
    again.apply([escalation(f"r{number}", number=100 + number) for number in range(9)])
    check_integrity(buffer, "support", [LANE], 18)


def test_a_position_is_moved_under_the_fence_that_was_drawn_for_it_and_the_move_is_kept(
    redis_client: redis.Redis, buffer: RedisBuffer
) -> None:
    reader, positions = Partition(buffer, 0), Positions(redis_client)
    reader.apply([escalation("a", number=1)])
    skip = Skip(slot=slot(0), at="1", to="5", unread=(1, 5), again=(5, 5), who="me", why="gone", at_s=1.0)
    fence = buffer.claim("support", slot(0), "skip").fence
    buffer.claim("support", slot(0), "ingest")
    assert not positions.move("support", skip, fence)
    assert buffer.positions("support") == {slot(0): "1"}
    assert positions.skips("support") == []
    assert positions.move("support", skip, buffer.claim("support", slot(0), "skip").fence)
    assert buffer.claim("support", slot(0), "ingest").position == "5"
    redis_client.rpush("{support}:skips", b"\xff")
    assert positions.skips("support") == [skip]


def test_a_moved_position_voids_the_fence_under_which_it_was_moved(
    redis_client: redis.Redis, buffer: RedisBuffer
) -> None:
    """Whoever read under it looks again: nothing is applied from where it stood."""
    reader, positions = Partition(buffer, 0), Positions(redis_client)
    reader.apply([escalation("a", number=1)])
    fence = buffer.claim("support", slot(0), "skip").fence
    skip = Skip(slot=slot(0), at="1", to="5", unread=(1, 5), again=(5, 5), who="me", why="gone", at_s=1.0)
    assert positions.move("support", skip, fence)
    assert not positions.move("support", skip, fence)
    assert positions.skips("support") == [skip]


def put_one(client: redis.Redis, buffer: RedisBuffer, *, drop: list[str], whole: bool = False) -> None:
    staging = Staging(client, LANE)
    staging.put(items_of("new"), drop, None, None)
    fence = buffer.claim("support", slot(0), "rebuild").fence
    assert swap(client, "support", {slot(0): fence}, {LANE: whole}, dead=False)


@pytest.mark.parametrize("name", ["strata", "stratum:refund"])
def test_what_is_of_another_type_gives_way_to_what_is_put(
    redis_client: redis.Redis, buffer: RedisBuffer, name: str
) -> None:
    redis_client.set(f"{{support}}:acme:{name}", "somebody's")
    put_one(redis_client, buffer, drop=[])
    assert texts(buffer) == {"new"}


def test_what_is_dropped_is_neither_kept_nor_ranked(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    Partition(buffer, 0).apply([escalation("old", number=1), escalation("kept", number=2)])
    (old,) = [item.item_id for item in buffer.items(LANE) if getattr(item.input, "text", "") == "old"]
    put_one(redis_client, buffer, drop=[old])
    assert texts(buffer) == {"new", "kept"}
    assert redis_client.zscore("{support}:acme:stratum:refund", old) is None
    assert old not in buffer.damaged(LANE)


def test_after_a_rebuild_nothing_is_noted_as_damaged_any_more(redis_client: redis.Redis, buffer: RedisBuffer) -> None:
    for name in ("{support}:acme:damaged", "{support}:damaged"):
        redis_client.hset(name, "counters", "of type string")
    redis_client.hset("{support}:acme:audits", "v1:audits", 3)
    put_one(redis_client, buffer, drop=[], whole=True)
    assert not redis_client.exists("{support}:acme:damaged", "{support}:damaged")
    assert buffer.audits(LANE) == {}, "none was staged, and all of the lane was"
