"""A report as a page: headings, sentences, numbers, tables and charts, which each form of it sets in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ops.money.dollars import usd
from ops.report.charts import money_chart, shares_chart
from ops.report.records import Forecast, LaneReport, Report
from ops.show.plot import Plot
from ops.show.values import ratio_of, time_of
from ops.status.report import MoveShown
from store.money.reckon import Money

_STATES: Final = {
    "held": "kept",
    "broken": "BROKEN",
    "suspended": "suspended: the budget binds, and some answers went out that nobody vouches for",
    "unproven": "not proven yet: too few answers of the present champion were audited",
}
_FEWEST_DAYS: Final = 2  # for a chart
_OF_HARD: Final = (
    "Of the questions that were asked in these days and are kept: how often they went to the teacher, ever; and, of"
    " those that were audited, how many the student had answered otherwise when it first saw them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part: any of these may be empty; they are shown in this order."""

    title: str
    level: int = 2
    tiles: Sequence[tuple[str, str]] = ()  # a number and what it is
    sentences: Sequence[str] = ()
    chart: Plot | None = None
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numbers: frozenset[int] = frozenset()  # columns
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of it."""

    kicker: str
    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=list)
    footer: str = ""


def page_of(report: Report) -> Page:
    """The page of a report."""
    span = f"{report.since} to {report.until}"
    sections = (
        [Section(title="Not everything could be read", warnings=report.unavailable)] if report.unavailable else []
    )
    if len(report.lanes) > 1 and report.money is not None:
        sections.append(Section(title="All lanes", level=1, tiles=_money_tiles(report.money)))
    for lane in report.lanes:
        sections += _lane(lane)
    return Page(
        kicker=f"Understudy · {span}, days of UTC",
        title=_headline(report),
        lead=_lead(report),
        sections=sections,
        footer=(
            f"Made {time_of(report.made_s)}. The teacher alone: every answered question at the mean price of a call."
            " Audits are answers of the student, drawn at random, that were put to the teacher as well; their interval"
            " holds whenever one looks. Examples are redacted by pattern: names may be left in them."
        ),
    )


def _headline(report: Report) -> str:
    broken = [lane.lane for lane in report.lanes if lane.promise.state == "broken"]
    if broken:
        return f"The promise is broken in {', '.join(broken)}"
    money = report.money
    if money is None or not money.student + money.teacher:
        return "Nothing was asked in these days" if money is not None else "What was spent cannot be read"
    share = f"{money.student / (money.student + money.teacher):.0%} of the answers were the student's own"
    if money.saved_usd is None:
        return share
    if money.saved_usd < 0:
        return f"{share}; it cost {usd(-money.saved_usd)} more than the teacher alone"
    return f"{share}; about {usd(money.saved_usd)} saved"


def _lead(report: Report) -> str:
    kept = {state: [lane.lane for lane in report.lanes if lane.promise.state == state] for state in _STATES}
    told = [f"{', '.join(lanes)}: promise {_STATES[state].partition(':')[0]}" for state, lanes in kept.items() if lanes]
    only = [lane.lane for lane in report.lanes if lane.promise.state == "none"]
    told += [f"{', '.join(only)}: a budget alone, nothing is promised"] if only else []
    return f"{'; '.join(told)}." if told else ""


def _lane(lane: LaneReport) -> list[Section]:
    head = Section(
        title=lane.lane,
        level=1,
        sentences=[f"{lane.task}; champion {lane.champion or 'none yet'}."],
        warnings=lane.notes,
    )
    found = [
        head,
        _money(lane),
        _answered(lane),
        _quality(lane),
        _learned(lane),
        _hard(lane),
        _topics(lane),
        _forecast(lane),
    ]
    return [one for one in found if one is not None]


def _money_tiles(money: Money) -> list[tuple[str, str]]:
    answered = money.student + money.teacher
    tiles = [(f"{answered:,}", "questions were answered")]
    if answered:
        tiles.append((f"{money.student / answered:.1%}", "of them by the student"))
    tiles.append((usd(money.spent_usd), f"spent: {usd(money.audits_usd)} audits, {usd(money.training_usd)} training"))
    if money.saved_usd is not None and money.teacher_only_usd is not None:
        told = f"of {usd(money.teacher_only_usd)} that the teacher alone would have cost"
        tiles.append((usd(money.saved_usd), f"saved {told}" if money.saved_usd >= 0 else f"beyond the {told[3:]}"))
    return tiles


def _money(lane: LaneReport) -> Section | None:
    if lane.money is None:
        return Section(title="Money", warnings=["Redis does not answer: nobody else knows what was spent."])
    money = lane.money
    said = []
    if money.saved_usd is None and money.student + money.teacher:
        said.append("No price of a call is known: set lanes.teacher.input_usd_per_mtok and output_usd_per_mtok.")
    if money.bounded_usd:
        said.append(f"{usd(money.bounded_usd)} of it is an upper bound: the endpoint did not say what it used.")
    if money.unanswered or money.refused:
        said.append(
            f"{money.unanswered:,} questions got no answer; {money.refused:,} were turned away by a busy gateway."
        )
    if lane.ever is not None and lane.ever.since_s is not None:
        saved = "" if lane.ever.saved_usd is None else f", about {usd(lane.ever.saved_usd)} saved"
        said.append(f"Since {time_of(lane.ever.since_s)[:10]}: {usd(lane.ever.spent_usd)} spent{saved}.")
    return Section(
        title="Money",
        tiles=_money_tiles(money),
        sentences=said,
        chart=money_chart(lane.days) if len(lane.days) >= _FEWEST_DAYS else None,
        head=["day", "answered", "by the student", "teacher calls", "spent", "teacher alone"],
        rows=[_day_row(one.day, one.money) for one in lane.days],
        numbers=frozenset(range(1, 6)),
    )


def _day_row(day: str, money: Money) -> list[str]:
    answered = money.student + money.teacher
    share = f"{money.student / answered:.0%}" if answered else "-"
    alone = "-" if money.teacher_only_usd is None else usd(money.teacher_only_usd)
    return [day, f"{answered:,}", share, f"{money.calls + money.audits:,}", usd(money.spent_usd), alone]


def _answered(lane: LaneReport) -> Section | None:
    if len(lane.days) < _FEWEST_DAYS:
        return None
    return Section(title="Who answered", chart=shares_chart(lane.days))


def _quality(lane: LaneReport) -> Section:
    promise = lane.promise
    said = []
    if promise.state is None:
        said.append("Unknown: Redis does not answer.")
    elif promise.target is None:
        said.append("Nothing is promised: the lane has a budget alone.")
    else:
        said.append(
            f"Promised: {promise.target:.0%} of the student's own answers are the teacher's ({promise.agreement}). "
            f"That is {_STATES.get(promise.state, promise.state)}."
        )
    if promise.audits:
        said.append(
            f"Of {promise.audits:,} audits of the present champion, and of versions that answer as it does, "
            f"{ratio_of(promise.estimate)} agreed: between {ratio_of(promise.low)} and {ratio_of(promise.high)}."
        )
    if promise.audits_short:
        said.append(f"{promise.audits_short:,} more audits like these would prove it.")
    rows = [
        [
            one.version,
            f"{one.audits:,}",
            f"{one.agreed:,}",
            ratio_of(one.agreed / one.audits),
            _between(one.low, one.high),
        ]
        for one in lane.audits
        if one.audits
    ]
    return Section(
        title="Quality",
        sentences=said,
        head=["version", "audits", "agreed", "share", "interval"] if rows else [],
        rows=rows,
        numbers=frozenset({1, 2, 3, 4}),
    )


def _between(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _learned(lane: LaneReport) -> Section:
    moved = {move.version: f"{move.kind} by {move.who}" for move in lane.moves if move.version is not None}
    rows = [
        [
            row.id,
            "-" if row.created_s is None else time_of(row.created_s)[:16],
            row.kind or "-",
            row.verdict or "not judged",
            ratio_of(row.student_agreement),
            row.error or "; ".join(row.refusals) or moved.get(row.id, ""),
        ]
        for row in lane.versions
    ]
    rows += [["none", time_of(one.at_s)[:16], one.kind, one.verdict, "-", one.why] for one in lane.cycles]
    by_hand = [
        f"{time_of(move.time_s)[:16]}: {move.kind}{_to(move)} by {move.who}: {move.why}"
        for move in lane.moves
        if move.kind in {"rollback", "pin", "resume", "pause"}
    ]
    return Section(
        title="What was learned",
        sentences=by_hand or ([] if rows else ["No version was made in these days, and nobody moved one."]),
        head=["version", "made", "kind", "verdict", "agreement", "why"] if rows else [],
        rows=rows,
        numbers=frozenset({4}),
    )


def _to(move: MoveShown) -> str:
    return f" to {move.version}" if move.version is not None else ""


def _hard(lane: LaneReport) -> Section | None:
    if not lane.hard:
        return None
    return Section(
        title="What stayed hard",
        sentences=[
            _OF_HARD,
        ],
        head=[
            "label",
            "questions",
            "to the teacher",
            "audited",
            "of these wrong",
            "teacher contradicts itself",
            "for example",
        ],
        rows=[
            [
                one.label,
                f"{one.items:,}",
                f"{one.escalated:,}",
                f"{one.audited:,}",
                f"{one.missed:,}",
                f"{one.contradicted:,}",
                " · ".join(f"“{text}”" for text in one.examples),
            ]
            for one in lane.hard
        ],
        numbers=frozenset({1, 2, 3, 4, 5}),
    )


def _topics(lane: LaneReport) -> Section | None:
    if not lane.topics:
        return None
    return Section(
        title="Topics",
        sentences=["Of the rows that the champion was made from."],
        head=["topic", "requests", "to the teacher", "answered otherwise when asked nearly alike"],
        rows=[
            [one.name, f"{one.requests:,.0f}", ratio_of(one.escalated_ratio), f"{one.conflicts:,}"]
            for one in lane.topics
        ],
        numbers=frozenset({1, 2, 3}),
    )


def _forecast(lane: LaneReport) -> Section:
    said = []
    if lane.scored:
        inside = sum(one.inside for one in lane.scored)
        said.append(f"Of {len(lane.scored)} forecasts of earlier reports {inside} held what came; 80 % should.")
    if not lane.forecasts:
        said.append("No forecast: it takes three whole days at least.")
    rows = [
        [
            f"{one.since} to {one.until}",
            one.forecast.what,
            *_values(one.forecast),
            _value(one.forecast.what, one.came),
            "yes" if one.inside else "NO",
        ]
        for one in lane.scored[:12]
    ]
    rows += [["as many days to come", one.what, *_values(one), "", ""] for one in lane.forecasts]
    return Section(
        title="Forecasts, and what came",
        sentences=said,
        head=["days", "what", "from", "about", "to", "came", "held"] if rows else [],
        rows=rows,
        numbers=frozenset({2, 3, 4, 5}),
    )


def _values(forecast: Forecast) -> list[str]:
    return [_value(forecast.what, value) for value in (forecast.low, forecast.middle, forecast.high)]


def _value(what: str, value: float) -> str:
    return usd(value) if what.endswith("$") else f"{value:,.0f}"
