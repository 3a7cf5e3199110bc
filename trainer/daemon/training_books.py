"""What training takes, written into the lanes' books; and what the books come to, as gauges."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from store.errors import StoreUnavailableError
from store.event import Lane
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.reckon import PERIODS, Money, reckon
from store.money.tally import Tally
from trainer import metrics
from trainer.work import LaneTraining

_EVERY_S: Final = 15.0
_NOBODY_WAITED_S: Final = 0.1  # a cycle that ended at once had nothing to do


class TrainingBooks:
    """One trainer's hand in its lanes' books."""

    def __init__(
        self,
        books: Books,
        lanes: Sequence[LaneTraining],
        folder: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on with what waits in the folder from before."""
        self._books = books
        self._lanes = lanes
        self._tallies = {
            one.lane: Tally(lambda: uuid4().hex, folder / f"tally-train-{one.lane.tenant}.{one.lane.use_case}.json")
            for one in lanes
        }
        self._monotonic = monotonic
        self._shown_s = -math.inf

    def trained(self, lane: Lane, seconds: float) -> None:
        """Count a cycle, whatever came of it; written at once, or when Redis is back."""
        if seconds > _NOBODY_WAITED_S:
            self._tallies[lane].add(Deeds(cycles=1, training_ms=round(1000 * seconds)))
        with suppress(StoreUnavailableError):
            self._tallies[lane].flush(self._books.write, lane)

    def show(self) -> None:
        """Set the gauges, now and then; write down what waits."""
        now_s = self._monotonic()
        if now_s - self._shown_s < _EVERY_S:
            return
        self._shown_s = now_s
        with suppress(StoreUnavailableError):
            for training in self._lanes:
                self._tallies[training.lane].flush(self._books.write, training.lane)
                found = reckon(self._books.read(training.lane), training.prices)
                for period in PERIODS:
                    _show(training.lane, period, getattr(found, period))


def _show(lane: Lane, period: str, money: Money) -> None:
    values = {
        "teacher_only": money.teacher_only_usd,
        "calls": money.calls_usd,
        "audits": money.audits_usd,
        "judged": money.judged_usd,
        "training": money.training_usd,
        "saved": money.saved_usd,
    }
    for what, value in values.items():
        metrics.MONEY.labels(lane.tenant, lane.use_case, what, period).set(math.nan if value is None else value)
