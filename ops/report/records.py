"""What a report says; `-o json` prints it as it is."""

import msgspec

from ops.status.past import VersionShown
from ops.status.report import MoveShown, PromiseShown
from store.control import CycleEnded
from store.event import Task
from store.money.reckon import Money
from store.registry.manifest import Topic


class DayShown(msgspec.Struct, frozen=True, kw_only=True):
    """One day of UTC."""

    day: str  # YYYY-MM-DD
    money: Money


class AuditsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Audits of one version, ever; the interval holds whenever one looks."""

    version: str
    audits: int
    agreed: int
    low: float
    high: float


class HardShown(msgspec.Struct, frozen=True, kw_only=True):
    """Questions under one label (all, where answers are none) that were asked in the report's days."""

    label: str
    items: int
    escalated: int  # events that went to the teacher, ever
    audited: int  # items that were put to the teacher although the student was sure
    missed: int  # of these, the ones that it answered otherwise
    contradicted: int  # items of which the teacher contradicts itself
    examples: list[str]  # the most escalated, redacted and cut


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the next so many days come to, with an 80 % prediction interval."""

    what: str
    low: float
    middle: float
    high: float


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast of an earlier report, and what came."""

    since: str
    until: str
    forecast: Forecast
    came: float

    @property
    def inside(self) -> bool:
        """Whether the interval held it."""
        return self.forecast.low <= self.came <= self.forecast.high


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a report for the next ones: `state_dir/reports/<tenant>/<use case>/<since>_<until>.json`."""

    since: str
    until: str
    came: dict[str, float]  # what -> what it came to in these days
    forecasts: list[Forecast]  # of as many days after them


class LaneReport(msgspec.Struct, frozen=True, kw_only=True):
    """One lane."""

    lane: str
    task: Task
    champion: str | None
    promise: PromiseShown  # as `status` has it
    money: Money | None  # of these days; None: Redis does not answer
    ever: Money | None
    days: list[DayShown]
    audits: list[AuditsShown]  # of the versions that served in these days
    moves: list[MoveShown]
    versions: list[VersionShown]  # that were made
    cycles: list[CycleEnded]  # that made none, or failed
    topics: list[Topic]  # of the champion's snapshot, the hardest first
    hard: list[HardShown]
    forecasts: list[Forecast]
    scored: list[Scored]  # of all kept reports, the newest first
    notes: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    made_s: float
    since: str
    until: str
    money: Money | None  # of all lanes
    lanes: list[LaneReport]
    unavailable: list[str]
