"""`report.html`: one run of the demo as one page that needs nothing but a browser, in the light or in the dark."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from ops.demo.measures.measure import Estimate
from ops.demo.page.charts import CURVES, agreements, escalations
from ops.demo.page.picture import Picture, duration, headline, summed_up
from ops.demo.plan import INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK
from ops.money.dollars import usd
from ops.show.markup import document, note, pairs, table, tile
from store.event import Reason

_PRICES: Final = (
    f"Dollars are at assumed prices, ${INPUT_USD_PER_MTOK:g} for a million tokens in and ${OUTPUT_USD_PER_MTOK:g} out;"
    " training is taken to cost nothing beyond the machine. The teacher alone: every answered question at the mean"
    " price of a call. Nothing is told for a day: these minutes are no day's traffic."
)
_BODY: Final = Template("""\
<header><p class="kicker">Understudy · one run of the whole loop</p><h1>$headline</h1><p>$lead</p></header>
$broken$lanes
<h2>Settings that differ from production's</h2>$settings
<footer>$footer</footer>
""")
_LANE: Final = Template("""\
$name<div class="tiles">$tiles</div>
<h2>Three agreements with the teacher</h2><div class="card"><p>$legend Each point looks back over 250 requests; bands
are 95 % intervals. Questions that the serving version was trained on are left out.</p>$agreements</div>
<h2>What the teacher still had to answer</h2><div class="card"><p>Share of requests that were escalated.</p>
$escalations</div>
$why
<h2>Some answers, side by side</h2><p>The latest of each kind.</p>$examples
<h2>Cycles and their verdicts</h2>$cycles
<div class="two"><section><h2>Swaps</h2>$swaps</section><section><h2>Where the events went</h2>$events</section></div>
<h2>The same run in windows</h2>$windows
<h2>Traffic</h2>$traffic
$bought""")


def write_report(summary: Mapping[str, Any], pictures: Mapping[str, Picture], path: Path) -> None:
    """Write the page.

    Args:
        summary: of `ops.demo.measures.summary.build`.
        pictures: each lane's run as curves and marks, by the lane's name.
        path: where to; its folder exists.
    """
    path.write_text(page(summary, pictures), "utf-8")


def page(summary: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """The page as HTML; everything that came from outside is escaped."""
    lanes = summary["lanes"]
    body = _BODY.substitute(
        headline=escape(headline(pictures)),
        lead=escape(_lead(summary)),
        broken=note("Not everything held.", summary["broken_claims"]),
        lanes="".join(_lane(name, lanes[name], picture, len(lanes) > 1) for name, picture in pictures.items()),
        settings=_settings(summary["settings_changed"]),
        footer=escape(
            f"{_PRICES} Measured by the client and from the processes' own records: the log, the buffer, the registry,"
            " the books, the cycle and swap logs. The teacher is a recording; what it would have said to each request"
            " is therefore known."
        ),
    )
    return document("Understudy: one run", body)


def _lane(name: str, lane: Mapping[str, Any], picture: Picture, named: bool) -> str:  # noqa: FBT001 - of this file
    """One lane's part; it has its name where there are several."""
    traffic = lane["traffic"]
    return _LANE.substitute(
        name=f'<h1 class="lane">{escape(name)}</h1><p>{escape(summed_up(picture))}.</p>' if named else "",
        tiles="".join(_tiles(lane, picture)),
        legend="".join(_legend()),
        agreements=agreements(picture).svg(),
        escalations=escalations(picture).svg(),
        why=_why(lane["escalated"]),
        examples=_examples(lane["examples"]),
        cycles=_cycles(lane["cycles"]),
        swaps=_swaps(lane["swaps"]),
        events=pairs({kind: f"{value:,}" for kind, value in lane["events"].items()}),
        windows=_windows(lane["windows"]),
        traffic=pairs(
            {"source": traffic["path"], "rows": f"{traffic['rows']:,}", "skipped": f"{traffic['skipped']:,}"}
            | {"sha256": f"{traffic['sha256'][:16]}…"}
        ),
        bought=_bought(lane["backtest"]) if lane["backtest"] else "",
    )


def _bought(points: Sequence[Mapping[str, Any]]) -> str:
    """What the closing backtest found, and where its own page is."""
    rows = [
        [
            f"{point['calls']:,}",
            *(f"{point[name]:.1%}" for name in ("system_agreement", "random_agreement", "oracle_agreement")),
        ]
        for point in points
    ]
    head = ["teacher calls", "answers that are the teacher's", "the same calls at random", "by an oracle"]
    title = "<h2>The same traffic with a budget instead of a promise</h2>"
    more = '<p>More in <a href="backtest/report.html">the backtest\'s own page</a>.</p>'
    return title + table(head, rows, numbers={0, 1, 2, 3}) + more


def _lead(summary: Mapping[str, Any]) -> str:
    lanes = summary["lanes"].values()
    cycles = [cycle for lane in lanes for cycle in lane["cycles"]]
    planted = next((cycle for cycle in cycles if cycle["planted"]), None)
    verdict = f" A challenger trained on shuffled answers was judged: {planted['verdict']}." if planted else ""
    rollback = next((lane["rollback"] for lane in lanes if lane["rollback"] is not None), None)
    back = (
        f" An operator's rollback took {rollback['cli_s']:.1f} s, command to answers." if rollback is not None else ""
    )
    sent, versions = sum(lane["requests"]["sent"] for lane in lanes), sum(one["verdict"] == "pass" for one in cycles)
    return f"{sent:,} requests in {summary['wall_s']:.0f} s; {versions} versions were promoted.{verdict}{back}"


