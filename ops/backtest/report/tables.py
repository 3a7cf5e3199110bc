"""The tables of a backtest, cell by cell, for the terminal and for the page."""

from dataclasses import dataclass

from ops.backtest.recommend import chosen, quality, score_name, share, signed
from ops.backtest.records import Backtest, Point
from ops.backtest.report.gains import at_random, oracle, per_unit, unit_usd
from ops.backtest.report.words import span
from ops.money.dollars import usd
from ops.show.progress import clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Words in rows and columns."""

    head: list[str]
    rows: list[list[str]]
    marked: int | None = None  # the recommended row

    def beside(self, other: "Grid") -> "Grid":
        """The same rows with the other's columns, but for its first."""
        rows = [mine + theirs[1:] for mine, theirs in zip(self.rows, other.rows, strict=True)]
        return Grid(head=self.head + other.head[1:], rows=rows, marked=self.marked)


def bought(backtest: Backtest) -> Grid:
    """What each budget costs, and the quality that it bought."""
    dollars = bool(backtest.prices.usd_per_call)
    unanswered = any(point.unanswered_ratio for point in backtest.points)
    head = [
        "budget",
        "calls",
        "of all",
        *(["no answer"] if unanswered else []),
        *([span(backtest).strip()] if dollars else []),
    ]
    head += [score_name(backtest), *(["less the teacher's"] if backtest.has_gold else [])]
    rows = [
        [
            f"{point.budget:,}",
            f"{point.calls:,.0f}",
            f"{point.calls_ratio:.0%}",
            *([f"{point.unanswered_ratio:.1%}"] if unanswered else []),
            *([usd(point.usd_per_day)] if dollars else []),
            share(quality(point)),
            *([signed(point.versus_teacher)] if backtest.has_gold else []),
        ]
        for point in backtest.points
    ]
    best = chosen(backtest)
    return Grid(
        head=head,
        rows=rows,
        marked=backtest.points.index(best) if best is not None else None,
    )


def compared(backtest: Backtest) -> Grid:
    """What each budget's answers are like beside the teacher's, and beside other ways of spending it."""
    gold = backtest.has_gold
    others = list(dict.fromkeys(name for point in backtest.points for name in point.others))
    measures = list(dict.fromkeys(name for point in backtest.points for name in point.measures))
    rows = [
        [
            f"{point.budget:,}",
            *([share(point.agreement)] if gold else []),
            *("-" if value is None else f"{value:.1%}" for value in (at_random(point), oracle(point))),
            *("-" if name not in point.others else f"{point.others[name]:.1%}" for name in others),
            *("-" if name not in point.measures else f"{point.measures[name]:.3f}" for name in measures),
        ]
        for point in backtest.points
    ]
    head = ["budget", *(["agreement"] if gold else []), "random", "oracle", *others, *measures]
    return Grid(head=head, rows=rows)


def promised(backtest: Backtest) -> Grid:
    """How the promise fared under each budget; no columns where nothing was promised."""
    if backtest.target is None:
        return Grid(head=["budget"], rows=[[f"{point.budget:,}"] for point in backtest.points])
    rows = [[f"{one.budget:,}", share(one.answered_agreement), _suspended(one, backtest)] for one in backtest.points]
    return Grid(head=["budget", "own answers agree", "promise suspended"], rows=rows)


def priced(backtest: Backtest) -> Grid:
    """What is bought from each budget to the next."""
    dollars = bool(backtest.prices.usd_per_call)
    unit = unit_usd(backtest)
    head = ["from", "to", *([f"${span(backtest)}"] if dollars else []), "gain, points"]
    rows = [
        [
            f"{step.from_budget:,}",
            f"{step.to_budget:,}",
            *([f"+{usd(step.usd_per_day)}"] if dollars else []),
            signed(step.gain),
            *([signed(per_unit(step, unit))] if dollars else []),
            signed(step.gain_per_100_calls),
        ]
        for step in backtest.steps
    ]
    return Grid(head=[*head, *([f"per ${unit:g}{span(backtest)}"] if dollars else []), "per 100 calls"], rows=rows)


def _suspended(point: Point, backtest: Backtest) -> str:
    if point.suspended_ratio == 0:
        return "never"
    return f"{point.suspended_ratio:.1%}{f', {clock(point.suspended_s)}' if backtest.per_day else ''}"
