"""One suite for every ledger: the one in memory counts as the one in Redis does."""

from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans, floats, integers, lists, none, one_of, sampled_from, tuples

from serve.settings import BudgetSettings
from serve.teacher.ledger import BUCKET_S, BUCKETS_KEPT, CallKind
from serve.teacher.memory_ledger import MemoryLedger
from tests.serve.ledgers import NOON_S, Clock, Timed

DAY_S = 24 * 3600
Make = Callable[[BudgetSettings], Timed]
small = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def make_redis(redis_client: redis.Redis) -> Make:
    """A new, unspent ledger in Redis on each call."""

    def make(limits: BudgetSettings) -> Timed:
        redis_client.flushall()
        return Timed.in_redis(redis_client, limits)

    return make


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """A new, unspent ledger of each kind on each call."""
    if request.param == "memory":
        return Timed.in_memory
    made: Make = request.getfixturevalue("make_redis")
    return made


def test_escalations_leave_the_reserve_to_audits(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=100, audit_reserve_ratio=0.2))
    assert ledger.lease("a", "escalation", calls=1000, usd_micro=0, now_s=NOON_S).calls == 80
    assert ledger.lease("b", "escalation", calls=1, usd_micro=0, now_s=NOON_S).calls == 0
    assert ledger.lease("c", "audit", calls=1000, usd_micro=0, now_s=NOON_S).calls == 20
    assert ledger.used(NOON_S).used_calls == 100


def test_a_lease_is_granted_once_and_settled_once_however_often_it_is_sent(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=100))
    first = ledger.lease("a", "escalation", calls=10, usd_micro=0, now_s=NOON_S)
    assert ledger.lease("a", "escalation", calls=10, usd_micro=0, now_s=NOON_S) == first
    assert first.used_calls == 10
    ledger.lease("b", "audit", calls=5, usd_micro=0, now_s=NOON_S)
    again = ledger.lease("a", "escalation", calls=10, usd_micro=0, now_s=NOON_S)
    assert (again.calls, again.used_calls) == (10, 15)  # the grant is of then, what is used is of now
    for _ in range(2):
        ledger.settle("a", calls=4, usd_micro=0, now_s=NOON_S)
    assert ledger.used(NOON_S).used_calls == 11
    ledger.settle("nobody's", calls=4, usd_micro=0, now_s=NOON_S)
    assert ledger.used(NOON_S).used_calls == 11


def test_a_lease_that_nobody_settles_stays_spent_for_a_day_and_no_longer(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=20, audit_reserve_ratio=0.0))
    ledger.lease("dead", "escalation", calls=20, usd_micro=0, now_s=NOON_S)
    assert ledger.lease("b", "escalation", calls=1, usd_micro=0, now_s=NOON_S + DAY_S).calls == 0
    assert ledger.lease("c", "escalation", calls=1, usd_micro=0, now_s=NOON_S + DAY_S + 2 * BUCKET_S).calls == 1


def test_a_clock_that_is_set_back_a_little_spends_in_the_newest_bucket(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=20, audit_reserve_ratio=0.0))
    ledger.lease("a", "escalation", calls=1, usd_micro=0, now_s=NOON_S)
    ledger.lease("b", "escalation", calls=19, usd_micro=0, now_s=NOON_S - BUCKET_S)
    assert ledger.used(NOON_S + DAY_S - 3600).used_calls == 20
    assert ledger.used(NOON_S + DAY_S + BUCKET_S).used_calls == 20
    assert ledger.used(NOON_S + DAY_S + 2 * BUCKET_S).used_calls == 0


def test_a_lease_that_is_settled_after_it_was_forgotten_gives_nothing_back(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=20, audit_reserve_ratio=0.0))
    ledger.lease("old", "escalation", calls=20, usd_micro=0, now_s=NOON_S)
    later_s = NOON_S + BUCKETS_KEPT * BUCKET_S
    assert ledger.lease("new", "escalation", calls=20, usd_micro=0, now_s=later_s).calls == 20
    ledger.settle("old", calls=20, usd_micro=0, now_s=later_s)
    assert ledger.used(later_s).used_calls == 20


def test_without_a_limit_in_dollars_what_is_asked_for_is_granted_and_counted(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=100))
    grant = ledger.lease("a", "escalation", calls=3, usd_micro=7_000_000, now_s=NOON_S)
    assert (grant.calls, grant.usd_micro, grant.used_usd_micro) == (3, 7_000_000, 7_000_000)


def test_no_calls_are_granted_where_no_dollars_are_left_and_the_other_way_round(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=10, usd_per_day=1.0, audit_reserve_ratio=0.0))
    ledger.lease("a", "escalation", calls=1, usd_micro=1_000_000, now_s=NOON_S)
    poor = ledger.lease("b", "escalation", calls=1, usd_micro=1, now_s=NOON_S)
    assert (poor.calls, poor.usd_micro, poor.used_calls) == (0, 0, 1)
    ledger.settle("a", calls=0, usd_micro=500_000, now_s=NOON_S)
    ledger.lease("c", "escalation", calls=9, usd_micro=1, now_s=NOON_S)
    busy = ledger.lease("d", "escalation", calls=1, usd_micro=1, now_s=NOON_S)
    assert (busy.calls, busy.usd_micro, busy.used_usd_micro) == (0, 0, 500_001)