def _tiles(lane: Mapping[str, Any], picture: Picture) -> list[str]:
    requests, promise, events = lane["requests"], lane["promise"], lane["events"]
    last = next((w["escalated_ratio"] for w in reversed(lane["windows"]) if w["escalated_ratio"] is not None), None)
    return [
        *_money(lane["money"]),
        tile(_share(picture.answered), f"of its own answers agree, {promise['target']:.0%} promised"),
        tile(_share(picture.audits), f"is what the audits alone say; the meter reads {promise['state'] or 'nothing'}"),
        tile("-" if last is None else f"{last:.1%}", "of the last requests were escalated"),
        tile(f"{requests['student']:,}", f"answered by the student, {requests['teacher']:,} by the teacher"),
        tile(f"{requests['failed']:,}", f"requests failed; {events['lost']} events lost, {events['twice']} twice"),
    ]


def _money(money: Mapping[str, Any] | None) -> list[str]:
    if money is None or money["saved_usd"] is None:
        return []
    spent = f"{usd(money['spent_usd'])} spent, {usd(money['audits_usd'])} of it on audits"
    if money["saved_usd"] < 0:
        over = f"more than the {usd(money['teacher_only_usd'])} of the teacher alone; {spent}"
        return [tile(usd(-money["saved_usd"]), over)]
    return [tile(usd(money["saved_usd"]), f"saved of {usd(money['teacher_only_usd'])} for the teacher alone; {spent}")]


def _share(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.1%}"


def _legend() -> list[str]:
    return [
        f'<span class="swatch" style="background:var(--{name})"></span><strong>{name}</strong> {escape(told)}. '
        for name, told, _ in CURVES
    ]


def _cycles(cycles: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for cycle in cycles:
        verdict = escape(cycle["verdict"])
        chip = f'<span class="chip" style="color:var(--{verdict})">{verdict}</span>'
        told = escape("; ".join(cycle["refusals"])) or "nothing against it"
        who = "<br><strong>planted: trained on shuffled answers</strong>" if cycle["planted"] else ""
        rows.append(
            [
                chip,
                f"<code>{escape((cycle['version'] or '-')[:8])}</code>",
                f"{cycle['rows_judged']:,}",
                _signed(cycle["difference"]),
                _signed(cycle["lower"]),
                f"{100 * cycle['delta']:.0f}",
                f"<div>{told}{who}</div>",
            ]
        )
    head = ["verdict", "version", "rows judged", "difference, points", "lower bound", "margin", "reasons"]
    return table(head, rows, numbers={2, 3, 4, 5})


_REASONS: Final[Mapping[Reason, str]] = {
    "cold": "there was no student yet",
    "low_confidence": "the student was not sure enough",
    "novel": "the question was unlike all that the student had learned",
    "audit": "the student had answered, and was checked in the background",
    "bought": "the budget was spent there",
    "budget_margin": "the budget allowed it",
    "forced": "the client wanted the teacher",
    "too_long": "it was longer than a student reads",
    "unsupported": "no student answers such",
    "student_down": "the student gave no answer",
}


def _why(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why the teacher was asked, and whether it had to be."""
    told = [
        [
            f"<div><code>{escape(row['reason'])}</code> {escape(_REASONS[row['reason']])}</div>",
            f"{row['events']:,}",
            _interval(row["student_agreement"]),
        ]
        for row in rows
    ]
    return table(
        ["why the teacher was asked", "events", "of these the student would have been right in"], told, numbers={1}
    )


def _examples(rows: Sequence[Mapping[str, Any]]) -> str:
    told = [
        [
            escape(row["question"]),
            escape(row["teacher"]),
            escape(row["student"]),
            "the same" if row["agreed"] else "another",
            "the student answered" if row["reason"] is None else f"<code>{escape(row['reason'])}</code>",
        ]
        for row in rows
    ]
    return table(["question", "teacher", "student", "", "what was done"], told, numbers=())


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _swaps(swaps: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"<code>{escape((swap['from'] or 'nobody')[:8])}</code>",
            f"<code>{escape(swap['to'][:8])}</code>",
            "failed" if swap["failed"] or swap["publish_s"] is None else duration(swap["publish_s"]),
        ]
        for swap in swaps
    ]
    return table(["from", "to", "published in"], rows, numbers={2})


def _windows(windows: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [f"{one['first'] + 1:,}-{one['last'] + 1:,}", f"{one['n']:,}", f"{one['trained']:,}"]
        + ["-" if one["escalated_ratio"] is None else f"{one['escalated_ratio']:.1%}"]
        + [_interval(one[name]) for name in ("student_agreement", "answered_agreement", "system_agreement")]
        + [_interval(one["audit_estimate"])]
        for one in windows
    ]
    head = ["requests", "counted", "left out", "escalated", "student", "answered", "system", "audits say"]
    return table(head, rows, numbers={1, 2, 3})


def _interval(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['value']:.1%} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _settings(changed: Mapping[str, Any]) -> str:
    rows = [
        [f"<code>{escape(name)}</code>", escape(str(demo)), escape(str(production))]
        for name, (production, demo) in changed.items()
    ]
    return table(["setting", "here", "production"], rows, numbers=())
