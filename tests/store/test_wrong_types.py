"""A key of another type than it should be, or damaged: it is set aside, aloud, and what it held begins anew."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import redis

from store.control import Control, CycleEnded, CycleRequest, Heartbeat, Lease, TrainingState
from store.cycles.signs import Signs, TrainerSign
from store.errors import LeaseLostError
from store.event import Lane
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import DeedBatch

LANE: Final = Lane("acme", "support")
PREFIX: Final = "{support}:acme:"
BEAT: Final = Heartbeat(version="v", at_s=1.0)
REQUEST: Final = CycleRequest(kind="head", who="ops", why="now", at_s=1.0)
ENDED: Final = CycleEnded(id="c", at_s=1.0, seconds=2.0, kind="head", verdict="pass", why="")
SIGN: Final = TrainerSign(owner="t", at_s=1.0, busy_with=None, cycle=None)


def batch(number: int) -> DeedBatch:
    return DeedBatch(writer="me", number=number, deeds=Deeds(calls=2, student=3))


Call = Callable[[redis.Redis], Any]
CONTROL: Final[list[tuple[str, Call, Any]]] = [  # key, what is asked of it, what is answered then
    ("cycles", lambda client: Control(client).next_cycle_request(LANE), None),
    ("cycles", lambda client: Control(client).request_cycle(LANE, REQUEST), None),
    ("cycles", lambda client: Control(client).finish_cycle_request(LANE, REQUEST), None),
    ("training", lambda client: Control(client).training_state(LANE), TrainingState()),
    ("drawn", lambda client: Control(client).drawn(LANE), None),
    ("census", lambda client: Control(client).census(LANE), None),
    ("ending", lambda client: Control(client).ending(LANE), None),
    ("ended", lambda client: Control(client).ended_cycles(LANE), []),
    ("ended", lambda client: Control(client).cycle_ended(LANE, ENDED), None),
    ("trainer", lambda client: Signs(client).of(LANE), None),
    ("importing", lambda client: Signs(client).importing(LANE), False),
    ("books:ever", lambda client: Books(client).read(LANE).ever, Deeds()),
]


def of_another_type(client: redis.Redis, name: str) -> None:
    client.zadd(name, {"kept": 1})


@pytest.mark.parametrize(("name", "call", "answer"), CONTROL)
def test_a_key_of_another_type_is_set_aside_and_counts_as_lost(
    redis_client: redis.Redis, name: str, call: Call, answer: Any
) -> None:
    of_another_type(redis_client, PREFIX + name)
    assert call(redis_client) == answer
    assert redis_client.zrange(f"{PREFIX}{name}:aside", 0, -1) == [b"kept"]
    assert redis_client.type(PREFIX + name) in {b"none", b"list"}


def test_what_is_asked_for_or_noted_on_such_a_key_is_there_afterwards(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    for name in ("cycles", "ended", "training", "trainer"):
        of_another_type(redis_client, PREFIX + name)
    control.request_cycle(LANE, REQUEST)
    control.cycle_ended(LANE, ENDED)
    control.remember(LANE, TrainingState(labels=3))
    Signs(redis_client).give(LANE, SIGN)
    assert control.next_cycle_request(LANE) == REQUEST
    assert control.ended_cycles(LANE) == [ENDED]
    assert control.training_state(LANE).labels == 3
    assert Signs(redis_client).of(LANE) == SIGN


def test_a_damaged_cycle_in_the_list_hides_no_other(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    control.cycle_ended(LANE, ENDED)
    redis_client.lpush(f"{PREFIX}ended", b"\xff{")
    assert control.ended_cycles(LANE) == [ENDED]


def test_a_heartbeat_of_another_type_hides_no_other_replica_until_it_is_written_over(
    redis_client: redis.Redis,
) -> None:
    control = Control(redis_client)
    of_another_type(redis_client, f"{PREFIX}beat:one")
    control.announce(LANE, "two", BEAT)
    assert control.heartbeats(LANE) == {"two": BEAT}
    control.announce(LANE, "one", BEAT)
    assert control.heartbeats(LANE).keys() == {"one", "two"}
    assert not list(redis_client.scan_iter("*:aside"))


@pytest.mark.parametrize("name", ["lease", "lease:fence"])
def test_a_lease_of_another_type_is_lost_and_the_next_holder_has_a_higher_fence(
    redis_client: redis.Redis, name: str
) -> None:
    control = Control(redis_client)
    for owner in ("a", "b"):
        held = control.acquire(LANE, owner, 60.0)
        assert held is not None
        control.release(held)
    held = control.acquire(LANE, "a", 60.0)
    assert held is not None
    redis_client.delete(PREFIX + name)
    of_another_type(redis_client, PREFIX + name)
    with pytest.raises(LeaseLostError):
        control.renew(held, 60.0)
    control.release(held)
    redis_client.delete(f"{PREFIX}lease") if name == "lease:fence" else None
    found = control.acquire(LANE, "c", 60.0)
    assert isinstance(found, Lease)
    assert found.fence > held.fence
    control.renew(found, 60.0)
    assert redis_client.exists(f"{PREFIX}{name}:aside")


@pytest.mark.parametrize("name", ["ever", "day", "of:me"])
def test_a_batch_is_counted_once_in_books_of_another_type(redis_client: redis.Redis, name: str) -> None:
    books = Books(redis_client)
    books.write(LANE, batch(1))
    key = f"{PREFIX}books:{name}" if name != "day" else day_of(redis_client)
    redis_client.delete(key)
    of_another_type(redis_client, key)
    books.write(LANE, batch(2))
    books.write(LANE, batch(2))
    found = books.read(LANE)
    assert found.ever == (batch(2).deeds if name == "ever" else batch(1).deeds + batch(2).deeds)
    assert found.today == (batch(2).deeds if name == "day" else batch(1).deeds + batch(2).deeds)
    assert redis_client.zrange(f"{key}:aside", 0, -1) == [b"kept"]


@pytest.mark.parametrize("damage", ["many", "1.5", "", "99999999999999999999"])
@pytest.mark.parametrize("name", ["ever", "day"])
def test_a_count_that_is_no_number_begins_anew_and_the_others_go_on(
    redis_client: redis.Redis, name: str, damage: str
) -> None:
    books = Books(redis_client)
    books.write(LANE, batch(1))
    redis_client.hset(f"{PREFIX}books:ever" if name == "ever" else day_of(redis_client), "calls", damage)
    books.write(LANE, batch(2))
    found = books.read(LANE)
    damaged, whole = (found.ever, found.today) if name == "ever" else (found.today, found.ever)
    assert damaged == Deeds(calls=2, student=6)
    assert whole == Deeds(calls=4, student=6)


def test_a_damaged_number_of_the_last_batch_lets_the_next_one_in(redis_client: redis.Redis) -> None:
    books = Books(redis_client)
    redis_client.set(f"{PREFIX}books:of:me", "many")
    books.write(LANE, batch(1))
    books.write(LANE, batch(1))
    assert books.read(LANE).ever == batch(1).deeds


def day_of(client: redis.Redis) -> str:
    (name,) = client.scan_iter(f"{PREFIX}books:day:*")
    return str(name.decode())
