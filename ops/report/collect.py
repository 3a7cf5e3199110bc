"""Collects a report: by the functions of `status`, `history` and the books, so that no figure is reckoned twice."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import redis

from ops.checks.cycles import ended_cycles
from ops.money.prices import prices_of
from ops.report.forecasts import forecasts, keep_report, measured, read_reports, scored
from ops.report.records import AuditsShown, DayShown, Forecast, HardShown, Kept, LaneReport, Report, Scored
from ops.sections import LaneSection
from ops.site import Site
from ops.status.collect import collect as collect_status
from ops.status.past import version_shown
from ops.status.report import LaneStatus, MoveShown
from store.buffer.item import Item
from store.buffer.ledger import AuditTally
from store.errors import RegistryError, StoreError
from store.event import wall_clock_s
from store.money.books import Book, Books
from store.money.deeds import Deeds
from store.money.reckon import Money, money_of, summed
from store.promise import bounds
from store.registry.manifest import Topic
from store.registry.moves import Move
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS

_DAY_S: Final = 86_400
_EXAMPLES: Final = 3
_EXAMPLE_CHARS: Final = 160
_LISTED: Final = 12  # labels, topics
_KEPT_DAYS: Final = 62  # of the books


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Days of UTC, the first and the last among them."""

    since: date
    until: date

    @property
    def from_s(self) -> float:
        """When it begins, Unix seconds."""
        return datetime(self.since.year, self.since.month, self.since.day, tzinfo=UTC).timestamp()

    @property
    def to_s(self) -> float:
        """When it is over."""
        return self.from_s + ((self.until - self.since).days + 1) * _DAY_S

    def holds(self, time_s: float | None) -> bool:
        """Whether a moment (Unix seconds) lies in it."""
        return time_s is not None and self.from_s <= time_s < self.to_s

    @property
    def numbers(self) -> tuple[int, int]:
        """Its days, counted from 1970."""
        return int(self.from_s) // _DAY_S, int(self.to_s) // _DAY_S - 1


def report(site: Site, sections: Sequence[LaneSection], window: Window) -> Report:
    """Collect a report, and keep what the next one scores; what cannot be read is left out, and named.

    Raises:
        SettingsError: there are no trusted keys.
    """
    now_s = wall_clock_s()
    status = collect_status(site, list(sections))
    unavailable = list(status.unavailable)
    lanes: list[LaneReport] = []
    try:
        with site.redis_client() as client:
            for section, found in zip(sections, status.lanes, strict=True):
                lanes.append(_Lane(site, section, found, window, client=client).report(now_s))
    except StoreError as error:
        unavailable += [] if status.unavailable else [f"Redis: {error}"]
        rest = list(zip(sections, status.lanes, strict=True))[len(lanes) :]
        lanes += [_Lane(site, section, found, window, client=None).report(now_s) for section, found in rest]
    known = [one.money for one in lanes if one.money is not None]
    return Report(
        made_s=now_s,
        since=str(window.since),
        until=str(window.until),
        money=summed(known) if len(known) == len(lanes) else None,
        lanes=lanes,
        unavailable=unavailable,
    )


