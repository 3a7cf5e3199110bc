"""Pieces of the HTML pages: one file each, in the light or in the dark, that asks nothing of the network."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from string import Template
from typing import Final

from ops.show.sheet import DARK, LIGHT


def _colours(palette: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in palette.items())


_COLOURS: Final = f"""
:root{{color-scheme:light dark;{_colours(LIGHT)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_colours(DARK)}}}}}
@media print{{:root{{color-scheme:light}}}}
"""
_STYLE: Final = """
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1144px;margin:0 auto;padding:44px 32px 72px}header p{color:var(--soft);margin:.35em 0 0;max-width:74ch}
h1{font-size:30px;line-height:1.22;letter-spacing:-.012em;margin:0;max-width:36ch;text-wrap:balance}
h1.lane{margin-top:64px}h2{font-size:17px;margin:44px 0 10px}.kicker{font-size:13px;color:var(--soft);margin:0 0 8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:28px 0 8px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px}.tile{padding:14px 16px}
.tile b{display:block;font-size:25px;line-height:1.25;letter-spacing:-.01em}
.tile span{color:var(--soft);font-size:13.5px}
.card{padding:16px 18px 8px;overflow-x:auto}.card p{margin:0 0 4px;font-size:14px;color:var(--soft)}
.card+div{margin-top:14px}li{margin:6px 0;max-width:96ch}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;font-weight:600;color:var(--soft);
padding:8px 12px 6px 0;border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:7px 12px 7px 0;border-bottom:1px solid var(--grid);vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}
.n+td:not(.n),.n+th:not(.n){padding-left:18px}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}.chip{font-weight:600;white-space:nowrap}
.note{border-left:3px solid var(--fail);padding:10px 16px;background:var(--card);margin:24px 0}.note p{margin:2px 0}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:0 44px}
footer{margin-top:48px;color:var(--soft);font-size:13.5px;border-top:1px solid var(--line);padding-top:14px}
.swatch{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.45em}
svg.narrow{display:none}
@media (max-width:720px){main{padding:28px 16px 48px}h1{font-size:24px}svg.wide{display:none}
svg.narrow{display:block;font-size:13px;overflow:visible}.card{padding:12px 12px 6px;overflow-x:visible}
td,li{overflow-wrap:anywhere}
table.rows thead{display:none}table.rows tr{display:block;padding:8px 0;border-bottom:1px solid var(--line)}
table.rows tr td{display:flex;justify-content:space-between;gap:16px;padding:2px 0;border:0;text-align:right;
white-space:normal}
table.rows tr .n+td:not(.n){padding-left:0}
table.rows td::before{content:attr(data-head);color:var(--soft);text-align:left;flex:none;max-width:50%}
table.rows td:empty{display:none}}
@media print{body{background:none}main{max-width:none;padding:0}.card,.tile,table,svg{break-inside:avoid}
h2,h3{break-after:avoid}svg.wide{display:block}svg.narrow{display:none}}
"""
_DOCUMENT: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title</title><style>$style</style></head><body><main>
$body</main></body></html>
""")


def document(title: str, body: str) -> str:
    """A whole page; `body` is HTML already."""
    return _DOCUMENT.substitute(title=escape(title), style=_COLOURS + _STYLE, body=body)


def tile(value: str, caption: str) -> str:
    """A number that stands out, and what it is."""
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(caption)}</span></div>'


def note(title: str, sentences: Sequence[str]) -> str:
    """Something that a reader must not miss; nothing where there is no sentence."""
    if not sentences:
        return ""
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="note"><strong>{escape(title)}</strong>{told}</div>'


def pairs(values: Mapping[str, str]) -> str:
    """Names and values, one a line."""
    return table([], [[escape(name), escape(value)] for name, value in values.items()], numbers=())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int]) -> str:
    """A table of cells that are HTML already; the columns in `numbers` stand to the right."""

    def cell(place: int, value: str) -> str:
        kind = " class='n'" if place in numbers else ""
        named = f' data-head="{escape(head[place])}"' if place < len(head) else ""
        return f"<td{kind}{named}>{value}</td>"

    title = "".join(
        f"<th class='n'>{escape(name)}</th>" if place in numbers else f"<th>{escape(name)}</th>"
        for place, name in enumerate(head)
    )
    body = "".join(f"<tr>{''.join(cell(place, value) for place, value in enumerate(row))}</tr>" for row in rows)
    top = f"<thead><tr>{title}</tr></thead>" if head else ""
    kind = ' class="rows"' if head else ""  # on a telephone each row is a block of its own, each cell has its name
    return f'<div style="overflow-x:auto"><table{kind}>{top}<tbody>{body}</tbody></table></div>'
