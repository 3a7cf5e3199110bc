"""One lane: its numbers as `status` has them, and what speaks for and against the version that serves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ops.checks.concerns import concerns, remarks
from ops.console.views.drawn import scale_from
from ops.moves.by_hand import promise_of
from ops.sections import LaneSection
from ops.show.plot import Plot, percent
from ops.show.values import ratio_of, time_of
from ops.site import Site
from ops.status.report import LaneStatus
from store.errors import RegistryError, StoreUnavailableError
from store.event import Task
from store.money.books import Books
from store.money.deeds import Deeds
from store.registry.manifest import Manifest, SliceResult

DAYS: Final = 30
_FEET: Final = 6  # dates below a chart
_SLICES: Final = 40  # of a verdict, that a page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What speaks for the champion and what against it, in sentences."""

    of_version: str | None
    pro: list[str]
    con: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What was answered on one day of UTC."""

    name: str
    answered: int
    escalated_ratio: float | None  # by the teacher, of these


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """One lane, for its card and its page."""

    status: LaneStatus
    task: Task
    scale_from: float  # of the band of agreement

    @property
    def path(self) -> str:
        """Its place below the console's root."""
        return f"lane/{self.status.lane}"

    @property
    def state(self) -> str:
        """Its promise in one word."""
        return self.status.promise.state or "unknown"


def lane_view(status: LaneStatus, section: LaneSection) -> LaneView:
    """A lane, ready to be drawn."""
    return LaneView(status=status, task=section.task, scale_from=scale_from(status.promise.low, status.promise.target))


def champion_of(site: Site, status: LaneStatus, section: LaneSection) -> Manifest | str | None:
    """What the champion says of itself; why it cannot be read; None: there is none."""
    if status.champion is None:
        return None
    try:
        return site.registry.versions(section.lane).manifest(status.champion)
    except RegistryError as error:
        return str(error)


def evidence_of(site: Site, status: LaneStatus, section: LaneSection, champion: Manifest | str | None) -> Evidence:
    """What speaks for the champion of a lane and what against it.

    Args:
        site: the installation.
        status: of the lane.
        section: its settings.
        champion: as `champion_of` gives it.
    """
    if status.champion is None or champion is None:
        none = [] if status.moves_ok else ["the moves do not verify: nobody knows who should serve"]
        return Evidence(of_version=None, pro=[], con=none)
    if isinstance(champion, str):
        return Evidence(of_version=status.champion, pro=[], con=[champion])
    version, promise = status.champion, promise_of(site, section)
    con = concerns(version, champion, promise, serving=champion.student, removal_declared=status.pinned)
    con += remarks(version, champion)
    live_pro, live_con = _live(status)
    judged_pro, judged_con = _judged(champion)
    answers = status.answers.advice if status.answers is not None else []
    return Evidence(
        of_version=version,
        pro=[*live_pro, *judged_pro, *_certified(champion)],
        con=[*live_con, *con, *judged_con, *answers],
    )


def slices_of(manifest: Manifest | str | None) -> list[SliceResult]:
    """The comparisons that its verdict rests on, those that were refused first."""
    if manifest is None or isinstance(manifest, str) or manifest.verdict is None:
        return []
    return sorted(manifest.verdict.slices, key=lambda one: not one.refused)[:_SLICES]


def widest(slices: Sequence[SliceResult]) -> float:
    """How far a picture of them reaches to either side."""
    return max((abs(end) for one in slices for end in (one.lower, one.upper, one.delta)), default=0.1) or 0.1


def days_of(site: Site, section: LaneSection) -> list[Day]:
    """The last days of a lane's books; none while Redis does not answer."""
    try:
        with site.redis_client() as client:
            return [_day(began_s, deeds) for began_s, deeds in Books(client).latest_days(section.lane, DAYS)]
    except StoreUnavailableError:
        return []


