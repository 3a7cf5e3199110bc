"""The budget: never exceeded, never forgotten, and spent from leases. The ledgers have a suite of their own."""

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import floats, lists

from serve.settings import BudgetSettings
from serve.teacher.budget import Budget
from serve.teacher.ledger import BUCKET_S, CallKind, Ledger, RedisLedger
from store.buffer.server import private_redis
from store.errors import StoreUnavailableError
from tests.serve.fakes import FakeLedger, eventually
from tests.serve.ledgers import LANE, NOBODY, Clock

_numbers = count()


def replica(ledger: Ledger, limits: BudgetSettings, clock: Clock | None = None) -> Budget:
    clock = clock or Clock()
    return Budget(limits, ledger, now=clock, monotonic=clock, new_id=lambda: f"lease-{next(_numbers)}")


def spend(budget: Budget, kind: CallKind = "escalation", bound_usd: float = 0.0, cost_usd: float | None = 0.0) -> bool:
    """Spend one call, if there is one."""

    async def once() -> bool:
        await budget.prepare(kind, bound_usd)
        if not budget.allows(kind, bound_usd):
            return False
        budget.settle(budget.take(kind, bound_usd), cost_usd)
        return True

    return asyncio.run(once())


def test_the_budget_survives_a_restart_of_redis(tmp_path: Path) -> None:
    limits = BudgetSettings(calls_per_day=100, audit_reserve_ratio=0.0)
    for round_number in range(2):
        with private_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
            ledger = RedisLedger(client, LANE, limits)
            assert ledger.used(NOBODY).used_calls == 60 * round_number
            ledger.lease(f"{round_number}", "escalation", calls=60, usd_micro=0, witness=NOBODY)
            assert ledger.used(NOBODY).used_calls == (60, 100)[round_number]


