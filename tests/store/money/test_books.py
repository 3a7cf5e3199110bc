"""The books: what was done is written once, by day and for good, and what it comes to in dollars."""

from contextlib import suppress
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from ops.money.shown import money_fields
from store.errors import StoreUnavailableError
from store.event import Lane
from store.money.books import Book, Books
from store.money.deeds import Deeds, nano, verdict_of
from store.money.reckon import PERIODS, LaneMoney, Prices, reckon, total
from store.money.tally import DeedBatch, Tally

LANE = Lane("acme", "support")
DAY_S = 86_400
PRICED = Prices(usd_per_call_base=0.001, usd_per_char=0.00001)


class Flaky:
    """Books that take a batch and then say, so many times, that they did not answer."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.silent = 0
        self.away = False

    def write(self, lane: Lane, batch: DeedBatch) -> None:
        if not self.away:
            self.books.write(lane, batch)
        if self.away or self.silent > 0:
            self.silent -= 1
            message = "timed out"
            raise StoreUnavailableError(message)


def tally(path: Path | None = None, name: str = "w") -> Tally:
    return Tally(lambda: name, path)


def flush(one: Tally, books: Flaky) -> None:
    with suppress(StoreUnavailableError):
        one.flush(books.write, LANE)


def test_a_batch_that_may_have_arrived_is_sent_again_and_counts_once(redis_client: redis.Redis) -> None:
    books = Books(redis_client)
    flaky, one = Flaky(books), tally()
    one.add(Deeds(student=2, calls=1, calls_nano_usd=nano(0.002)))
    flaky.silent = 3
    for _ in range(5):
        flush(one, flaky)
        one.add(Deeds(student=1))
    flush(one, flaky)
    assert books.read(LANE).ever == Deeds(student=7, calls=1, calls_nano_usd=2_000_000)
    assert not one.pending


def test_replicas_add_up_and_a_lane_has_books_of_its_own(redis_client: redis.Redis) -> None:
    books = Books(redis_client)
    for name, count in (("one", 3), ("two", 4)):
        one = tally(name=name)
        one.add(Deeds(teacher=count))
        one.flush(books.write, LANE)
    found = books.read(LANE)
    assert (found.ever.teacher, found.today.teacher, found.month.teacher) == (7, 7, 7)
    assert books.read(Lane("other", "support")).ever == Deeds()
    assert books.read(Lane("other", "support")).since_s is None
    assert found.since_s is not None
    assert 0 <= found.now_s - found.since_s <= 60


def test_what_the_books_did_not_take_outlives_a_restart_and_is_written_once(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    books, path = Books(redis_client), tmp_path / "tally.json"
    flaky, one = Flaky(books), tally(path)
    one.add(Deeds(student=5))
    flaky.silent = 1  # it arrives, and nobody says so
    flush(one, flaky)
    one.add(Deeds(student=2))
    flaky.away = True
    flush(one, flaky)
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_bytes()
    for _ in range(2):  # killed after it was written and before the file was gone
        path.write_bytes(kept)
        later = tally(path, name="another")
        later.flush(books.write, LANE)
        assert books.read(LANE).ever == Deeds(student=7)
        assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"sent": 1}', b"\xff"])
def test_a_damaged_file_of_what_waits_stops_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tally.json"
    path.write_bytes(content)
    assert not tally(path).pending


def test_days_and_months_are_told_apart_and_older_days_are_in_the_sum(redis_client: redis.Redis) -> None:
    books, one = Books(redis_client), tally()
    one.add(Deeds(student=10))
    one.flush(books.write, LANE)
    found = books.read(LANE)
    today, name = int(found.now_s) // DAY_S, "{support}:acme:books:"
    first = int(found.month_began_s) // DAY_S
    redis_client.hset(f"{name}day:{first - 1}", "student", 100)  # last month's last day
    if today > first:
        redis_client.hset(f"{name}day:{first}", "student", 1000)
    redis_client.hset(f"{name}ever", mapping={"student": 5000, "unknown": 3, "calls": "x"})
    found = books.read(LANE)
    month = 1010 if today > first else 10
    assert (found.today.student, found.month.student, found.ever) == (10, month, Deeds(student=5000))
    assert found.day_began_s == today * DAY_S
    assert DAY_S < redis_client.ttl(f"{name}day:{today}") <= 62 * DAY_S


def test_a_redis_that_was_emptied_counts_from_then_on_and_says_so(redis_client: redis.Redis) -> None:
    books, one = Books(redis_client), tally()
    one.add(Deeds(student=10))
    one.flush(books.write, LANE)
    redis_client.hset("{support}:acme:books:ever", "since", 1000)
    assert reckon(books.read(LANE), PRICED).start.since_s == 1000
    redis_client.flushall()
    one.add(Deeds(student=1))
    one.flush(books.write, LANE)
    found = books.read(LANE)
    assert found.ever == Deeds(student=1)
    money = reckon(found, PRICED)
    assert money.start.since_s == money.today.since_s == money.month.since_s == found.since_s != 1000


def test_the_books_say_from_when_they_count_however_often_they_are_written(redis_client: redis.Redis) -> None:
    books, one = Flaky(Books(redis_client)), tally()
    one.add(Deeds(student=1))
    flush(one, books)
    redis_client.hset("{support}:acme:books:ever", "since", 1000)
    one.add(Deeds(student=1))
    flush(one, books)
    assert books.books.read(LANE).since_s == 1000.0


def test_the_number_of_a_writers_last_batch_is_kept_for_a_week_and_no_longer(redis_client: redis.Redis) -> None:
    books, one = Flaky(Books(redis_client)), tally(name="w")
    one.add(Deeds(student=1))
    flush(one, books)
    assert 6 * DAY_S < redis_client.ttl("{support}:acme:books:of:w") <= 7 * DAY_S


def test_a_period_counts_from_its_beginning_or_from_that_of_the_books() -> None:
    old = reckon(book(today=Deeds(student=1)), PRICED)
    assert (old.today.since_s, old.month.since_s, old.start.since_s) == (40 * DAY_S, 31 * DAY_S, 1.0)
    young = Book(now_s=40 * DAY_S + 60.0, since_s=40 * DAY_S + 9.0, today=Deeds(), month=Deeds(), ever=Deeds())
    assert {getattr(reckon(young, PRICED), period).since_s for period in PERIODS} == {40 * DAY_S + 9.0}


def test_a_question_is_answered_once_however_many_calls_it_took() -> None:
    money = reckon(book(today=calls(40, 0.002, teacher=10)), Prices()).today  # repeated, and cut off
    assert money.teacher_only_usd == pytest.approx(10 * 0.002)


def book(*, today: Deeds, month: Deeds | None = None, ever: Deeds | None = None) -> Book:
    month = month or today
    return Book(now_s=40 * DAY_S + 60.0, since_s=1.0, today=today, month=month, ever=ever or month)


def calls(count: int, usd: float, **more: int) -> Deeds:
    return Deeds(calls=count, calls_nano_usd=nano(count * usd), **more)


def test_saved_is_what_the_teacher_alone_would_have_cost_less_calls_audits_and_training() -> None:
    done = calls(40, 0.002, student=900, teacher=40, cached=7, unanswered=2, refused=3) + Deeds(
        audits=60, audits_nano_usd=nano(60 * 0.002), training_ms=1_800_000, cycles=3
    )
    money = reckon(book(today=done), Prices(usd_per_training_hour=0.1)).today
    assert money.usd_per_call == pytest.approx(0.002)
    assert money.priced_by == "calls"
    assert money.teacher_only_usd == pytest.approx(940 * 0.002)  # neither cached nor unanswered ones
    assert money.calls_usd == pytest.approx(0.08)
    assert money.audits_usd == pytest.approx(0.12)
    assert money.training_usd == pytest.approx(0.05)
    assert money.spent_usd == pytest.approx(0.25)
    assert money.saved_usd == pytest.approx(1.88 - 0.25)
    assert (money.student, money.teacher, money.cached, money.unanswered, money.refused) == (900, 40, 7, 2, 3)


def test_a_referees_calls_are_spent_and_are_no_measure_of_what_an_answer_costs() -> None:
    done = calls(40, 0.002, student=900, teacher=40) + verdict_of(0.5, bounded=False) + verdict_of(0.25, bounded=True)
    money = reckon(book(today=done), Prices()).today
    assert money.usd_per_call == pytest.approx(0.002)
    assert money.judged == 2
    assert money.judged_usd == pytest.approx(0.75)
    assert money.spent_usd == pytest.approx(0.08 + 0.75)
    assert money.bounded_usd == pytest.approx(0.25)
    both = total([reckon(book(today=done), Prices())] * 2).today
    assert both.judged == 4
    assert both.judged_usd == pytest.approx(1.5)
    fields = money_fields(reckon(book(today=done), Prices()))
    assert "$0.75 for 2 calls of the referee" in str(fields["today (UTC)"])


def test_the_first_day_can_cost_more_than_the_teacher_alone() -> None:
    money = reckon(
        book(today=calls(50, 0.01, teacher=50, cycles=1, training_ms=3_600_000)), Prices(usd_per_training_hour=1.0)
    )
    assert money.today.saved_usd == pytest.approx(-1.0)


def test_a_mean_of_few_calls_is_not_taken_and_where_none_was_measured_the_settings_say() -> None:
    few, many = calls(29, 0.5, student=10), calls(1000, 0.002, student=10)
    found = reckon(book(today=few, ever=few + many), PRICED)
    assert found.today.priced_by == "calls_since_the_start"
    assert found.today.usd_per_call == pytest.approx((29 * 0.5 + 2.0) / 1029)
    enough = reckon(book(today=calls(30, 0.5), ever=few + many), PRICED).today
    assert enough.priced_by == "calls"
    assert enough.usd_per_call == pytest.approx(0.5)
    nothing = reckon(book(today=Deeds(student=10, chars=1000)), PRICED).today
    assert nothing.priced_by == "settings"
    assert nothing.usd_per_call == pytest.approx(0.001 + 100 * 0.00001)


def test_calls_of_unknown_cost_count_at_their_bound_and_are_no_measure_of_a_price() -> None:
    unsure = Deeds(calls=10, calls_nano_usd=nano(10.0), bounded=10, bounded_nano_usd=nano(10.0))
    money = reckon(book(today=calls(100, 0.002, student=100) + unsure), Prices()).today
    assert money.usd_per_call == pytest.approx(0.002)
    assert money.spent_usd == pytest.approx(10.2)
    assert money.bounded_usd == pytest.approx(10.0)
    assert reckon(book(today=unsure), PRICED).today.priced_by == "settings"


def test_without_a_price_nothing_is_said_to_be_saved() -> None:
    money = reckon(book(today=Deeds(student=10, teacher=4, calls=4)), Prices(usd_per_training_hour=1.0)).today
    assert (money.usd_per_call, money.priced_by, money.teacher_only_usd, money.saved_usd) == (None, None, None, None)


def lane_money(*, priced: bool, student: int) -> LaneMoney:
    return reckon(book(today=Deeds(student=student, chars=100 * student)), PRICED if priced else Prices())


def test_lanes_add_up_and_one_without_a_price_leaves_the_sum_untold() -> None:
    one, other, unpriced = (lane_money(priced=it != 3, student=it) for it in (1, 2, 3))
    both = total([one, other]).today
    assert both.student == 3
    assert both.saved_usd == pytest.approx(3 * 0.002)
    assert total([one, unpriced]).today.saved_usd is None
    idle = lane_money(priced=False, student=0)
    assert total([one, idle]).today.saved_usd == one.today.saved_usd  # it has nothing to save
    assert total([]).start.since_s is None


counts = st.integers(0, 10**9)


@given(parts=st.lists(st.builds(Deeds, student=counts, calls=counts, calls_nano_usd=counts, training_ms=counts)))
def test_what_is_spent_does_not_depend_on_how_it_was_cut_into_batches(parts: list[Deeds]) -> None:
    whole = sum(parts, Deeds())
    prices = Prices(usd_per_training_hour=2.0)
    apart = sum(reckon(book(today=part), prices).today.spent_usd for part in parts)
    assert reckon(book(today=whole), prices).today.spent_usd == pytest.approx(apart)
