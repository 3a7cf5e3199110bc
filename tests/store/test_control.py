"""The control plane on a real Redis."""

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from store.control import ENDED_KEPT, LIVE_S, Control, CycleEnded, CycleRequest, Heartbeat, TrainingState
from store.errors import LeaseLostError, StoreUnavailableError
from store.event import Lane

LANE, OTHER = Lane("acme", "support"), Lane("globex", "support")


def test_a_replica_is_heard_in_its_own_lane_only(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    beat = Heartbeat(version="v", at_s=1.0, requests=3)
    control.announce(LANE, "replica-1", beat)
    assert control.heartbeats(LANE) == {"replica-1": beat}
    assert control.heartbeats(OTHER) == {}


def test_a_request_for_a_cycle_stays_until_it_is_finished(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    first = CycleRequest(kind="head", who="ops", why="now", at_s=1.0)
    second = CycleRequest(kind="candidate", who="ops", why="try it", at_s=2.0, candidate="abc")
    control.request_cycle(LANE, first)
    control.request_cycle(LANE, second)
    assert control.next_cycle_request(LANE) == first
    assert control.next_cycle_request(LANE) == first
    control.finish_cycle_request(LANE, first)
    control.finish_cycle_request(LANE, first)
    assert control.next_cycle_request(LANE) == second
    control.finish_cycle_request(LANE, second)
    assert control.next_cycle_request(LANE) is None


def test_one_trainer_at_a_time(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    lease = control.acquire(LANE, "a", 60.0)
    assert lease is not None
    assert control.acquire(LANE, "b", 60.0) is None
    assert control.acquire(OTHER, "b", 60.0) is not None
    control.renew(lease, 60.0)
    control.release(lease)
    taken = control.acquire(LANE, "b", 60.0)
    assert taken is not None
    assert taken.fence > lease.fence


def test_a_trainer_that_lost_its_lease_learns_it_before_it_moves_anything(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    lease = control.acquire(LANE, "a", 60.0)
    assert lease is not None
    redis_client.delete(lease.name)
    assert control.acquire(LANE, "b", 60.0) is not None
    with pytest.raises(LeaseLostError):
        control.renew(lease, 60.0)
    control.release(lease)
    with pytest.raises(LeaseLostError):
        control.renew(lease, 60.0)
    assert control.acquire(LANE, "c", 60.0) is None


def test_the_same_owner_after_an_expiry_is_a_new_holder(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    lease = control.acquire(LANE, "a", 60.0)
    assert lease is not None
    redis_client.delete(lease.name)
    again = control.acquire(LANE, "a", 60.0)
    assert again is not None
    assert again.fence > lease.fence
    with pytest.raises(LeaseLostError):
        control.renew(lease, 60.0)
    control.release(lease)
    control.renew(again, 60.0)


def test_the_rows_of_the_last_cycle_are_kept_with_what_the_schedule_remembers(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    assert (control.training_state(LANE), control.drawn(LANE)) == (TrainingState(), None)
    control.remember(LANE, TrainingState(items_at_cycle=2), b"12345678")
    control.remember(LANE, TrainingState(items_at_cycle=2, last_cycle_s=5.0))  # of a candidate: it drew nothing
    assert (control.training_state(LANE).last_cycle_s, control.drawn(LANE)) == (5.0, b"12345678")
    assert control.drawn(OTHER) is None


def test_what_an_earlier_release_remembered_is_read(redis_client: redis.Redis) -> None:
    redis_client.set("{support}:acme:training", b'{"items_at_cycle":90,"items_at_fine_tune":80,"last_cycle_s":7.0}')
    state = Control(redis_client).training_state(LANE)
    assert (state.items_at_cycle, state.counted_at_cycle, state.prompt_version) == (90, None, "")


def test_the_newest_hundred_cycles_are_remembered_oldest_first(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    for number in range(ENDED_KEPT + 5):
        ended = CycleEnded(id=str(number), at_s=1.0, seconds=1.0, kind="head", verdict="error", why="full")
        control.cycle_ended(LANE, ended)
    found = [int(one.id) for one in control.ended_cycles(LANE)]
    assert found == list(range(5, ENDED_KEPT + 5))
    assert [one.id for one in control.ended_cycles(LANE, 1)] == [str(ENDED_KEPT + 4)]
    assert control.ended_cycles(OTHER) == []
    assert redis_client.llen("{support}:acme:ended") == ENDED_KEPT


def test_only_who_spoke_lately_counts_as_live_and_the_others_are_remembered(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    for name in ("live", "stopped"):
        control.announce(LANE, name, Heartbeat(version="v", at_s=1.0))
    redis_client.pexpire("{support}:acme:beat:stopped", 5000)  # it spoke 5 s ago
    assert control.heartbeats(LANE, within_s=LIVE_S).keys() == {"live"}
    assert control.heartbeats(LANE).keys() == {"live", "stopped"}


def test_who_holds_the_lease_and_asks_for_it_again_keeps_its_fence(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    held = control.acquire(LANE, "a", 60.0)
    assert control.acquire(LANE, "a", 60.0) == held


def test_a_renewed_lease_is_held_for_longer(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    held = control.acquire(LANE, "a", 60.0)
    assert held is not None
    control.renew(held, 600.0)
    assert 60_000 < redis_client.pttl(held.name) <= 600_000


def test_without_redis_every_call_says_so() -> None:
    control = Control(redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=Retry(NoBackoff(), 0)))
    with pytest.raises(StoreUnavailableError):
        control.heartbeats(LANE)
    with pytest.raises(StoreUnavailableError):
        control.acquire(LANE, "a", 1.0)
    with pytest.raises(StoreUnavailableError):
        control.next_cycle_request(LANE)


def test_a_heartbeat_that_cannot_be_read_hides_no_other_replica(redis_client: redis.Redis) -> None:
    control, beat = Control(redis_client), Heartbeat(version="v", at_s=1.0)
    control.announce(LANE, "replica-1", beat)
    for name, value in (("2", b'{"version": "v", "at_s": 1'), ("3", b"\xff"), ("4", b'{"version": 7, "at_s": 1.0}')):
        redis_client.set(f"{{support}}:acme:beat:replica-{name}", value)
    assert control.heartbeats(LANE) == {"replica-1": beat}


def test_a_request_that_cannot_be_read_is_dropped_and_holds_up_none_that_come_after_it(
    redis_client: redis.Redis,
) -> None:
    control = Control(redis_client)
    redis_client.rpush("{support}:acme:cycles", b'{"kind": "hea', b"\xff\xfe", b'{"kind": "tuesday"}')
    request = CycleRequest(kind="head", who="ops", why="now", at_s=1.0)
    control.request_cycle(LANE, request)
    assert control.next_cycle_request(LANE) == request
    assert redis_client.llen("{support}:acme:cycles") == 1
    control.finish_cycle_request(LANE, request)
    assert control.next_cycle_request(LANE) is None


def test_a_request_in_another_spelling_is_finished_too(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    redis_client.rpush("{support}:acme:cycles", b'{"why": "w", "who": "me", "kind": "head", "at_s": 1, "new": true}')
    request = control.next_cycle_request(LANE)
    assert request is not None
    control.finish_cycle_request(LANE, request)
    assert control.next_cycle_request(LANE) is None


def test_what_the_schedule_remembered_counts_as_lost_when_it_cannot_be_read(redis_client: redis.Redis) -> None:
    redis_client.set("{support}:acme:training", b'{"items_at_cycle": "many"}')
    assert Control(redis_client).training_state(LANE) == TrainingState()


def test_a_damaged_fence_is_followed_by_a_higher_one(redis_client: redis.Redis) -> None:
    control = Control(redis_client)
    old = control.acquire(LANE, "a", 60.0)
    assert old is not None
    redis_client.set(f"{old.name}:fence", "1x")
    new = control.acquire(LANE, "a", 60.0)
    assert new is not None
    assert new.fence > old.fence
    control.renew(new, 60.0)
    with pytest.raises(LeaseLostError):
        control.renew(old, 60.0)