def test_concurrent_replicas_on_one_redis_never_exceed_the_limit(redis_url: str) -> None:
    limits = BudgetSettings(calls_per_day=200, audit_reserve_ratio=0.1)
    taken: list[int] = []

    def work(seed: int) -> None:
        rng = Random(seed)
        with redis.Redis.from_url(redis_url) as client:
            budget = replica(RedisLedger(client, LANE, limits), limits)
            taken.append(sum(spend(budget, rng.choice(("escalation", "audit"))) for _ in range(150)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 180 <= sum(taken) <= 200  # at most, a lease of each kind lies unspent with each replica
    with redis.Redis.from_url(redis_url) as client:
        assert RedisLedger(client, LANE, limits).used(NOBODY).used_calls == 200


@pytest.mark.parametrize("stops", [False, True])
def test_a_lease_that_comes_after_a_change_of_the_limits_is_given_back_to_redis_unused(
    redis_client: redis.Redis, *, stops: bool
) -> None:
    before = BudgetSettings(calls_per_day=2_000, audit_reserve_ratio=0.0)
    after = BudgetSettings(calls_per_day=0 if stops else 300, audit_reserve_ratio=0.0)
    changed = asyncio.Event()
    asked: list[int] = []

    async def late(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        found = function(*arguments, **named)
        if function.__name__ == "lease":
            asked.append(named["calls"])
            await changed.wait()
        return found

    async def main() -> None:
        clock = Clock()
        budget = Budget(
            before,
            RedisLedger(redis_client, LANE, before),
            now=clock,
            monotonic=clock,
            new_id=lambda: f"late-{next(_numbers)}",
            call=late,
        )
        asking = asyncio.create_task(budget.prepare("escalation", 0.0))
        await eventually(lambda: asked == [20])
        budget.change(after, RedisLedger(redis_client, LANE, after))
        changed.set()
        await asking
        assert len(asked) == 2  # once more, under the new limits
        assert budget.allows("escalation", 0.0) != stops
        assert RedisLedger(redis_client, LANE, after).used(NOBODY).used_calls == (0 if stops else 3)

    asyncio.run(main())


def test_closing_gives_back_to_redis_what_was_leased_and_not_spent(redis_client: redis.Redis) -> None:
    limits = BudgetSettings(calls_per_day=1000)
    ledger = RedisLedger(redis_client, LANE, limits)
    budget = replica(ledger, limits)
    assert [spend(budget) for _ in range(3)] == [True] * 3
    assert ledger.used(NOBODY).used_calls == 10  # one lease
    asyncio.run(budget.close())
    assert ledger.used(NOBODY).used_calls == 3


@given(costs=lists(floats(0.0, 0.9), max_size=60))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dollars_are_never_exceeded_in_redis_while_the_bound_is_one(
    redis_client: redis.Redis, costs: list[float]
) -> None:
    redis_client.flushall()
    limits = BudgetSettings(calls_per_day=1000, usd_per_day=10.0, audit_reserve_ratio=0.0)
    ledger = RedisLedger(redis_client, LANE, limits)
    budget = replica(ledger, limits)
    paid = sum(cost for cost in costs if spend(budget, bound_usd=0.9, cost_usd=cost))
    assert paid <= 10.0
    asyncio.run(budget.close())
    assert ledger.used(NOBODY).used_usd_micro == pytest.approx(paid * 1e6, abs=len(costs) + 1)


def test_a_lease_that_is_too_old_is_not_spent() -> None:
    clock, ledger = Clock(), FakeLedger(calls=1000)
    budget = replica(ledger, BudgetSettings(calls_per_day=1000), clock)
    assert spend(budget)
    ledger.down = True
    clock.now_s += BUCKET_S - 1
    assert spend(budget)
    clock.now_s += 1
    assert not spend(budget)
    ledger.down = False
    clock.now_s += 2
    assert spend(budget)
    asyncio.run(budget.tick())
    assert ledger.left == 1000 - 2 - 10  # the old lease came back but for what was spent, the new one is out


def test_with_the_ledger_down_a_replica_spends_what_it_had_leased_and_no_more() -> None:
    clock, ledger = Clock(), FakeLedger(calls=1000)
    budget = replica(ledger, BudgetSettings(calls_per_day=1000), clock)
    assert spend(budget)
    ledger.down = True
    assert [spend(budget) for _ in range(12)].count(True) == 9
    with pytest.raises(StoreUnavailableError):
        asyncio.run(budget.tick())
    asyncio.run(budget.close())


def test_a_call_that_was_surely_not_billed_can_be_used_again() -> None:
    ledger = FakeLedger(calls=1)
    budget = replica(ledger, BudgetSettings(calls_per_day=1, audit_reserve_ratio=0.0))
    assert spend(budget, cost_usd=None)
    assert spend(budget, cost_usd=0.0)
    assert not spend(budget)
    assert budget.binds


def test_a_call_in_flight_keeps_its_lease_from_being_given_back() -> None:
    async def main() -> None:
        ledger = FakeLedger(calls=1000)
        budget = replica(ledger, BudgetSettings(calls_per_day=1000))
        await budget.prepare("escalation", 0.0)
        flying = budget.take("escalation", 0.0)
        await budget.close()
        assert ledger.left == 990
        budget.settle(flying, 0.0)
        await budget.close()
        assert ledger.left == 999

    asyncio.run(main())


def test_a_refusal_is_asked_again_after_a_second_and_lifts_the_suspension() -> None:
    clock, ledger = Clock(), FakeLedger(calls=0)
    budget = replica(ledger, BudgetSettings(calls_per_day=1000), clock)
    assert not spend(budget)
    assert budget.binds
    ledger.left = 50
    assert not spend(budget)  # not asked yet
    clock.now_s += 1.0
    assert spend(budget)
    assert not budget.binds


def test_a_ledger_that_hangs_is_waited_for_once_and_its_lease_is_used_when_it_comes() -> None:
    async def main() -> None:
        ledger = FakeLedger(calls=1000)
        ledger.hang = threading.Event()
        budget = replica(ledger, BudgetSettings(calls_per_day=1000))
        started_s = time.monotonic()
        await budget.prepare("escalation", 0.0)
        waited_s = time.monotonic() - started_s
        assert budget.silent
        assert not budget.allows("escalation", 0.0)
        async with asyncio.timeout(0.5):
            for _ in range(5):
                await budget.prepare("escalation", 0.0)
        assert waited_s > 0.9
        ledger.hang.set()
        await eventually(lambda: budget.allows("escalation", 0.0))
        await budget.close()
        assert ledger.left == 1000

    asyncio.run(main())


def test_whoever_cannot_be_answered_without_a_lease_waits_longer_for_one() -> None:
    async def main() -> None:
        ledger = FakeLedger(calls=1000)
        ledger.hang = threading.Event()
        budget = replica(ledger, BudgetSettings(calls_per_day=1000))
        last = asyncio.create_task(budget.prepare("escalation", 0.0, patience_s=600.0))
        await budget.prepare("escalation", 0.0)
        assert not budget.allows("escalation", 0.0)
        assert not last.done()
        ledger.hang.set()
        await last
        assert budget.allows("escalation", 0.0)

    asyncio.run(main())


def test_a_ledger_that_hung_once_is_waited_for_again() -> None:
    async def main() -> None:
        clock, ledger = Clock(), FakeLedger(calls=1000)
        ledger.hang = threading.Event()
        budget = replica(ledger, BudgetSettings(calls_per_day=1000), clock)
        await budget.prepare("escalation", 0.0)
        ledger.hang.set()
        await eventually(lambda: budget.allows("escalation", 0.0))
        clock.now_s += BUCKET_S
        await budget.prepare("escalation", 0.0)
        assert budget.allows("escalation", 0.0)

    asyncio.run(main())


def test_a_stop_waits_a_moment_for_a_lease_that_was_asked_for_and_no_longer() -> None:
    async def main() -> None:
        ledger = FakeLedger(calls=1000)
        ledger.hang = threading.Event()
        budget = replica(ledger, BudgetSettings(calls_per_day=1000))
        asking = asyncio.create_task(budget.prepare("escalation", 0.0))
        await eventually(lambda: bool(budget._refills))
        closing = asyncio.create_task(budget.close())
        await asyncio.wait({closing}, timeout=8.0)
        done = closing.done()
        ledger.hang.set()
        await asking
        await closing
        assert done  # the ledger answers after 10 s

    asyncio.run(main())


def test_a_stop_gives_back_the_lease_that_comes_while_it_waits() -> None:
    async def main() -> None:
        ledger = FakeLedger(calls=1000)
        ledger.hang = threading.Event()
        budget = replica(ledger, BudgetSettings(calls_per_day=1000))
        asking = asyncio.create_task(budget.prepare("escalation", 0.0))
        await eventually(lambda: bool(budget._refills))
        closing = asyncio.create_task(budget.close())
        ledger.hang.set()
        await asyncio.gather(asking, closing)
        assert ledger.left == 1000

    asyncio.run(main())


def test_many_who_wait_for_a_lease_are_all_served_by_leases_in_turn() -> None:
    async def main() -> int:
        budget = replica(FakeLedger(calls=1000), BudgetSettings(calls_per_day=1000))

        async def once() -> bool:
            await budget.prepare("escalation", 0.0)
            if not budget.allows("escalation", 0.0):
                return False
            budget.take("escalation", 0.0)
            return True

        return sum(await asyncio.gather(*(once() for _ in range(64))))

    assert asyncio.run(main()) == 64
