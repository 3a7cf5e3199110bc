"""What a trainer writes into the books, and shows of them."""

import math
from pathlib import Path

import pytest
import redis
from prometheus_client import REGISTRY

from store.event import Lane
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.reckon import Prices
from store.money.tally import DeedBatch
from trainer.daemon.training_books import TrainingBooks
from trainer.work import LaneTraining

LANE = Lane("acme", "purse")
OTHER = Lane("acme", "unpriced")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def training(lane: Lane, prices: Prices) -> LaneTraining:
    return LaneTraining(lane=lane, task="classify", prompt_version="m@1", target=0.9, confidence=0.9, prices=prices)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(redis_client: redis.Redis) -> Books:
    return Books(redis_client)


@pytest.fixture
def training_books(books: Books, clock: Clock, tmp_path: Path) -> TrainingBooks:
    priced = Prices(usd_per_training_hour=3600.0, usd_per_call_base=0.5)
    lanes = [training(LANE, priced), training(OTHER, Prices())]
    return TrainingBooks(books, lanes, tmp_path, monotonic=clock)


def shown(lane: Lane, what: str, period: str = "today") -> float:
    labels = {"tenant": lane.tenant, "use_case": lane.use_case, "what": what, "period": period}
    found = REGISTRY.get_sample_value("understudy_money_usd", labels)
    assert found is not None
    return found


def test_a_cycle_is_counted_with_its_milliseconds_and_one_that_had_nothing_to_do_is_not(
    training_books: TrainingBooks, books: Books
) -> None:
    training_books.trained(LANE, 1.2345)
    training_books.trained(LANE, 0.1)
    assert books.read(LANE).ever == Deeds(cycles=1, training_ms=1234)
    assert books.read(OTHER).ever == Deeds()


def test_what_the_books_come_to_is_shown_each_by_its_name(training_books: TrainingBooks, books: Books) -> None:
    deeds = Deeds(student=10, calls=2, calls_nano_usd=10**9, audits=1, audits_nano_usd=25 * 10**7, training_ms=2000)
    books.write(LANE, DeedBatch(writer="w", number=1, deeds=deeds))
    training_books.show()
    for period in ("today", "month", "start"):
        found = {what: shown(LANE, what, period) for what in ("teacher_only", "calls", "audits", "training", "saved")}
        price = 1.25 / 3  # measured
        spent = 1.0 + 0.25 + 2.0
        assert found == pytest.approx(
            {"teacher_only": 10 * price, "calls": 1.0, "audits": 0.25, "training": 2.0, "saved": 10 * price - spent}
        )


def test_a_lane_without_a_price_shows_no_number_rather_than_nought(training_books: TrainingBooks) -> None:
    training_books.show()
    assert math.isnan(shown(OTHER, "teacher_only"))
    assert math.isnan(shown(OTHER, "saved"))
    assert shown(OTHER, "calls") == 0.0


def test_the_books_are_asked_every_quarter_of_a_minute_and_no_oftener(
    training_books: TrainingBooks, books: Books, clock: Clock
) -> None:
    training_books.show()
    books.write(LANE, DeedBatch(writer="w", number=1, deeds=Deeds(calls=1, calls_nano_usd=10**9)))
    clock.now_s += 14.9
    training_books.show()
    assert shown(LANE, "calls") == 0.0
    clock.now_s += 0.1
    training_books.show()
    assert shown(LANE, "calls") == 1.0
