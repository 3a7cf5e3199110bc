"""What is sent to `budget.lua` and read from it, by the words of its head: no Redis is needed for that."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from structlog.testing import capture_logs

from serve.settings import BudgetSettings
from serve.teacher.ledger import Grant, RedisLedger
from serve.teacher.spent import Witness
from store.errors import StoreUnavailableError
from store.event import Lane

LIMITS = BudgetSettings(calls_per_day=1000, usd_per_day=2.5, audit_reserve_ratio=0.25)
WITNESS = Witness(name="me", calls=7, usd_micro=70, leases=3, clock_s=1234.9)
DAY_AND_TWO_BUCKETS = 290


class Client:
    """A Redis that notes what a script was called with."""

    def __init__(self) -> None:
        self.script = ""
        self.keys: list[str] = []
        self.args: list[Any] = []
        self.answers: list[int] = [1, 2, 3, 4, 5, 6, 7, 0]
        self.down = False
        self.refusals: list[str] = []  # what it ends with, one call after the other
        self.deleted: list[str] = []

    def register_script(self, script: str) -> Callable[..., list[int]]:
        self.script = script
        return self._run

    def _run(self, *, keys: list[str], args: list[Any]) -> list[int]:
        if self.down:
            message = "gone"
            raise redis.ConnectionError(message)
        self.keys, self.args = keys, args
        if self.refusals:
            raise redis.ResponseError(self.refusals.pop(0))
        return self.answers

    def scan_iter(self, *, match: str, count: int) -> list[str]:
        return [match.replace("*", "lease:l1"), match.replace("*", "of:me")]

    def delete(self, *names: str) -> None:
        self.deleted += names


def ledger(client: Client, limits: BudgetSettings = LIMITS) -> RedisLedger:
    return RedisLedger(cast("redis.Redis", client), Lane("acme", "support"), limits)


def test_each_word_names_the_lanes_hash_the_lease_and_the_replica() -> None:
    client = Client()
    asked = ledger(client)
    assert "verb ('lease', 'settle' or 'used')" in client.script
    asked.lease("l1", "audit", calls=1, usd_micro=1, witness=WITNESS)
    lane = "{support}:acme:budget"  # one hash slot a use case
    assert client.keys == [lane, f"{lane}:lease:l1", f"{lane}:of:me"]
    asked.settle("l2", calls=1, usd_micro=1, witness=WITNESS)
    assert client.keys == [lane, f"{lane}:lease:l2", f"{lane}:of:me"]
    asked.used(WITNESS)
    assert (client.keys[0], client.keys[2]) == (lane, f"{lane}:of:me")


def test_a_lease_is_asked_for_with_the_limits_and_the_audits_reserve() -> None:
    client = Client()
    ledger(client).lease("l", "escalation", calls=20, usd_micro=600, witness=WITNESS)
    known = ["lease", 300, DAY_AND_TWO_BUCKETS, 7, 70, 3, 1234]
    assert client.args == [*known, "escalation", 20, 600, 1000, 2_500_000, 250, 625_000, 1200]


def test_where_dollars_are_not_limited_the_limit_is_below_zero_and_nothing_is_reserved_of_them() -> None:
    client = Client()
    ledger(client, BudgetSettings(calls_per_day=100, audit_reserve_ratio=0.1)).lease(
        "l", "audit", calls=1, usd_micro=0, witness=Witness(name="new")
    )
    assert client.args == ["lease", 300, DAY_AND_TWO_BUCKETS, 0, 0, 0, -1, "audit", 1, 0, 100, -1, 10, 0, 1200]


def test_what_is_given_back_and_what_is_asked_is_said_with_what_the_replica_knows() -> None:
    client = Client()
    asked = ledger(client)
    asked.settle("l", calls=4, usd_micro=-9, witness=WITNESS)
    assert client.args == ["settle", 300, DAY_AND_TWO_BUCKETS, 7, 70, 3, 1234, 4, -9]
    asked.used(WITNESS)
    assert client.args == ["used", 300, DAY_AND_TWO_BUCKETS, 7, 70, 3, 1234]


@pytest.mark.parametrize("held", [0, 1])
def test_the_answer_is_read_in_the_order_that_the_script_gives_it(held: int) -> None:
    client = Client()
    client.answers[-1] = held
    asked = ledger(client)
    expected = Grant(
        calls=1, usd_micro=2, used_calls=3, used_usd_micro=4, leases=5, recounted=6, now_s=7, held=bool(held)
    )
    assert asked.lease("l", "audit", calls=1, usd_micro=1, witness=WITNESS) == expected
    assert asked.settle("l", calls=1, usd_micro=1, witness=WITNESS) == expected
    assert asked.used(WITNESS) == expected


def test_a_ledger_that_does_not_answer_is_named_for_what_the_caller_can_do() -> None:
    client = Client()
    asked = ledger(client)
    client.down = True
    with pytest.raises(StoreUnavailableError, match="gone"):
        asked.used(WITNESS)


@pytest.mark.parametrize(
    "why", ["DAMAGED {support}:acme:budget is of type string", "ERR hash value is not an integer script: 1"]
)
def test_a_damaged_ledger_is_begun_anew_as_a_whole_and_asked_the_same_again(why: str) -> None:
    client = Client()
    client.refusals = [why]
    asked = ledger(client)
    with capture_logs() as lines:
        grant = asked.lease("l", "audit", calls=3, usd_micro=9, witness=WITNESS)
    lane = "{support}:acme:budget"
    assert client.deleted == [lane, f"{lane}:lease:l1", f"{lane}:of:me"]
    assert (client.keys, client.args[7:10]) == ([lane, f"{lane}:lease:l", f"{lane}:of:me"], ["audit", 3, 9])
    assert grant.calls == 1
    assert [line["why"] for line in lines] == [why]


def test_a_ledger_that_is_damaged_again_or_refuses_for_another_reason_is_left_as_it_is() -> None:
    client = Client()
    asked = ledger(client)
    client.refusals = ["OOM command not allowed when used memory > 'maxmemory'."]
    with pytest.raises(StoreUnavailableError, match="OOM"):
        asked.used(WITNESS)
    assert client.deleted == []
    client.refusals = ["DAMAGED", "DAMAGED"]
    with pytest.raises(StoreUnavailableError, match="DAMAGED"):
        asked.used(WITNESS)
    assert len(client.deleted) == 3
