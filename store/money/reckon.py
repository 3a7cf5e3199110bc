"""What a lane's deeds come to in dollars: what was spent, and what the teacher alone would have cost. Pure.

The teacher alone would have been asked every question that got an answer, once each: answers that were given again
under their Idempotency-Key, and questions that nobody answered, are neither a call nor a saving.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from store.money.books import Book
from store.money.deeds import Deeds

Period = Literal["today", "month", "start"]
PricedBy = Literal["calls", "calls_since_the_start", "settings"]

PERIODS: Final[tuple[Period, ...]] = ("today", "month", "start")
_ENOUGH_CALLS: Final = 30  # of a period, for a mean of its own
_NANO: Final = 1e-9
_MS_PER_HOUR: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What the settings say of prices."""

    usd_per_training_hour: float = 0.0
    usd_per_call_base: float = 0.0  # of the prompt without the question, and of the answer
    usd_per_char: float = 0.0  # of the question

    @property
    def known(self) -> bool:
        """Whether the teacher has a price."""
        return self.usd_per_call_base > 0 or self.usd_per_char > 0


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """One period of one lane, or of all. Dollars; None where no price is known."""

    since_s: float | None  # what it counts from, Unix seconds; None: nothing was done yet
    student: int = 0
    teacher: int = 0
    cached: int = 0
    unanswered: int = 0
    refused: int = 0
    calls: int = 0
    audits: int = 0
    judged: int = 0
    training_hours: float = 0.0
    teacher_only_usd: float | None = None  # estimated: every answered question at `usd_per_call`
    calls_usd: float = 0.0
    audits_usd: float = 0.0
    judged_usd: float = 0.0
    training_usd: float = 0.0
    spent_usd: float = 0.0
    saved_usd: float | None = None  # what the teacher alone would have cost, less what was spent; may be below zero
    bounded_usd: float = 0.0  # of what was spent, what is an upper bound: the endpoint did not say what it used
    usd_per_call: float | None = None
    priced_by: PricedBy | None = None


class LaneMoney(msgspec.Struct, frozen=True, kw_only=True):
    """The three periods; days and months are UTC's."""

    today: Money
    month: Money
    start: Money


def reckon(book: Book, prices: Prices) -> LaneMoney:
    """What a lane's books come to."""

    def money(deeds: Deeds, began_s: float) -> Money:
        since_s = None if book.since_s is None else max(book.since_s, began_s)
        return money_of(deeds, book.ever, prices, since_s)

    return LaneMoney(
        today=money(book.today, book.day_began_s),
        month=money(book.month, book.month_began_s),
        start=money(book.ever, 0.0),
    )


def total(lanes: Iterable[LaneMoney]) -> LaneMoney:
    """All lanes together. A lane without a price has no saving to add, and then there is no sum of them."""
    found = list(lanes)
    return LaneMoney(**{period: summed([getattr(one, period) for one in found]) for period in PERIODS})


def money_of(deeds: Deeds, ever: Deeds, prices: Prices, since_s: float | None) -> Money:
    """What some deeds come to; `ever` are all that the lane's books hold, `since_s` from when these count."""
    answered = deeds.student + deeds.teacher
    price, priced_by = _price(deeds, ever, prices)
    calls_usd, audits_usd = deeds.calls_nano_usd * _NANO, deeds.audits_nano_usd * _NANO
    hours = deeds.training_ms / _MS_PER_HOUR
    training_usd = hours * prices.usd_per_training_hour
    judged_usd = deeds.judged_nano_usd * _NANO
    spent_usd = calls_usd + audits_usd + judged_usd + training_usd
    alone = None if price is None else answered * price
    return Money(
        since_s=since_s,
        student=deeds.student,
        teacher=deeds.teacher,
        cached=deeds.cached,
        unanswered=deeds.unanswered,
        refused=deeds.refused,
        calls=deeds.calls,
        audits=deeds.audits,
        judged=deeds.judged,
        training_hours=hours,
        teacher_only_usd=alone,
        calls_usd=calls_usd,
        audits_usd=audits_usd,
        judged_usd=judged_usd,
        training_usd=training_usd,
        spent_usd=spent_usd,
        saved_usd=None if alone is None else alone - spent_usd,
        bounded_usd=(deeds.bounded_nano_usd + deeds.judged_bounded_nano_usd) * _NANO,
        usd_per_call=price,
        priced_by=priced_by,
    )


def _price(deeds: Deeds, ever: Deeds, prices: Prices) -> tuple[float | None, PricedBy | None]:
    """The mean price of a call: measured in the period, since the start, or by the settings; bounds are no measure."""
    if (own := _mean_usd(deeds)) is not None and _measured(deeds) >= _ENOUGH_CALLS:
        return own, "calls"
    if (all_usd := _mean_usd(ever)) is not None:
        return all_usd, "calls_since_the_start"
    if prices.known:
        answered = ever.student + ever.teacher
        chars = ever.chars / answered if answered else 0.0
        return prices.usd_per_call_base + chars * prices.usd_per_char, "settings"
    return None, None


def _measured(deeds: Deeds) -> int:
    return deeds.calls + deeds.audits - deeds.bounded


def _mean_usd(deeds: Deeds) -> float | None:
    usd = (deeds.calls_nano_usd + deeds.audits_nano_usd - deeds.bounded_nano_usd) * _NANO
    return usd / _measured(deeds) if _measured(deeds) > 0 and usd > 0 else None


def summed(parts: list[Money]) -> Money:
    """Several together; no saving where one that answered has no price."""
    sums = {name: sum(getattr(one, name) for one in parts) for name in _SUMMED}
    known = [one for one in parts if one.student + one.teacher]
    alone = [one.teacher_only_usd for one in known if one.teacher_only_usd is not None]
    told = len(alone) == len(known)
    return Money(
        since_s=min((one.since_s for one in parts if one.since_s is not None), default=None),
        teacher_only_usd=sum(alone) if told else None,
        saved_usd=sum(alone) - sums["spent_usd"] if told else None,
        **sums,
    )


_SUMMED: Final = (
    *("student", "teacher", "cached", "unanswered", "refused", "calls", "audits", "judged", "training_hours"),
    *("calls_usd", "audits_usd", "judged_usd", "training_usd", "spent_usd", "bounded_usd"),
)