@dataclass
class _Lane:
    """One lane's part."""

    site: Site
    section: LaneSection
    status: LaneStatus
    window: Window
    client: redis.Redis | None = field(kw_only=True)  # None: it does not answer
    notes: list[str] = field(default_factory=list)

    def report(self, now_s: float) -> LaneReport:
        """All of it."""
        moves = self._moves()
        money, ever, days = self._money(now_s) if self.client is not None else (None, None, [])
        whole = [one for one in days if date.fromisoformat(one.day) < datetime.fromtimestamp(now_s, UTC).date()]
        coming, judged = forecasts(whole), list[Scored]()
        if money is not None:
            judged = self._scored(money, coming if len(whole) == len(days) else [], over=self.window.to_s <= now_s)
        stored = self.site.registry.versions(self.section.lane)
        versions = [version_shown(stored, one) for one in stored.list()]
        cycles = ended_cycles(self.site, self.section.lane)
        return LaneReport(
            lane=str(self.section.lane),
            task=self.section.task,
            champion=self.status.champion,
            promise=self.status.promise,
            money=money,
            ever=ever,
            days=days,
            audits=self._audits(moves),
            moves=[MoveShown.of(move) for move in moves if self.window.holds(move.time_s)],
            versions=sorted(
                (row for row in versions if self.window.holds(row.created_s)), key=lambda row: row.created_s or 0.0
            ),
            cycles=[one for one in cycles if self.window.holds(one.at_s) and one.version is None],
            topics=self._topics(),
            hard=self._hard(),
            forecasts=coming,
            scored=judged,
            notes=self.notes,
        )

    def _moves(self) -> list[Move]:
        try:
            return self.site.registry.moves(self.section.lane).read()
        except RegistryError as error:
            self.notes.append(f"the moves do not verify, and are left out: {error}")
            return []

    def _money(self, now_s: float) -> tuple[Money, Money, list[DayShown]]:
        """Of the days together, of all there is, and of each day since the books were begun."""
        assert self.client is not None  # noqa: S101 - whoever calls has seen to that
        books, prices = Books(self.client), prices_of(self.site.settings, self.section)
        book, (first, last) = books.read(self.section.lane), self.window.numbers
        found = dict(zip(range(first, last + 1), books.days(self.section.lane, first, last), strict=True))
        if book.since_s is not None and book.since_s < self.window.from_s < now_s - _KEPT_DAYS * _DAY_S:
            self.notes.append(f"of days the books keep {_KEPT_DAYS}: what lies before is not in these figures")
        begun = [day for day in found if book.since_s is not None and int(book.since_s) // _DAY_S <= day]
        days = [
            DayShown(day=_date_of(day), money=money_of(found[day], book.ever, prices, float(day * _DAY_S)))
            for day in begun
            if day <= int(now_s) // _DAY_S
        ]
        together = money_of(sum(found.values(), Deeds()), book.ever, prices, _began_s(book, self.window))
        return together, money_of(book.ever, book.ever, prices, book.since_s), days

    def _scored(self, money: Money, coming: list[Forecast], *, over: bool) -> list[Scored]:
        """Keep what came and what is forecast, where the days are over; every forecast that can be scored by now."""
        since, until, lane = str(self.window.since), str(self.window.until), self.section.lane
        kept, came = read_reports(self.site.settings.state_dir, lane), measured(money)
        if not over:
            self.notes.append("the last day is not over: its forecast is neither kept nor scored")
            return scored(kept, "", "", {})
        try:
            keep_report(self.site.settings.state_dir, lane, Kept(since=since, until=until, came=came, forecasts=coming))
        except OSError as error:
            self.notes.append(f"the forecast is not kept for the next report: {error}")
        return scored(kept, since, until, came)

    def _audits(self, moves: Iterable[Move]) -> list[AuditsShown]:
        """Of each version that was the champion in these days."""
        if self.client is None:
            return []
        served = dict.fromkeys(
            move.version
            for move in moves
            if move.version is not None and move.kind in {"promote", "rollback"} and move.time_s < self.window.to_s
        )
        tallies = self.site.buffer(self.client).audits(self.section.lane)
        promise = self.section.promise
        return [
            _audited(version, tallies[version], promise.target, promise.confidence)
            for version in served
            if version in tallies
        ]

    def _topics(self) -> list[Topic]:
        """The champion's topics, those first of which most went to the teacher."""
        if self.status.champion is None:
            return []
        try:
            topics = self.site.registry.versions(self.section.lane).manifest(self.status.champion).topics
        except (RegistryError, OSError) as error:
            self.notes.append(f"topics are left out: {error}")
            return []
        return sorted(topics, key=lambda one: one.requests * one.escalated_ratio, reverse=True)[:_LISTED]

    def _hard(self) -> list[HardShown]:
        if self.client is None:
            return []
        items = self.site.buffer(self.client).items(self.section.lane)
        return hardest(
            (item for item in items if self.window.holds(item.last_asked_s)),
            TASKS[self.section.task](self.section.terms()),
        )


def hardest(items: Iterable[Item], rules: TaskRules) -> list[HardShown]:
    """What stayed hard of some items, by label; those first of which most went to the teacher."""
    by_label: dict[str, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.stratum, []).append(item)
    found = []
    for label, some in by_label.items():
        audited = [item for item in some if item.count > item.escalated]
        worst = heapq.nlargest(_EXAMPLES, some, key=lambda item: (_missed(item, rules), item.escalated, item.item_id))
        found.append(
            HardShown(
                label=label,
                items=len(some),
                escalated=sum(item.escalated for item in some),
                audited=len(audited),
                missed=sum(_missed(item, rules) for item in audited),
                contradicted=sum(any(rules.conflicted(said) for said in item.tally.values()) for item in some),
                examples=[_cut(rules.words(item.input)) for item in worst],
            )
        )
    return sorted(found, key=lambda one: (one.escalated, one.missed), reverse=True)[:_LISTED]


def _missed(item: Item, rules: TaskRules) -> bool:
    """Whether the student's first opinion of an item was none of the teacher's answers."""
    first = item.first_opinion
    if first is not None and first.opinion.verdict is not None:  # a referee was asked
        return not first.opinion.verdict.agreed
    answers = [answer for said in item.tally.values() for answer in said]
    return first is not None and bool(answers) and not any(rules.agree(one, first.opinion.output) for one in answers)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _EXAMPLE_CHARS else f"{line[:_EXAMPLE_CHARS]}…"


def _audited(version: str, tally: AuditTally, target: float, confidence: float) -> AuditsShown:
    low, high = bounds(tally.audits, tally.agreed, 1 - confidence, guess=target)
    return AuditsShown(version=version, audits=tally.audits, agreed=tally.agreed, low=low, high=high)


def _date_of(day: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=day))


def _began_s(book: Book, window: Window) -> float | None:
    return None if book.since_s is None else max(book.since_s, window.from_s)