def test_a_call_that_cost_more_than_was_leased_counts_in_full(make: Make) -> None:
    ledger = make(BudgetSettings(calls_per_day=10, usd_per_day=1.0, audit_reserve_ratio=0.0))
    ledger.lease("a", "escalation", calls=1, usd_micro=600_000, now_s=NOON_S)
    ledger.settle("a", calls=0, usd_micro=-300_000, now_s=NOON_S)
    assert ledger.used(NOON_S).used_usd_micro == 900_000
    assert ledger.lease("b", "escalation", calls=1, usd_micro=600_000, now_s=NOON_S).usd_micro == 100_000


STEPS = lists(
    tuples(
        sampled_from(("escalation", "audit")),
        integers(0, 40),  # calls asked
        integers(-1, 300),  # buckets that pass (-1: a clock behind)
        booleans(),  # settle the last lease
        integers(0, 40),  # calls unspent
    ),
    max_size=25,
)


@given(steps=STEPS, limit=integers(1, 80), reserve=floats(0.0, 0.5))
@small
def test_the_running_sums_are_those_of_a_naive_ledger(
    make: Make, steps: list[tuple[CallKind, int, int, bool, int]], limit: int, reserve: float
) -> None:
    ledger = make(BudgetSettings(calls_per_day=limit, audit_reserve_ratio=reserve))
    bucket, newest = int(NOON_S // BUCKET_S), int(NOON_S // BUCKET_S)
    leases: list[tuple[int, CallKind, int]] = []  # bucket, kind, calls
    for number, (kind, asked, passed, settles, unspent) in enumerate(steps):
        bucket = max(bucket + passed, newest - 1)
        newest = max(newest, bucket)
        counted = [lease for lease in leases if lease[0] > newest - 290]
        used = sum(calls for _, _, calls in counted)
        audits = sum(calls for _, of, calls in counted if of == "audit")
        held = max(0, int(limit * reserve) - audits) if kind == "escalation" else 0
        expected = max(0, min(asked, limit - used - held))
        grant = ledger.lease(f"{number}", kind, calls=asked, usd_micro=0, now_s=bucket * BUCKET_S + 1)
        assert grant.calls == expected
        assert grant.used_calls == used + expected <= limit
        back = min(unspent, expected) if settles else 0
        if settles:
            ledger.settle(f"{number}", calls=back, usd_micro=0, now_s=bucket * BUCKET_S + 2)
        leases.append((newest, kind, expected - back))


MOVES = lists(
    tuples(
        sampled_from(("lease", "settle", "used")),
        integers(0, 6),  # which lease
        sampled_from(("escalation", "audit")),
        integers(-3, 30),  # calls
        integers(-400_000, 900_000),  # millionths of a dollar
        integers(-1, 300),  # buckets that pass
    ),
    max_size=30,
)


@given(moves=MOVES, calls=integers(0, 60), usd=one_of(none(), floats(0.0, 3.0)), reserve=floats(0.0, 1.0))
@small
def test_the_ledger_in_memory_answers_as_the_one_in_redis(
    make_redis: Make,
    moves: list[tuple[str, int, CallKind, int, int, int]],
    calls: int,
    usd: float | None,
    reserve: float,
) -> None:
    limits = BudgetSettings(calls_per_day=calls, usd_per_day=usd, audit_reserve_ratio=reserve)
    both = (make_redis(limits), Timed.in_memory(limits))
    now_s = newest_s = NOON_S
    for verb, number, kind, some, micro, passed in moves:
        now_s = max(now_s + passed * BUCKET_S, newest_s - BUCKET_S)
        newest_s = max(now_s, newest_s)
        if verb == "lease":
            asked = {"calls": max(0, some), "usd_micro": max(0, micro)}
            real, ours = (ledger.lease(f"{number}", kind, **asked, now_s=now_s) for ledger in both)
            assert ours == real
        elif verb == "settle":
            for ledger in both:
                ledger.settle(f"{number}", calls=some, usd_micro=micro, now_s=now_s)
        real, ours = (ledger.used(now_s) for ledger in both)
        assert ours == real


def test_a_wider_window_forgets_nothing_of_a_whole_log() -> None:
    limits = BudgetSettings(calls_per_day=20, audit_reserve_ratio=0.0)
    clock = Clock()
    ledger = Timed(MemoryLedger(limits, now=clock, buckets_kept=30 * 24 * 12 + 2), clock)
    ledger.lease("first", "escalation", calls=20, usd_micro=0, now_s=NOON_S)
    assert ledger.lease("last", "escalation", calls=1, usd_micro=0, now_s=NOON_S + 30 * DAY_S).calls == 0
