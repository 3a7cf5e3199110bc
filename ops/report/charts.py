"""The charts of a report: who answered, and what it cost, day by day."""

from collections.abc import Sequence

from ops.money.dollars import usd
from ops.report.records import DayShown
from ops.show.plot import Plot, ticks

_HEIGHT = 220


def shares_chart(days: Sequence[DayShown]) -> Plot:
    """The share of the answers that the student gave, day by day."""
    plot = Plot("share of the answers that were the student's own", across=_across(days), up=(0.0, 1.0), height=_HEIGHT)
    plot.grid([0.0, 0.25, 0.5, 0.75, 1.0])
    plot.feet(list(range(len(days))), lambda at: days[int(at)].day[5:])
    points = [
        (float(at), one.money.student / (one.money.student + one.money.teacher))
        for at, one in enumerate(days)
        if one.money.student + one.money.teacher
    ]
    plot.line(points, "student")
    for at, share in points:
        plot.dot(at, share, "student", told=f"{days[int(at)].day}: {share:.1%}")
    if points:
        plot.ends([(points[-1][1], "by the student", "student")])
    return plot


def money_chart(days: Sequence[DayShown]) -> Plot | None:
    """What was spent and what the teacher alone would have cost; None where nothing cost anything."""
    spent = [(float(at), one.money.spent_usd) for at, one in enumerate(days)]
    alone = [
        (float(at), one.money.teacher_only_usd) for at, one in enumerate(days) if one.money.teacher_only_usd is not None
    ]
    top = max((value for _, value in [*spent, *alone]), default=0.0)
    if top <= 0:
        return None
    plot = Plot("dollars a day", across=_across(days), up=(0.0, top * 1.08), height=_HEIGHT)
    plot.grid(ticks(0.0, top, 4), usd)
    plot.feet(list(range(len(days))), lambda at: days[int(at)].day[5:])
    ends = [(spent[-1][1], "spent", "student")]
    plot.line(spent, "student")
    if alone:
        plot.line(alone, "escalated", dashes=(6, 4))
        ends.append((alone[-1][1], "teacher alone", "escalated"))
    for points, colour in ((spent, "student"), (alone, "escalated")):
        for at, value in points:
            plot.dot(at, value, colour, size=4, told=f"{days[int(at)].day}: {usd(value)}")
    plot.ends(ends)
    return plot


def _across(days: Sequence[DayShown]) -> tuple[float, float]:
    return 0.0, float(max(1, len(days) - 1))
