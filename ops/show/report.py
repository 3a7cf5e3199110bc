"""`report.html`: one run of the demo as one page that needs nothing but a browser, in the light or in the dark."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from ops.demo.measure import Estimate
from ops.show.charts import CURVES, agreements, escalations
from ops.show.picture import Picture, duration, headline

_STYLE: Final = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#17212b;--soft:#5d6b78;--line:#e3e6e8;--grid:#eef0f1;
--student:#0f7fa8;--answered:#1f8a4c;--system:#6b5bb5;--escalated:#c26f00;--pass:#1f8a4c;--fail:#c62f2f;
--inconclusive:#a97f00;--held:#4a7f9c}
@media (prefers-color-scheme:dark){:root{--paper:#11161b;--card:#181f26;--ink:#e8edf1;--soft:#96a4b1;--line:#2b343d;
--grid:#222a32;--student:#4bb8e0;--answered:#4cc47f;--system:#a597ee;--escalated:#f0a33c;--pass:#4cc47f;--fail:#f0716c;
--inconclusive:#e0bb3f;--held:#7fb4d0}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1144px;margin:0 auto;padding:44px 32px 72px}header p{color:var(--soft);margin:.35em 0 0;max-width:74ch}
h1{font-size:30px;line-height:1.22;letter-spacing:-.012em;margin:0;max-width:36ch;text-wrap:balance}
h2{font-size:17px;margin:44px 0 10px}.kicker{font-size:13px;color:var(--soft);margin:0 0 8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(188px,1fr));gap:12px;margin:28px 0 8px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px}.tile{padding:14px 16px}
.tile b{display:block;font-size:25px;line-height:1.25;letter-spacing:-.01em}
.tile span{color:var(--soft);font-size:13.5px}
.card{padding:16px 18px 8px;overflow-x:auto}.card p{margin:0 0 4px;font-size:14px;color:var(--soft)}
svg{display:block;width:100%;min-width:760px;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg .faint{fill:var(--soft)}svg .grid{stroke:var(--grid)}svg .axis{stroke:var(--line)}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;font-weight:600;color:var(--soft);
padding:8px 12px 6px 0;border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:7px 12px 7px 0;border-bottom:1px solid var(--grid);vertical-align:top}td.n,th.n{text-align:right}
.n+td:not(.n),.n+th:not(.n){padding-left:18px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}.chip{font-weight:600;white-space:nowrap}
.note{border-left:3px solid var(--fail);padding:10px 16px;background:var(--card);margin:24px 0}.note p{margin:2px 0}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:0 44px}
footer{margin-top:48px;color:var(--soft);font-size:13.5px;border-top:1px solid var(--line);padding-top:14px}
.swatch{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.45em}
"""
_PAGE: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Understudy: one run</title><style>$style</style></head><body><main>
<header><p class="kicker">Understudy · one run of the whole loop</p><h1>$headline</h1><p>$lead</p></header>
$broken<div class="tiles">$tiles</div>
<h2>Three agreements with the teacher</h2><div class="card"><p>$legend Each point looks back over 250 requests; bands
are 95 % intervals. Questions that the serving version was trained on are left out.</p>$agreements</div>
<h2>What the teacher still had to answer</h2><div class="card"><p>Share of requests that were escalated.</p>
$escalations</div>
<h2>Cycles and their verdicts</h2>$cycles
<div class="two"><section><h2>Swaps</h2>$swaps</section><section><h2>Where the events went</h2>$events</section></div>
<h2>The same run in windows</h2>$windows
<div class="two"><section><h2>Settings that differ from production's</h2>$settings</section>
<section><h2>Traffic</h2>$traffic</section></div>
<footer>$footer</footer></main></body></html>
""")


def write_report(summary: Mapping[str, Any], picture: Picture, path: Path) -> None:
    """Write the page.

    Args:
        summary: of `ops.demo.summary.build`.
        picture: the same run as curves and marks.
        path: where to; its folder exists.
    """
    path.write_text(page(summary, picture), "utf-8")


def page(summary: Mapping[str, Any], picture: Picture) -> str:
    """The page as HTML; everything that came from outside is escaped."""
    traffic = summary["traffic"]
    return _PAGE.substitute(
        style=_STYLE,
        headline=escape(headline(picture)),
        lead=escape(_lead(summary)),
        broken=_broken(summary["broken_claims"]),
        tiles="".join(_tiles(summary, picture)),
        legend="".join(_legend()),
        agreements=agreements(picture),
        escalations=escalations(picture),
        cycles=_cycles(summary["cycles"]),
        swaps=_swaps(summary["swaps"]),
        events=_pairs({name: f"{value:,}" for name, value in summary["events"].items()}),
        windows=_windows(summary["windows"]),
        settings=_settings(summary["settings_changed"]),
        traffic=_pairs(
            {"source": traffic["path"], "rows": f"{traffic['rows']:,}", "skipped": f"{traffic['skipped']:,}"}
            | {"sha256": f"{traffic['sha256'][:16]}…"}
        ),
        footer=escape(
            "Measured by the client and from the processes' own records: the log, the buffer, the registry, the cycle"
            " and swap logs. The teacher is a recording; what it would have said to each request is therefore known."
        ),
    )


def _lead(summary: Mapping[str, Any]) -> str:
    planted = next((cycle for cycle in summary["cycles"] if cycle["planted"]), None)
    verdict = f" A challenger trained on shuffled labels was judged: {planted['verdict']}." if planted else ""
    rollback = summary["rollback"]
    back = (
        f" An operator's rollback took {rollback['cli_s']:.1f} s, command to answers." if rollback is not None else ""
    )
    sent, versions = summary["requests"]["sent"], sum(cycle["verdict"] == "pass" for cycle in summary["cycles"])
    return f"{sent:,} requests in {summary['wall_s']:.0f} s; {versions} versions were promoted.{verdict}{back}"


def _broken(claims: Sequence[str]) -> str:
    if not claims:
        return ""
    told = "".join(f"<p>{escape(claim)}</p>" for claim in claims)
    return f'<div class="note"><strong>Not everything held.</strong>{told}</div>'


def _tiles(summary: Mapping[str, Any], picture: Picture) -> list[str]:
    requests, promise, events = summary["requests"], summary["promise"], summary["events"]
    last = next((w["escalated_ratio"] for w in reversed(summary["windows"]) if w["escalated_ratio"] is not None), None)
    return [
        _tile(_share(picture.answered), f"of its own answers agree, {promise['target']:.0%} promised"),
        _tile(_share(picture.audits), f"is what the audits alone say; the meter reads {promise['state'] or 'nothing'}"),
        _tile("-" if last is None else f"{last:.1%}", "of the last requests were escalated"),
        _tile(f"{requests['student']:,}", f"answered by the student, {requests['teacher']:,} by the teacher"),
        _tile(f"{requests['failed']:,}", f"requests failed; {events['lost']} events lost, {events['twice']} twice"),
    ]


def _tile(value: str, caption: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(caption)}</span></div>'


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
        who = "<br><strong>planted: trained on shuffled labels</strong>" if cycle["planted"] else ""
        rows.append(
            [
                chip,
                f"<code>{escape((cycle['version'] or '-')[:8])}</code>",
                f"{cycle['rows_judged']:,}",
                _signed(cycle["difference"]),
                _signed(cycle["lower"]),
                f"{100 * cycle['delta']:.0f}",
                f"{told}{who}",
            ]
        )
    head = ["verdict", "version", "rows judged", "difference, points", "lower bound", "margin", "reasons"]
    return _table(head, rows, numbers={2, 3, 4, 5})


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
    return _table(["from", "to", "published in"], rows, numbers={2})


def _windows(windows: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [f"{one['first'] + 1:,}-{one['last'] + 1:,}", f"{one['n']:,}", f"{one['trained']:,}"]
        + ["-" if one["escalated_ratio"] is None else f"{one['escalated_ratio']:.1%}"]
        + [_interval(one[name]) for name in ("student_agreement", "answered_agreement", "system_agreement")]
        + [_interval(one["audit_estimate"])]
        for one in windows
    ]
    head = ["requests", "counted", "left out", "escalated", "student", "answered", "system", "audits say"]
    return _table(head, rows, numbers={1, 2, 3})


def _interval(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{found['value']:.1%} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _settings(changed: Mapping[str, Any]) -> str:
    rows = [
        [f"<code>{escape(name)}</code>", escape(str(demo)), escape(str(production))]
        for name, (production, demo) in changed.items()
    ]
    return _table(["setting", "here", "production"], rows, numbers=set())


def _pairs(values: Mapping[str, str]) -> str:
    return _table([], [[escape(name), escape(value)] for name, value in values.items()], numbers=set())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: set[int]) -> str:
    """A table of cells that are HTML already; the columns in `numbers` stand to the right."""

    def cell(tag: str, place: int, value: str) -> str:
        return f"<{tag} class='n'>{value}</{tag}>" if place in numbers else f"<{tag}>{value}</{tag}>"

    title = "".join(cell("th", place, escape(name)) for place, name in enumerate(head))
    body = "".join(f"<tr>{''.join(cell('td', place, value) for place, value in enumerate(row))}</tr>" for row in rows)
    return f'<div style="overflow-x:auto"><table><thead><tr>{title}</tr></thead><tbody>{body}</tbody></table></div>'
