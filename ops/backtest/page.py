"""`report.html`: what a log says about the saving, for somebody who decides about it. One file, no network, no script."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from ops.backtest.curve import at_random, buys, oracle
from ops.backtest.recommend import chosen, headline, quality, score_name, share, signed, usd
from ops.backtest.records import Backtest, HardTopic, Point, Run
from ops.show.curves import calls_over_time, curve, prices
from ops.show.markup import document, note, pairs, table, tile
from ops.show.progress import clock

_BODY: Final = Template("""\
<header><p class="kicker">Understudy · backtest of $log</p><h1>$headline.</h1><p>$lead</p></header>
$broken<div class="tiles">$tiles</div>
<h2>What each budget would have given</h2>$budgets
<h2>$score against teacher calls</h2><div class="card"><p>Bands are 95 % intervals. <strong>Random</strong>: the same
student, the same number of calls, on questions drawn at random. <strong>Oracle</strong>: the same student, the calls
exactly where it is wrong and the teacher right; nobody can know that beforehand.</p>$curve</div>
$over_time$prices
<div class="two"><section><h2>Cost and break-even</h2>$costs</section>
<section><h2>Topics that stayed hard</h2>$topics</section></div>
<h2>What this rests on</h2><ul>$assumptions</ul>
<footer>$footer</footer>
""")
_OVER_TIME: Final = Template("""<h2>Teacher calls over time</h2><div class="card"><p>The recommended setting, one run
in the log's order, in twentieths: how much still went to the teacher, and how good all answers were, with 95 %
intervals.</p>$chart</div>
""")
_PRICES: Final = Template("""<h2>What $more buys</h2><p>$told</p><div class="card"><p>Points of $score, from each budget
to the next, over the calls between them; shaded: 95 % intervals.</p>$chart</div>$steps
""")


def write_page(backtest: Backtest, path: Path) -> None:
    """Write the page; its folder exists."""
    path.write_text(page(backtest), "utf-8")


def page(backtest: Backtest) -> str:
    """The page as HTML; everything that came from outside is escaped."""
    name = score_name(backtest)
    body = _BODY.substitute(
        log=escape(backtest.log),
        headline=escape(headline(backtest)),
        lead=escape(_lead(backtest)),
        broken=note("This is not the whole answer.", _missing(backtest)),
        tiles="".join(_tiles(backtest)),
        budgets=_budgets(backtest),
        score=escape(name.capitalize()),
        curve=curve(backtest),
        over_time=_over_time(backtest),
        prices=_prices(backtest),
        costs=pairs(_costs(backtest)),
        topics=_topics(backtest.hard_topics),
        assumptions="".join(f"<li>{escape(one)}</li>" for one in _assumptions(backtest)),
        footer=escape(_footer(backtest.runs)),
    )
    return document(f"Understudy: backtest of {backtest.log}", body)


def _lead(backtest: Backtest) -> str:
    found = backtest.recommendation
    why = f"That is the recommended setting: {found.why}. " if found is not None else ""
    seeds = len({run.ask.seed for run in backtest.runs})
    return (
        f"{why}{backtest.rows:,} questions over {backtest.days:,.1f} days, {backtest.labels} labels, replayed through"
        f" the service's own parts {len(backtest.runs)} times: {len(backtest.points)} budgets, {seeds} seeds."
    )


def _missing(backtest: Backtest) -> list[str]:
    found = []
    if not backtest.complete:
        found.append("The backtest ended before every run had: budgets are missing, or rest on fewer seeds than asked.")
    if backtest.skipped:
        first = backtest.bad[0]
        found.append(
            f"{backtest.skipped:,} rows of the log were skipped, the first is line {first['line']}: {first['why']}."
        )
    return found


def _tiles(backtest: Backtest) -> list[str]:
    point, found = chosen(backtest), backtest.recommendation
    if point is None or found is None:
        return []
    calls = tile(f"{1 - point.calls_ratio:.0%}", "of the teacher's calls would not be made")
    money = tile(usd(found.saved_usd_per_day), f"saved a day of {usd(backtest.teacher_usd_per_day)}, training paid")
    tiles = [money, calls] if backtest.prices.usd_per_call else [calls]
    tiles.append(tile(f"{quality(point).mean:.1%}", f"{score_name(backtest)}, {_bounds(share(quality(point)))}"))
    if backtest.has_gold and point.versus_teacher is not None:
        away = signed(point.versus_teacher)
        tiles.append(tile(f"{away.split(' ')[0]} points", f"against the teacher alone, {_bounds(away)}"))
    if backtest.target is not None and point.answered_agreement is not None:
        told = f"of its own answers agree, {backtest.target:.0%} promised, {_bounds(share(point.answered_agreement))}"
        tiles.append(tile(f"{point.answered_agreement.mean:.1%}", told))
    if backtest.prices.usd_per_call:
        tiles.append(tile(_days(found.break_even_days), "until the training has paid for itself"))
    return tiles


def _bounds(shown: str) -> str:
    return f"95 % interval {shown.partition(' ')[2]}"


def _budgets(backtest: Backtest) -> str:
    dollars, target = bool(backtest.prices.usd_per_call), backtest.target is not None
    head = ["budget", "calls", "of all", *(["a day"] if dollars else []), score_name(backtest)]
    head += [*(["less the teacher's", "agreement"] if backtest.has_gold else []), "random", "oracle"]
    head += ["own answers agree", "promise suspended"] if target else []
    rows = [_budget_row(backtest, point, dollars=dollars, target=target) for point in backtest.points]
    return table(head, rows, numbers=range(len(head)))


def _budget_row(backtest: Backtest, point: Point, *, dollars: bool, target: bool) -> list[str]:
    cells = [f"{point.budget:,}", f"{point.calls:,.0f}", f"{point.calls_ratio:.0%}"]
    cells += [usd(point.usd_per_day)] if dollars else []
    cells.append(share(quality(point)))
    cells += [signed(point.versus_teacher), share(point.agreement)] if backtest.has_gold else []
    cells += ["-" if value is None else f"{value:.1%}" for value in (at_random(point), oracle(point))]
    cells += [share(point.answered_agreement), _suspended(point)] if target else []
    recommended = chosen(backtest) is point
    return [f"<strong>{escape(cell)}</strong>" if recommended else escape(cell) for cell in cells]


def _suspended(point: Point) -> str:
    if point.suspended_ratio == 0:
        return "never"
    return f"{point.suspended_ratio:.1%} of questions, {clock(point.suspended_s)} h"


def _over_time(backtest: Backtest) -> str:
    point = chosen(backtest)
    runs = [run for run in backtest.runs if point is not None and run.ask.budget == point.budget and run.slices]
    if not runs:
        return ""
    return _OVER_TIME.substitute(chart=calls_over_time(runs[0], has_gold=backtest.has_gold))


def _prices(backtest: Backtest) -> str:
    if not backtest.steps:
        return ""
    more, read = buys(backtest)
    dollars = bool(backtest.prices.usd_per_call)
    head = ["from", "to", *(["a day more"] if dollars else []), "gain, points"]
    head += [*(["for one more dollar a day"] if dollars else []), "for 100 more calls"]
    rows = [
        [f"{step.from_budget:,}", f"{step.to_budget:,}", *([usd(step.usd_per_day)] if dollars else [])]
        + [signed(step.gain), *([signed(step.gain_per_usd_day)] if dollars else [])]
        + [signed(step.gain_per_100_calls)]
        for step in backtest.steps
    ]
    best = chosen(backtest)
    told = []
    for step in backtest.steps:
        if best is not None and step.from_budget == best.budget:
            told.append(f"From the recommended setting on, {more} buys {signed(read(step))} points.")
        if best is not None and step.to_budget == best.budget:
            told.append(f"Below it, {more} bought {signed(read(step))} points: that much less costs as many.")
    return _PRICES.substitute(
        more=escape(more),
        told=escape(" ".join(told)),
        score=escape(score_name(backtest)),
        chart=prices(backtest),
        steps=table(head, rows, numbers=range(len(head))),
    )


def _costs(backtest: Backtest) -> dict[str, str]:
    point, found = chosen(backtest), backtest.recommendation
    if point is None or found is None:
        return {}
    price = backtest.prices
    if not price.usd_per_call:
        calls = f"{point.calls / backtest.days:,.0f} of {backtest.rows / backtest.days:,.0f}"
        return {"teacher calls a day": calls, "in dollars": "give --usd-per-call"}
    return {
        "a teacher call": f"${price.usd_per_call:g}",
        "an hour of training": f"${price.usd_per_training_hour:g} of processor time",
        "the teacher alone": f"{usd(backtest.teacher_usd_per_day)} a day",
        "the teacher's calls with Understudy": f"{usd((point.usd - point.training_usd) / backtest.days)} a day",
        "training": f"{usd(point.training_usd / backtest.days)} a day",
        "saved": f"{usd(found.saved_usd_per_day)} a day, {usd(365 * found.saved_usd_per_day)} a year at this traffic",
        "training has paid for itself": f"after {_days(found.break_even_days)}",
    }


def _days(days: float | None) -> str:
    if days is None:
        return "more than a year"
    return f"{24 * days:.1f} hours" if days < 1 else f"{days:,.1f} days"


def _topics(topics: Sequence[HardTopic]) -> str:
    if not topics:
        return "<p>None was found.</p>"
    rows = [
        [escape(one.name), f"{one.rows:,}", f"{one.escalated_ratio:.0%}"]
        + ["-" if one.agreement is None else f"{one.agreement:.0%}"]
        for one in topics
    ]
    return table(["topic", "questions", "to the teacher, last half", "student agrees"], rows, numbers={1, 2, 3})


def _assumptions(backtest: Backtest) -> list[str]:
    asks = [run.ask for run in backtest.runs]
    order = "in the log's own order"
    if any(ask.shuffled for ask in asks):
        order += " with seed 0, and shuffled with every other seed"
    found = [
        f"Rows come {order}"
        + ("." if backtest.timed else f", spread evenly over {backtest.days:g} days: the log has no times."),
        "The teacher is the log: each question's recorded answer is what it would say, and is learned from only where"
        " a call was paid for. Nothing looks ahead, and no true label is ever shown to a student.",
        f"{backtest.unusable:,} rows have no usable teacher answer: a call there is paid, and teaches nothing.",
        "Training takes no simulated time: a new version serves from the row after which it was due. Live, it comes"
        " seconds to minutes later.",
        "An interval covers two chances: that seeds differ (Student's t over them) and that the log's rows are a sample"
        " of what is to come (Wilson; where two settings are compared, on the same rows). It does not cover traffic"
        " that changes.",
        f"The score is {score_name(backtest)} over all answers, the teacher's and the student's"
        + (", against the log's true labels." if backtest.has_gold else ": the log has no true labels."),
    ]
    if backtest.target is None:
        found.append(
            "A budget without a target promises a bill, not a quality: where traffic becomes harder, answers become"
            " worse and calls do not become more. Give --target for a promise of agreement."
        )
    else:
        found.append(
            f"The promise: of what the student answers itself, {backtest.target:.1%} agrees with the teacher. The budget"
            " is then a ceiling; where it binds, the promise is suspended and the report says for how long."
        )
    return found


def _footer(runs: Sequence[Run]) -> str:
    served = max(run.served_parameters for run in runs)
    seconds = sum(run.seconds for run in runs)
    return (
        f"{len(runs)} runs, {seconds / 60:,.1f} minutes of replay; a student of {served / 1e6:.1f} million parameters."
        " Made by `understudy backtest`."
    )
