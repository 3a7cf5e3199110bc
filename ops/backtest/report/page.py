"""`report.html`: what the saving would be, for somebody who decides about it. One file, no network, no script."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from ops.backtest.recommend import chosen, headline, quality, score_name, share, signed, spared_ratio
from ops.backtest.records import Backtest, HardTopic, Run
from ops.backtest.report.charts import calls_over_time, curve, prices
from ops.backtest.report.gains import buys, fewer_cost
from ops.backtest.report.published import PublishedScore
from ops.backtest.report.tables import Grid, bought, compared, priced, promised
from ops.backtest.report.words import skipped, span, warnings
from ops.money.dollars import usd
from ops.show.markup import document, note, pairs, table, tile
from trainer.judge.intervals import wilson

_HOUR: Final = 1 / 24  # of a day
_BODY: Final = Template("""\
<header><p class="kicker">Understudy · backtest of $log</p><h1>$headline.</h1><p>$lead</p></header>
$broken<div class="tiles">$tiles</div>
<h2>What each budget would have given</h2>$budgets
$promise<h2>$score against teacher calls</h2><div class="card"><p>Bands are 95 % intervals. <strong>Random</strong>: the
same student, the same number of calls, on questions drawn at random. <strong>Oracle</strong>: the same student, the
calls exactly where it is wrong and the teacher right; nobody can know that beforehand.</p>$curve</div>
$over_time$prices
<div class="two"><section><h2>Cost and break-even</h2>$costs</section>
<section><h2>Topics that stayed hard, in the last half</h2>$topics</section></div>
<h2>What this rests on</h2>$assumptions
<footer>$footer</footer>
""")
_OVER_TIME: Final = Template("""<h2>Teacher calls over time</h2><div class="card"><p>The recommended setting, one run
in the log's order, in twentieths: how much still went to the teacher, and how good all answers were, with 95 %
intervals.</p>$chart</div>
""")
_PRICES: Final = Template("""<h2>What $more</h2><p>$told</p><div class="card"><p>Points of $score, from each budget
to the next, over the calls between them; shaded: 95 % intervals.</p>$chart</div>$steps
""")
_ASSUMPTIONS: Final = Template("""<ul>
<li>Questions come $order$times</li>
<li>The teacher is the log: what it recorded is what it would say. An answer is learned from only where a call was paid
for; nothing looks ahead, and no true label is ever shown to a student.</li>
<li>$unusable rows have no usable teacher answer: a call there is paid, and teaches nothing.</li>
<li>Training takes no simulated time: a new version serves from the row after which it was due. Live it comes seconds to
minutes later, and a label is learned from after an hour (<code>trainer.quarantine_s</code>), here only if
<code>--settings</code> says so.</li>
<li>A budget is one sum for the whole log, paced over its rows. Live it is a sum for any 24 hours.</li>
<li>The score is $score over all answers, the teacher's and the student's, $truth.</li>
<li>An interval covers two kinds of chance: seeds differ (Student's t over them), and the log's rows are a sample of
what is to come (Wilson; where two settings are compared, row by row on the same rows). It does not cover traffic that
changes.</li>
<li>Break-even charges all of the log's training on its first day.</li>
$task$policy</ul>""")
_RANKING: Final = Template("""<li>Two rankings agree where nobody loses more than the tolerance, in the teacher's own
scores, at any of the first places ($agreement); by an order alone, where the first places hold the same documents. nDCG
and τ stand beside it: they are told, and never promised. <em>First</em>: the same student, the calls on the first
questions. <em>Untrained</em>: the order of the cosines of the base encoder. Of the tolerance: $proposal.</li>
""")
_BUDGET_ONLY: Final = Template("""<li>A budget without a target promises a bill, not a quality: where traffic becomes
harder, calls do not become more and answers become worse. <code>--target</code> promises agreement instead.</li>""")
_PROMISE: Final = Template("""<li>The promise: of what the student answers by its own decision, $target is to agree with
the teacher. The budget is then a ceiling; where it binds, the promise is suspended: the table says for how long. Before
a version is certified the student answers nothing: a question then gets no answer once the budget, less what is kept
for audits, is spent.</li>""")


def write_page(backtest: Backtest, path: Path, published: Sequence[PublishedScore] = ()) -> None:
    """Write the page; its folder exists."""
    path.write_text(page(backtest, published), "utf-8")


def page(backtest: Backtest, published: Sequence[PublishedScore] = ()) -> str:
    """The page as HTML; everything that came from outside is escaped."""
    name = score_name(backtest)
    body = _BODY.substitute(
        log=escape(backtest.log),
        headline=escape(headline(backtest)),
        lead=escape(_lead(backtest)),
        broken=note("This is not the whole answer.", _missing(backtest))
        + note("To be read first.", warnings(backtest)),
        tiles="".join(_tiles(backtest)),
        budgets=_grid(bought(backtest).beside(compared(backtest))),
        promise=_promise(backtest),
        score=escape(name.capitalize()),
        curve=curve(backtest, published).svg(),
        over_time=_over_time(backtest),
        prices=_prices(backtest),
        costs=pairs(_costs(backtest)),
        topics=_topics(backtest.hard_topics),
        assumptions=_assumptions(backtest),
        footer=escape(_footer(backtest.runs)),
    )
    return document(f"Understudy: backtest of {backtest.log}", body)


def _lead(backtest: Backtest) -> str:
    found = backtest.recommendation
    why = f"That is the recommended setting: {found.why}. " if found is not None else ""
    seeds, budgets = len({run.ask.seed for run in backtest.runs}), len(backtest.points)
    times = f"{_number(budgets, 'budget')}, {_number(seeds, 'seed')}"
    quiet = skipped(backtest)
    return (
        f"{why}{backtest.rows:,} questions{_over(backtest)}, {_labels(backtest)}, replayed through"
        f" the service's own parts {_number(len(backtest.runs), 'time')}: {times}. {quiet}"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _missing(backtest: Backtest) -> list[str]:
    found = []
    if not backtest.complete:
        found.append("The backtest ended before every run had: budgets are missing, or rest on fewer seeds than asked.")
    return found


def _tiles(backtest: Backtest) -> list[str]:
    point, found = chosen(backtest), backtest.recommendation
    if point is None or found is None:
        return []
    calls = tile(f"{spared_ratio(backtest, point):.0%}", "of the teacher's calls the student would spare")
    money = tile(
        usd(found.saved_usd_per_day), f"saved{span(backtest)} of {usd(backtest.teacher_usd_per_day)}, training paid"
    )
    tiles = [money, calls] if backtest.prices.usd_per_call else [calls]
    if point.unanswered_ratio:
        tiles.append(tile(f"{point.unanswered_ratio:.1%}", "of the questions nobody would answer"))
    tiles.append(tile(f"{quality(point).mean:.1%}", f"{score_name(backtest)}, {_bounds(share(quality(point)))}"))
    if backtest.has_gold and point.versus_teacher is not None:
        away = signed(point.versus_teacher)
        tiles.append(tile(f"{away.split(' ')[0]} points", f"against the teacher alone, {_bounds(away)}"))
    if backtest.target is not None and point.answered_agreement is not None:
        told = f"of its own answers agree, {backtest.target:.0%} promised, {_bounds(share(point.answered_agreement))}"
        tiles.append(tile(f"{point.answered_agreement.mean:.1%}", told))
    if backtest.prices.usd_per_call:
        tiles.append(tile(_until(backtest, found.break_even_days), "until the training has paid for itself"))
    return tiles


def _bounds(shown: str) -> str:
    return f"95 % interval {shown.partition(' ')[2]}"


def _grid(grid: Grid) -> str:
    rows = [
        [f"<strong>{escape(cell)}</strong>" if place == grid.marked else escape(cell) for cell in row]
        for place, row in enumerate(grid.rows)
    ]
    return table(grid.head, rows, numbers=range(len(grid.head)))


def _promise(backtest: Backtest) -> str:
    if backtest.target is None:
        return ""
    return f"<h2>How the promise of {backtest.target:.1%} fared</h2>{_grid(promised(backtest))}\n"


def _over_time(backtest: Backtest) -> str:
    point = chosen(backtest)
    runs = [run for run in backtest.runs if point is not None and run.ask.budget == point.budget and run.slices]
    if not runs:
        return ""
    return _OVER_TIME.substitute(chart=calls_over_time(runs[0], has_gold=backtest.has_gold).svg())


def _prices(backtest: Backtest) -> str:
    if not backtest.steps:
        return ""
    more, read = buys(backtest)
    best = chosen(backtest)
    after = next((step for step in backtest.steps if best is not None and step.from_budget == best.budget), None)
    before = next((step for step in backtest.steps if best is not None and step.to_budget == best.budget), None)
    told = [f"From the recommended setting on, {more} {signed(read(after))} points."] if after else []
    told += [f"Below it, {fewer_cost(backtest)} {signed(read(before))} points."] if before else []
    return _PRICES.substitute(
        more=escape(more),
        told=escape(" ".join(told)),
        score=escape(score_name(backtest)),
        chart=prices(backtest).svg(),
        steps=_grid(priced(backtest)),
    )


def _costs(backtest: Backtest) -> dict[str, str]:
    point, found = chosen(backtest), backtest.recommendation
    if point is None or found is None:
        return {}
    price = backtest.prices
    if not price.usd_per_call:
        calls = f"{point.calls / backtest.days:,.0f} of {backtest.rows / backtest.days:,.0f}"
        return {f"teacher calls{span(backtest)}": calls, "in dollars": "give --usd-per-call"}
    per = span(backtest)
    year = f", {usd(365 * found.saved_usd_per_day)} a year at this traffic" if backtest.per_day else ""
    return {
        "a teacher call": f"${price.usd_per_call:g}",
        "an hour of training": f"${price.usd_per_training_hour:g} of processor time",
        "the teacher alone": f"{usd(backtest.teacher_usd_per_day)}{per}",
        "the teacher's calls with Understudy": f"{usd((point.usd - point.training_usd) / backtest.days)}{per}",
        "training": f"{usd(point.training_usd / backtest.days)}{per}",
        "saved": f"{usd(found.saved_usd_per_day)}{per}{year}",
        "training has paid for itself": f"after {_until(backtest, found.break_even_days)}",
    }


def _over(backtest: Backtest) -> str:
    return f" over {_days(backtest.days)}" if backtest.per_day else ""


def _labels(backtest: Backtest) -> str:
    if backtest.agreement is not None:
        return f"agreement is {backtest.agreement} of the teacher's own scores"
    spelled = f" in {backtest.spellings:,} spellings" if backtest.spellings > backtest.labels else ""
    return f"{backtest.labels} labels{spelled}"


def _until(backtest: Backtest, days: float | None) -> str:
    """A time; where nobody knows how long the log is, in logs of this length."""
    if backtest.per_day:
        return _days(days)
    if days is None:
        return "very many logs like this"
    return f"{days:.0%} of the log" if days <= 1 else f"{days:,.1f} logs like this"


def _days(days: float | None) -> str:
    if days is None:
        return "more than a year"
    if days < 1:
        return f"{24 * days:.1f} hours" if days >= _HOUR else "less than an hour"
    return "a day" if days == 1 else f"{days:,.1f} days"


def _topics(topics: Sequence[HardTopic]) -> str:
    if not topics:
        return "<p>None was found.</p>"
    rows = [
        [escape(one.name), f"{one.rows:,}", _of(one.escalated_ratio, one.rows), _own(one), f"{one.conflicts:,}"]
        for one in topics
    ]
    columns = ["topic", "questions", "to the teacher", "student agrees", "answered otherwise when asked nearly alike"]
    return table(columns, rows, numbers={1, 2, 3, 4})


def _own(topic: HardTopic) -> str:
    return "-" if topic.agreement is None else _of(topic.agreement, topic.rows * (1 - topic.escalated_ratio))


def _of(ratio: float, rows: float) -> str:
    low, high = wilson(ratio * rows, rows)
    return f"{ratio:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def _assumptions(backtest: Backtest) -> str:
    shuffled = any(run.ask.shuffled for run in backtest.runs)
    promised = "-" if backtest.target is None else f"{backtest.target:.1%}"
    return _ASSUMPTIONS.substitute(
        order="in the log's own order with seed 0, and shuffled with every other" if shuffled else "in the log's order",
        times="."
        if backtest.timed
        else f", spread evenly{_over(backtest)}: not every row has a time that can be read.",
        unusable=f"{backtest.unusable:,}",
        score=escape(score_name(backtest)),
        truth="against the log's true labels" if backtest.has_gold else "because the log has no true labels",
        task=_RANKING.substitute(
            agreement=escape(backtest.agreement), proposal=escape(backtest.proposal or "no scores")
        )
        if backtest.agreement is not None
        else "",
        policy=(_BUDGET_ONLY if backtest.target is None else _PROMISE).substitute(target=promised),
    )


def _footer(runs: Sequence[Run]) -> str:
    served = max(run.served_parameters for run in runs)
    seconds = sum(run.seconds for run in runs)
    student = f"a student of {served / 1e6:.1f} million parameters" if served else "no student came to serve"
    return f"{len(runs)} runs, {seconds / 60:,.1f} minutes of replay; {student}. Made by `understudy backtest`."
