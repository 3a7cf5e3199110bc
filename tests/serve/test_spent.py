"""A Redis that forgets, goes back or loses the time never makes the budget larger than it is."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis.strategies import integers, lists, sampled_from, tuples

from serve.settings import BudgetSettings
from serve.teacher.budget import Budget
from serve.teacher.ledger import BUCKET_S
from serve.teacher.spent import OwnSpending
from tests.serve.ledgers import NOON_S, Clock, ClockedRedisLedger

P = ParamSpec("P")
T = TypeVar("T")
DAY_S = 86_400.0
HOLD_S = 10.0
LIMITS = BudgetSettings(calls_per_day=60, audit_reserve_ratio=0.0)


async def at_once(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    return function(*arguments, **named)


@dataclass
class Site:
    """Replicas of one lane, with clocks of their own, before a Redis with one of its own."""

    client: redis.Redis
    folder: Path
    replicas: int = 2
    mono: Clock = field(default_factory=lambda: Clock(1_000.0))
    wall: Clock = field(default_factory=Clock)
    redis_clock: Clock = field(default_factory=Clock)
    spent: list[float] = field(default_factory=list)  # monotonic time of each call
    copy: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = count()
        self.client.flushall()
        self.budgets = [self._started(number) for number in range(self.replicas)]

    def _started(self, number: int) -> Budget:
        return Budget(
            LIMITS,
            ClockedRedisLedger(self.client, LIMITS, self.redis_clock),
            now=self.wall,
            monotonic=self.mono,
            new_id=lambda: f"id-{next(self._ids)}",
            call=at_once,
            spent_path=self.folder / f"spent-{number}.json",
        )

    def spend(self, replica: int, calls: int) -> int:
        """Spend up to so many calls, as far as the budget goes."""

        async def main() -> int:
            budget = self.budgets[replica]
            for done in range(calls):
                await budget.prepare("escalation", 0.0)
                if not budget.allows("escalation", 0.0):
                    return done
                budget.settle(budget.take("escalation", 0.0), 0.0)
                self.spent.append(self.mono())
            return calls

        return asyncio.run(main())

    def used(self) -> int:
        asyncio.run(self.budgets[0].tick())
        return self.budgets[0].used_calls

    def passes(self, seconds: float) -> None:
        """Time goes on for everybody, and every replica beats."""
        for clock in (self.mono, self.wall, self.redis_clock):
            clock.now_s += seconds
        for budget in self.budgets:
            asyncio.run(budget.tick())

    def save(self) -> None:
        self.copy = [(key, self.client.dump(key) or b"") for key in self.client.scan_iter()]

    def restore(self) -> None:
        self.client.flushall()
        for key, value in self.copy:
            self.client.restore(key, 0, value)

    def restart(self, *, clean: bool) -> None:
        for number, budget in enumerate(self.budgets):
            if clean:
                asyncio.run(budget.close())
            self.budgets[number] = self._started(number)

    def most_in_a_day(self) -> int:
        return max((sum(1 for at in self.spent if start <= at < start + DAY_S) for start in self.spent), default=0)


@pytest.fixture
def site(redis_client: redis.Redis, tmp_path: Path) -> Site:
    return Site(redis_client, tmp_path)


def test_a_redis_that_was_emptied_is_told_what_every_replica_spent(site: Site) -> None:
    assert (site.spend(0, 20), site.spend(1, 30)) == (20, 30)
    site.client.flushall()
    assert site.spend(0, 20) == 0  # held until all had time to speak
    site.passes(1.0)
    assert site.used() == 50
    site.passes(HOLD_S)
    assert site.spend(0, 20) + site.spend(1, 20) == 10
    assert site.most_in_a_day() == 60
    site.passes(DAY_S + 3 * BUCKET_S)
    assert site.spend(0, 20) == 20


def test_while_all_are_counted_anew_the_budget_is_unknown_and_does_not_bind(site: Site) -> None:
    site.spend(0, 20)
    site.client.flushall()
    assert site.spend(0, 1) == 0
    site.passes(1.0)
    for budget in site.budgets:
        assert budget.silent
        assert budget.suspended
        assert not budget.binds
    site.passes(HOLD_S)
    assert [(budget.silent, budget.suspended) for budget in site.budgets] == [(False, False)] * 2
    assert site.spend(1, 60) == 40
    assert [site.budgets[1].binds, site.budgets[1].silent] == [True, False]


def test_a_redis_that_was_restored_is_told_what_was_spent_since(site: Site) -> None:
    site.spend(0, 10)
    site.spend(1, 5)
    site.passes(3_600.0)
    site.save()
    site.spend(0, 7)
    site.spend(1, 20)
    site.passes(1.0)
    site.restore()
    assert site.spend(1, 20) == 0
    site.passes(1.0)
    assert site.used() >= 42
    site.passes(HOLD_S)
    assert site.spend(0, 60) + site.spend(1, 60) <= 18
    assert site.most_in_a_day() <= 60


def test_a_replica_that_spent_nothing_still_sees_that_redis_went_back(site: Site) -> None:
    site.passes(1.0)
    site.save()
    site.spend(0, 40)
    site.passes(1.0)
    site.restore()
    assert site.spend(1, 40) == 0


@pytest.mark.parametrize("hours", [26.0, -26.0, 720.0, -720.0])
def test_a_replicas_own_clock_changes_nothing(site: Site, hours: float) -> None:
    site.spend(0, 30)
    site.wall.now_s += hours * 3_600.0
    site.passes(1.0)
    assert site.spend(0, 60) + site.spend(1, 60) == 30
    site.restart(clean=True)
    assert site.spend(0, 1) == 0
    site.passes(DAY_S + 3 * BUCKET_S)
    assert site.spend(1, 60) == 60


@pytest.mark.parametrize("hours", [26.0, 720.0])
def test_a_clock_of_redis_that_leaps_and_comes_back_grants_no_second_budget_and_blocks_for_no_more_than_a_day(
    site: Site, hours: float
) -> None:
    site.spend(0, 25)
    site.spend(1, 25)
    site.passes(1.0)
    site.redis_clock.now_s += hours * 3_600.0
    assert site.spend(0, 60) == 0
    site.passes(1.0)
    assert site.used() == 50
    site.redis_clock.now_s -= hours * 3_600.0
    site.passes(HOLD_S + 1.0)
    assert site.spend(0, 60) + site.spend(1, 60) <= 10
    site.passes(DAY_S + 3 * BUCKET_S)
    site.passes(HOLD_S + 1.0)
    assert site.spend(0, 60) == 60


def test_many_small_leaps_of_redis_clock_free_nobody_elses_calls(site: Site) -> None:
    site.spend(1, 60)
    for _ in range(6):
        site.redis_clock.now_s += 400.0
        site.passes(60.0)
    for clock in (site.mono, site.wall, site.redis_clock):
        clock.now_s += DAY_S - 2_000.0
    assert site.spend(0, 60) == 0  # before the other, whose calls they are, has said a word
    assert site.most_in_a_day() == 60


def test_a_ledger_that_an_older_release_dated_into_the_future_counts_for_a_day_and_no_longer(site: Site) -> None:
    future = int((NOON_S + 30 * DAY_S) // BUCKET_S)
    fields = {"newest": future, "calls": 60, "usd": 0, f"c{future}": 60}
    site.client.hset("{intent}:acme:budget", mapping={name: str(value) for name, value in fields.items()})
    assert site.spend(0, 1) == 0
    site.passes(DAY_S - 3_600.0)
    assert site.spend(0, 1) == 0
    site.passes(3_600.0 + 3 * BUCKET_S)
    assert site.spend(0, 60) == 60


def test_what_was_spent_outlives_a_restart_of_everything(site: Site) -> None:
    site.spend(0, 20)
    site.spend(1, 30)
    site.client.flushall()
    site.restart(clean=False)
    site.passes(1.0)
    assert 50 <= site.used() <= 60
    site.passes(HOLD_S)
    assert site.spend(0, 60) + site.spend(1, 60) <= 10


def test_a_day_after_everything_was_lost_the_budget_is_whole(site: Site) -> None:
    site.spend(0, 60)
    site.client.flushall()
    site.restart(clean=True)
    site.passes(DAY_S + 3 * BUCKET_S)
    site.passes(HOLD_S + 1.0)
    assert site.used() == 0
    assert site.spend(1, 60) == 60


def test_days_of_ordinary_use_lose_nothing_to_the_second_count(redis_client: redis.Redis, tmp_path: Path) -> None:
    site = Site(redis_client, tmp_path, replicas=1)
    for _ in range(2):
        got = 0
        for _ in range(144):
            got += site.spend(0, 1)
            site.passes(2.0 * BUCKET_S)
        assert got == 60
    assert site.most_in_a_day() == 60


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"name": "../a", "at_s": 0, "leases": 0, "slots": []}', "\x00" * 9])
def test_a_record_that_cannot_be_read_is_left_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spent.json"
    path.write_text(text)
    own = OwnSpending(new_name=lambda: "new", now=Clock(), monotonic=Clock(), path=path)
    assert own.witness().calls == 0
    own.leased(NOON_S, 3, 0)
    own.write(own.record())
    assert OwnSpending(new_name=lambda: "other", now=Clock(), monotonic=Clock(), path=path).witness().calls == 3
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("gone_s", [-2 * DAY_S, -1.0, 0.0, 600.0])
def test_a_clock_that_was_set_back_while_the_replica_was_away_keeps_nothing_for_longer_than_a_day(
    tmp_path: Path, gone_s: float
) -> None:
    path, mono, wall = tmp_path / "spent.json", Clock(1_000.0), Clock()
    own = OwnSpending(new_name=lambda: "a", now=wall, monotonic=mono, path=path)
    own.leased(mono(), 7, 0)
    own.write(own.record())
    wall.now_s += gone_s
    mono.now_s = 50.0  # of another start of the machine
    again = OwnSpending(new_name=lambda: "b", now=wall, monotonic=mono, path=path)
    assert again.witness().calls == 7
    mono.now_s += DAY_S - max(0.0, gone_s) - 60.0
    assert again.witness().calls == 7
    mono.now_s += 600.0
    assert again.witness().calls == 0


def test_the_most_leases_that_were_ever_counted_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    own = OwnSpending(new_name=lambda: "a", now=Clock(), monotonic=Clock(), path=path)
    for leases in (5, 9, 3):  # a Redis that went back
        own.heard(leases=leases, clock_s=0.0)
    assert own.witness().leases == 9
    own.write(own.record())
    assert OwnSpending(new_name=lambda: "b", now=Clock(), monotonic=Clock(), path=path).witness().leases == 9


def test_a_disk_that_takes_nothing_stops_no_spending(redis_client: redis.Redis, tmp_path: Path) -> None:
    site = Site(redis_client, tmp_path / "is" / "not" / "there", replicas=1)
    assert site.spend(0, 5) == 5


def test_a_link_in_the_place_of_the_new_record_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / ".spent.json.new").symlink_to(target)
    own = OwnSpending(new_name=lambda: "a", now=Clock(), monotonic=Clock(), path=tmp_path / "spent.json")
    own.write(own.record())
    assert target.read_text() == "mine"


FAULTS = ("none", "flush", "save", "restore", "ahead", "behind", "slightly ahead", "restart", "kill", "kill and flush")
STEPS = lists(
    tuples(sampled_from(FAULTS), integers(0, 1), integers(0, 40), sampled_from((1, 60, 299, 1_000, 7_200, 40_000))),
    max_size=12,
)


def broken(site: Site, fault: str) -> None:
    changes: dict[str, Callable[[], Any]] = {
        "flush": site.client.flushall,
        "save": site.save,
        "restore": site.restore,
        "restart": lambda: site.restart(clean=True),
        "kill": lambda: site.restart(clean=False),
    }
    if fault in changes:
        changes[fault]()
    elif fault == "kill and flush":
        site.client.flushall()
        site.restart(clean=False)
    else:
        site.redis_clock.now_s += {"ahead": 94_000.0, "behind": -94_000.0, "slightly ahead": 400.0}.get(fault, 0.0)


@given(steps=STEPS)
@example(
    steps=[("save", 0, 40, 1), ("none", 0, 40, 1), ("restore", 1, 40, 1), ("none", 0, 40, 60), ("none", 1, 40, 60)]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_day_ever_holds_more_calls_than_the_budget_whatever_redis_forgets(
    redis_client: redis.Redis, steps: list[tuple[str, int, int, int]]
) -> None:
    with TemporaryDirectory() as folder:
        site = Site(redis_client, Path(folder))
        for fault, replica, calls, seconds in steps:
            broken(site, fault)
            site.spend(replica, calls)
            site.passes(1.0)
            site.spend(1 - replica, calls)
            site.passes(HOLD_S + 1.0)
            site.passes(float(seconds))
        assert site.most_in_a_day() <= LIMITS.calls_per_day