def days_chart(days: Sequence[Day]) -> str | None:
    """A chart of the share that the teacher answered, day by day; None where nothing was answered."""
    answered = [number for number, day in enumerate(days) if day.answered]
    if not answered:
        return None
    first = min(answered[0], len(days) - 2)  # a line needs two ends
    chart = Plot(
        "share of answers that the teacher gave, each day",
        across=(first, len(days) - 1),
        up=(0.0, 1.0),
        height=190,
        right=24,
    )
    chart.grid([0.0, 0.5, 1.0], percent)
    chart.feet(
        range(first, len(days), max(1, (len(days) - first) // _FEET)), lambda number: days[round(number)].name[5:]
    )
    for run in _runs([day.escalated_ratio if day.answered else None for day in days]):
        chart.area(run, [(number, 0.0) for number, _ in run], "escalated")
        chart.line(run, "escalated")
    for number in answered:
        day = days[number]
        chart.dot(
            number,
            day.escalated_ratio or 0.0,
            "escalated",
            size=4,
            told=f"{day.name}: {ratio_of(day.escalated_ratio)} of {day.answered:,}",
        )
    return chart.svg()


def _runs(values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The values with their places, parted at the gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((float(place), value))
    return [run for run in runs if run]


def _day(began_s: float, deeds: Deeds) -> Day:
    answered = deeds.student + deeds.teacher
    return Day(
        name=time_of(began_s)[:10],
        answered=answered,
        escalated_ratio=deeds.teacher / answered if answered else None,
    )


def _live(status: LaneStatus) -> tuple[list[str], list[str]]:
    """What its audits say while it serves."""
    promise = status.promise
    if not promise.audits:
        return [], [] if promise.state is None else ["none of its answers has been audited yet"]
    told = f"{ratio_of(promise.estimate)} of {promise.audits} audited answers agree, at least {ratio_of(promise.low)}"
    if promise.target is None or promise.state == "held":
        return [told], []
    if promise.state == "broken":
        return [], [f"{told}, at most {ratio_of(promise.high)}; promised are {ratio_of(promise.target)}"]
    short = "" if promise.audits_short is None else f"; {promise.audits_short} more audits would prove it"
    if promise.state == "suspended":
        short = "; the budget binds, so some answers went out that nobody vouches for"
    return [], [f"{told}; promised are {ratio_of(promise.target)}{short}"]


def _judged(champion: Manifest) -> tuple[list[str], list[str]]:
    """What the gate found when it was judged."""
    verdict = champion.verdict
    if verdict is None:
        return [], []
    pro = []
    if verdict.outcome == "pass":
        pro.append(f"the gate said pass on {verdict.rows_judged} judged rows ({verdict.phase})")
    if verdict.student_agreement is not None:
        pro.append(
            f"its own answers agree on {ratio_of(verdict.student_agreement)} of the judged rows, whatever it trusts"
        )
    if verdict.difference is not None and verdict.lower is not None:
        pro.append(
            f"against the champion before: {verdict.difference:+.3f}, at least {verdict.lower:+.3f}"
            f" where {-verdict.delta:+.3f} is allowed"
        )
    con = list(verdict.notes)
    con += [
        f"{one.name}: may have lost {-one.lower:.3f}, {one.delta:.3f} allowed" for one in verdict.slices if one.refused
    ]
    torn = sum(topic.conflicts for topic in champion.topics)
    if torn:
        con.append(f"{torn} of its questions are contradicted by near neighbours")
    return pro, con


def _certified(champion: Manifest) -> list[str]:
    policy = champion.policy
    if policy is None or policy.threshold is None:
        return []
    covered, lower = ratio_of(policy.coverage_ratio), ratio_of(policy.lower)
    trusted = f"it answers at confidence {policy.threshold:.3f} and above: {covered} of the traffic"
    return [f"{trusted}, agreement at least {lower} at {policy.confidence_level:.0%} confidence"]
