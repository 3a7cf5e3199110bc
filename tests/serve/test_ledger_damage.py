"""A damaged ledger, in a real Redis: it begins anew, and what every replica spent is counted again."""

import itertools
from typing import Final

import pytest
import redis

from serve.settings import BudgetSettings
from serve.teacher.ledger import RedisLedger
from serve.teacher.spent import Witness
from store.event import Lane

KEY: Final = "{support}:acme:budget"
LIMITS: Final = BudgetSettings(calls_per_day=100, usd_per_day=None)


class Replica:
    """A replica that keeps count of what it leased."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.ledger = RedisLedger(client, Lane("acme", "support"), LIMITS)
        self.name, self.calls, self.leases = name, 0, 0
        self.numbers = itertools.count()

    def witness(self) -> Witness:
        return Witness(name=self.name, calls=self.calls, leases=self.leases)

    def lease(self, calls: int) -> int:
        grant = self.ledger.lease(
            f"{self.name}{next(self.numbers)}", "escalation", calls=calls, usd_micro=0, witness=self.witness()
        )
        self.calls, self.leases = self.calls + grant.calls, max(self.leases, grant.leases)
        return grant.calls

    def used(self) -> int:
        return self.ledger.used(self.witness()).used_calls


@pytest.mark.parametrize("key", [KEY, f"{KEY}:of:a", f"{KEY}:of:b"])
@pytest.mark.parametrize("damage", ["another type", "calls", "leases", "newest", "hold"])
def test_whatever_is_damaged_the_replicas_calls_are_counted_again_and_none_is_granted_twice(
    redis_client: redis.Redis, key: str, damage: str
) -> None:
    replicas = [Replica(redis_client, name) for name in ("a", "b")]
    assert [replica.lease(20) for replica in replicas] == [20, 20]
    if damage == "another type":
        redis_client.delete(key)
        redis_client.rpush(key, "x")
    else:
        redis_client.hset(key, damage, "many")
    for replica in replicas:
        replica.used()
    assert [replica.used() for replica in replicas] == [40, 40]
    assert sum(replica.lease(100) for replica in replicas) <= 60


@pytest.mark.parametrize("verb", ["lease", "settle"])
def test_a_lease_of_another_type_stops_nobody(redis_client: redis.Redis, verb: str) -> None:
    replica = Replica(redis_client, "a")
    assert replica.lease(20) == 20
    name = f"{KEY}:lease:{'a0' if verb == 'settle' else 'a1'}"
    redis_client.delete(name)
    redis_client.rpush(name, "x")
    if verb == "settle":
        replica.ledger.settle("a0", calls=5, usd_micro=0, witness=replica.witness())
    else:
        replica.lease(5)
    assert replica.used() == replica.calls


def test_what_is_kept_of_a_lease_and_of_a_replica_ends_by_itself_and_the_lanes_own_sums_do_not(
    redis_client: redis.Redis,
) -> None:
    replica = Replica(redis_client, "a")
    replica.lease(20)
    assert 300 < redis_client.ttl(f"{KEY}:lease:a0") <= 1200  # past the bucket in which it may be spent
    assert 24 * 3600 + 600 <= redis_client.ttl(f"{KEY}:of:a") <= 2 * 24 * 3600
    assert redis_client.ttl(KEY) == -1
    replica.ledger.settle("a0", calls=5, usd_micro=0, witness=replica.witness())
    assert not redis_client.exists(f"{KEY}:lease:a0")
