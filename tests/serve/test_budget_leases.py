"""What one replica does with its leases: by hand, on a clock of its own, without threads and without Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from serve.settings import BudgetSettings
from serve.teacher.budget import Budget
from serve.teacher.ledger import BUCKET_S, CallKind, Grant
from serve.teacher.memory_ledger import MemoryLedger
from store.errors import StoreUnavailableError
from tests.serve.fakes import FakeLedger
from tests.serve.ledgers import NOBODY, Clock

CENT: Final = 10_000  # in millionths of a dollar


class Desk:
    """A replica, its clock and its ledger; a lease may take time."""

    def __init__(
        self, limits: BudgetSettings, ledger: MemoryLedger | None = None, spent_path: Path | None = None
    ) -> None:
        self.clock = Clock()
        self.ledger = ledger or MemoryLedger(limits, now=self.clock)
        self.lease_takes_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None  # while a lease is asked for
        self.calls: list[str] = []
        numbers = count()
        self.budget = Budget(
            limits,
            self.ledger,
            now=self.clock,
            monotonic=self.clock,
            new_id=lambda: f"lease-{next(numbers)}",
            call=self._call,
            spent_path=spent_path,
        )

    async def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.calls.append(function.__name__)
        found = function(*arguments, **named)
        if function.__name__ == "lease":
            self.clock.now_s += self.lease_takes_s
            self.meanwhile()
        return found

    def ask(self, kind: CallKind = "escalation", usd: float = 0.0) -> bool:
        """Whether a call may be taken, after a lease was asked for."""
        run(self.budget.prepare(kind, usd))
        return self.budget.allows(kind, usd)

    def spend(self, kind: CallKind = "escalation", usd: float = 0.0, cost_usd: float | None = 0.0) -> bool:
        if not self.ask(kind, usd):
            return False
        self.budget.settle(self.budget.take(kind, usd), cost_usd)
        return True

    def used(self) -> tuple[int, int]:
        """Calls and micro-dollars that the ledger counts."""
        grant = self.ledger.used(NOBODY)
        return grant.used_calls, grant.used_usd_micro


def run(work: Awaitable[Any]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


def calls_only(calls: int, reserve: float = 0.0) -> BudgetSettings:
    return BudgetSettings(calls_per_day=calls, audit_reserve_ratio=reserve)


def with_dollars(usd: float, calls: int = 1000) -> BudgetSettings:
    return BudgetSettings(calls_per_day=calls, usd_per_day=usd, audit_reserve_ratio=0.0)


def test_a_lease_is_as_old_as_its_asking_however_late_the_answer_came() -> None:
    desk = Desk(calls_only(1000))
    desk.lease_takes_s = BUCKET_S - 1.0
    assert desk.ask()
    desk.clock.now_s += 0.5
    assert desk.budget.allows("escalation", 0.0)
    desk.clock.now_s += 0.5
    assert not desk.budget.allows("escalation", 0.0)


def test_a_beat_gives_back_what_is_too_old_to_use_and_nothing_else() -> None:
    desk = Desk(calls_only(1000))
    desk.spend()
    desk.ask("audit")
    assert desk.used() == (20, 0)
    desk.clock.now_s += BUCKET_S - 1
    run(desk.budget.tick())
    assert desk.used() == (20, 0)
    desk.clock.now_s += 1
    run(desk.budget.tick())
    assert desk.used() == (1, 0)
    assert desk.budget.used_calls == 1
    assert not desk.budget.allows("audit", 0.0)


def test_an_old_lease_that_a_new_one_replaces_is_given_back() -> None:
    desk = Desk(calls_only(1000))
    desk.spend()
    desk.clock.now_s += BUCKET_S
    desk.spend()
    assert desk.used() == (20, 0)
    run(desk.budget.tick())
    assert desk.used() == (1 + 10, 0)


def test_a_refused_audit_binds_nobody_and_a_refused_escalation_does() -> None:
    desk = Desk(calls_only(10), FakeLedger(calls=0))
    assert not desk.ask("audit")
    assert (desk.budget.binds, desk.budget.suspended) == (False, False)
    assert (desk.budget.exhausted("audit"), desk.budget.exhausted("escalation")) == (True, False)
    assert not desk.ask("escalation")
    assert (desk.budget.binds, desk.budget.suspended, desk.budget.silent) == (True, True, False)


def test_an_audit_that_is_granted_lifts_no_suspension() -> None:
    desk = Desk(calls_only(100, reserve=0.2))
    while desk.spend():
        pass
    assert desk.budget.binds
    assert desk.ask("audit")
    assert desk.budget.binds


@pytest.mark.parametrize(("others", "binds"), [(81, True), (80, True), (79, False)])
def test_a_budget_binds_until_the_ledger_has_calls_for_escalations_again(others: int, *, binds: bool) -> None:
    """20 of 100 are kept for audits: with 80 in use there is nothing for an escalation."""
    desk = Desk(calls_only(100, reserve=0.2))
    desk.ledger.lease("another's", "escalation", calls=100, usd_micro=0, witness=NOBODY)
    assert not desk.ask()
    desk.ledger.settle("another's", calls=80, usd_micro=0, witness=NOBODY)
    desk.ledger.lease("an auditor's", "audit", calls=others, usd_micro=0, witness=NOBODY)
    run(desk.budget.tick())
    assert desk.budget.used_calls == others
    assert desk.budget.binds == binds


def test_where_dollars_bind_only_a_lease_shows_that_there_are_some_again() -> None:
    desk = Desk(with_dollars(1.0))
    desk.ledger.lease("another's", "escalation", calls=1, usd_micro=100 * CENT, witness=NOBODY)
    assert not desk.ask(usd=0.01)
    run(desk.budget.tick())
    assert desk.budget.binds  # a thousand calls are left, and not a cent
    desk.ledger.settle("another's", calls=0, usd_micro=50 * CENT, witness=NOBODY)
    run(desk.budget.tick())
    assert desk.budget.binds
    desk.clock.now_s += 1.0
    assert desk.ask(usd=0.01)
    assert not desk.budget.binds


@pytest.mark.parametrize("kind", ["escalation", "audit"])
def test_a_refusal_is_asked_again_after_a_second_and_no_sooner(kind: CallKind) -> None:
    desk = Desk(calls_only(100), FakeLedger(calls=0))
    assert not desk.ask(kind)
    desk.clock.now_s += 0.999
    assert desk.budget.exhausted(kind)
    assert not desk.ask(kind)
    assert desk.calls.count("lease") == 1
    desk.clock.now_s += 0.001
    assert not desk.budget.exhausted(kind)
    assert not desk.ask(kind)
    assert desk.calls.count("lease") == 2


def test_a_refused_lease_is_given_back_at_the_next_beat() -> None:
    desk = Desk(with_dollars(1.0))
    desk.ledger.lease("another's", "escalation", calls=1, usd_micro=98 * CENT, witness=NOBODY)
    assert not desk.ask(usd=0.03)  # two cents are granted, and a call may cost three
    assert desk.budget.binds
    assert desk.used() == (1 + 10, 100 * CENT)
    assert desk.calls.count("lease") == 1
    run(desk.budget.tick())
    assert desk.used() == (1, 98 * CENT)


@pytest.mark.parametrize(
    ("per_day", "leased"), [(0, 0), (1, 1), (50, 1), (199, 1), (200, 2), (1900, 19), (2000, 20), (5000, 20)]
)
def test_a_lease_is_a_hundredth_of_the_day_from_one_call_to_twenty(per_day: int, leased: int) -> None:
    desk = Desk(calls_only(per_day))
    assert desk.ask() == (leased > 0)
    assert desk.used() == (leased, 0)


def test_a_lease_is_for_so_many_dollars_as_its_calls_can_cost() -> None:
    desk = Desk(with_dollars(5.0))
    assert desk.ask(usd=0.03)
    assert desk.used() == (10, 30 * CENT)
    assert not desk.budget.allows("escalation", 0.300001)
    assert desk.budget.allows("escalation", 0.3)
    taken = [desk.budget.take("escalation", 0.03) for _ in range(9)]
    assert desk.budget.allows("escalation", 0.03)
    assert not desk.budget.allows("escalation", 0.030001)
    desk.budget.settle(taken[0], 0.01)
    assert desk.budget.allows("escalation", 0.05)
    assert not desk.budget.allows("escalation", 0.050001)
    desk.budget.settle(taken[1], None)
    assert desk.budget.allows("escalation", 0.08)
    assert not desk.budget.allows("escalation", 0.080001)


def test_what_comes_back_is_what_was_not_spent_to_the_millionth() -> None:
    desk = Desk(with_dollars(5.0))
    for cost in (0.01, 0.0000001, None, 0.05):  # rounded up; not billed; more than its bound
        assert desk.spend(usd=0.03, cost_usd=cost)
    run(desk.budget.close())
    assert desk.used() == (3, CENT + 1 + 5 * CENT)
    assert desk.budget._closing == []  # nothing is given back twice


def test_dollars_are_not_counted_where_they_are_not_limited() -> None:
    desk = Desk(calls_only(1000))
    assert desk.spend(usd=1e6, cost_usd=1e6)
    assert desk.budget.allows("escalation", 1e9)
    run(desk.budget.close())
    assert desk.used() == (1, 0)


def test_a_lease_of_the_other_kind_is_not_spent() -> None:
    desk = Desk(calls_only(1000))
    assert desk.ask("audit")
    assert not desk.budget.allows("escalation", 0.0)
    assert desk.ledger._audits.total("calls") == 10


@pytest.mark.parametrize("kind", ["escalation", "audit"])
def test_a_call_says_of_which_kind_its_lease_is(kind: CallKind) -> None:
    desk = Desk(calls_only(1000))
    assert desk.ask(kind)
    assert desk.budget.take(kind, 0.0).lease.kind == kind  # by it what was paid is counted as an audit


def test_a_call_in_flight_keeps_its_lease_and_no_other() -> None:
    desk = Desk(calls_only(1000))
    desk.ask("audit")
    desk.ask("escalation")
    flying = [desk.budget.take("escalation", 0.0) for _ in range(2)]
    desk.budget.settle(flying[0], 0.0)
    run(desk.budget.close())
    assert desk.used() == (10, 0)  # the audits' lease is home
    desk.budget.settle(flying[1], None)
    run(desk.budget.close())
    assert desk.used() == (1, 0)


def test_what_is_leased_is_on_disk_before_any_of_it_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    desk = Desk(calls_only(1000), spent_path=path)

    def on_disk() -> int:
        return sum(calls for _, calls, _ in msgspec.json.decode(path.read_bytes())["slots"])

    desk.ask()
    assert on_disk() == 10
    desk.spend()
    assert on_disk() == 10
    run(desk.budget.close())
    assert on_disk() == 1
    desk.clock.now_s += 1.0
    desk.ask("audit")
    assert on_disk() == 11


def test_nothing_is_written_for_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    desk = Desk(calls_only(10), FakeLedger(calls=0), spent_path=path)
    assert not desk.ask()
    assert desk.calls == ["lease"]
    assert not path.exists()


def test_a_ledger_that_is_down_when_a_lease_goes_home_gets_it_at_the_next_beat_and_once(tmp_path: Path) -> None:
    ledger = FakeLedger(calls=1000)
    desk = Desk(calls_only(1000), ledger, spent_path=tmp_path / "spent.json")
    desk.spend()
    desk.clock.now_s += BUCKET_S
    for _ in range(2):
        ledger.down = True
        with pytest.raises(StoreUnavailableError):
            run(desk.budget.tick())
        assert desk.budget._own.witness().calls == 1  # what it left unspent counts no longer as its own
    ledger.down = False
    run(desk.budget.tick())
    run(desk.budget.tick())
    assert ledger.left == 999 - 10  # the beat leased anew to see whether escalations are possible
    assert desk.budget._own.witness().calls == 1 + 10


def test_the_other_limits_hold_from_the_next_call_on() -> None:
    desk = Desk(calls_only(1000))
    desk.spend()
    wider = calls_only(2000)
    desk.budget.change(wider, desk.ledger)
    assert not desk.budget.allows("escalation", 0.0)
    assert desk.budget.settings == wider
    run(desk.budget.tick())
    assert desk.used() == (1, 0)
    assert desk.ask()
    assert desk.used() == (21, 0)


def test_a_refusal_under_the_old_limits_says_nothing_of_the_new_ones() -> None:
    desk = Desk(calls_only(10), FakeLedger(calls=0))
    assert not desk.ask()
    before = (desk.budget.binds, desk.budget.exhausted("escalation"))
    desk.budget.change(calls_only(1000), MemoryLedger(calls_only(1000), now=desk.clock))
    after = (desk.budget.binds, desk.budget.exhausted("escalation"))
    assert (before, after) == ((True, True), (False, False))
    assert desk.ask()


def test_before_anything_was_asked_nothing_is_suspended() -> None:
    budget = Desk(calls_only(1000)).budget
    assert (budget.binds, budget.silent, budget.suspended) == (False, False, False)


def test_a_lease_that_was_asked_for_before_a_second_change_is_given_back_unused() -> None:
    desk = Desk(calls_only(1000))
    desk.budget.change(calls_only(1500), desk.ledger)

    def change_again() -> None:
        desk.meanwhile = lambda: None
        desk.budget.change(calls_only(300), desk.ledger)

    desk.meanwhile = change_again
    assert desk.ask()
    assert desk.calls.count("lease") == 2
    assert desk.used() == (3, 0)


def test_a_beat_that_is_answered_again_ends_the_silence_where_a_lease_is_left() -> None:
    ledger = FakeLedger(calls=1000)
    desk = Desk(calls_only(1000), ledger)
    assert desk.spend()
    ledger.down = True
    with pytest.raises(StoreUnavailableError):
        run(desk.budget.tick())
    ledger.down = False
    run(desk.budget.tick())
    assert not desk.budget.silent
    assert desk.calls.count("lease") == 1


def test_a_ledger_that_does_not_answer_leaves_the_lease_and_then_suspends() -> None:
    ledger = FakeLedger(calls=1000)
    desk = Desk(calls_only(200), ledger)
    assert desk.spend()  # the first of two
    ledger.down = True
    with pytest.raises(StoreUnavailableError):
        run(desk.budget.tick())
    assert (desk.budget.silent, desk.budget.suspended, desk.budget.binds) == (True, False, False)
    assert desk.spend()
    assert (desk.budget.silent, desk.budget.suspended) == (True, True)
    assert not desk.spend()
    assert desk.budget.exhausted("escalation")
    desk.clock.now_s += 1.0
    ledger.down = False
    run(desk.budget.tick())  # a lease is the proof
    assert (desk.budget.silent, desk.budget.suspended) == (False, False)
    assert desk.budget.allows("escalation", 0.0)


def test_the_lease_that_proves_it_takes_no_dollars_and_none_is_asked_for_where_one_is_left() -> None:
    for spent, used in ((False, (10, 0)), (True, (10, 30 * CENT))):
        ledger = FakeLedger(calls=1000)
        desk = Desk(with_dollars(5.0), ledger)
        if spent:
            assert desk.spend(usd=0.03)
        ledger.down = True
        with pytest.raises(StoreUnavailableError):
            run(desk.budget.tick())
        ledger.down = False
        run(desk.budget.tick())
        assert (desk.budget.silent, desk.used()) == (False, used)


def test_a_lease_under_limits_that_have_changed_waits_for_the_next_beat_where_nobody_takes_it() -> None:
    ledger = FakeLedger(calls=1000)
    desk = Desk(calls_only(1000), ledger)

    def change_and_go() -> None:
        desk.meanwhile = lambda: None
        ledger.down = True
        desk.budget.change(calls_only(300), ledger)

    desk.meanwhile = change_and_go
    assert not desk.ask()
    ledger.down = False
    run(desk.budget.tick())
    assert ledger.left == 1000


def test_a_beat_asks_for_no_lease_while_all_is_well() -> None:
    desk = Desk(calls_only(1000))
    run(desk.budget.tick())
    assert desk.calls == ["used"]
    desk.spend()
    run(desk.budget.tick())
    assert desk.calls.count("lease") == 1


def test_a_ledger_that_counts_anew_neither_grants_nor_binds() -> None:
    ledger = FakeLedger(calls=1000)
    desk = Desk(calls_only(1000), ledger)
    ledger.held = True
    assert not desk.ask()
    assert (desk.budget.binds, desk.budget.silent, desk.budget.suspended) == (False, True, True)
    ledger.held = False
    desk.clock.now_s += 1.0
    run(desk.budget.tick())
    assert (desk.budget.binds, desk.budget.silent, desk.budget.suspended) == (False, False, False)


def test_what_all_replicas_have_used_is_read_with_every_answer() -> None:
    desk = Desk(with_dollars(5.0))
    desk.ledger.lease("another's", "escalation", calls=7, usd_micro=70 * CENT, witness=NOBODY)
    assert (desk.budget.used_calls, desk.budget.used_usd_micro) == (0, 0)
    run(desk.budget.tick())
    assert (desk.budget.used_calls, desk.budget.used_usd_micro) == (7, 70 * CENT)
    desk.ask(usd=0.01)
    assert (desk.budget.used_calls, desk.budget.used_usd_micro) == (17, 80 * CENT)


def test_the_witness_is_heard_with_every_word_to_the_ledger() -> None:
    heard: list[int] = []

    class Listening(MemoryLedger):
        def lease(self, lease_id: str, kind: CallKind, *, calls: int, usd_micro: int, witness: Any) -> Grant:
            heard.append(witness.calls)
            return super().lease(lease_id, kind, calls=calls, usd_micro=usd_micro, witness=witness)

        def settle(self, lease_id: str, *, calls: int, usd_micro: int, witness: Any) -> Grant:
            heard.append(witness.calls)
            return super().settle(lease_id, calls=calls, usd_micro=usd_micro, witness=witness)

        def used(self, witness: Any) -> Grant:
            heard.append(witness.calls)
            return super().used(witness)

    limits = calls_only(1000)
    clock = Clock()
    desk = Desk(limits, Listening(limits, now=clock))
    run(desk.budget.tick())
    desk.spend()
    run(desk.budget.tick())
    desk.clock.now_s += BUCKET_S
    run(desk.budget.tick())
    assert heard == [0, 0, 10, 1, 1]  # a beat, a lease, a beat; a lease that goes home, and its beat
    assert desk.budget._own.witness().leases == 1
    assert desk.budget._own.witness().clock_s == clock()
