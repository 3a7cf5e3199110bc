"""Templates, filled in: everything is escaped, and a name that is missing is an error."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ops.console.views import drawn
from ops.console.web import ROOT
from ops.cycles.shown import cycle_now, length, running_line
from ops.money.dollars import usd
from ops.show.sheet import DARK, LIGHT
from ops.show.values import ratio_of, time_of
from ops.status.shown import STATE_NAMES

_HERE: Final = Path(__file__).parent
_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_LIBRARY: Final = "js_lib_htmx"  # a wheel that holds htmx's files, and nothing that we import


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """The files that pages ask for, by name: content and media type."""
    found = {path.name: path.read_bytes() for path in (_HERE / "static").iterdir() if path.suffix in _TYPES}
    found["console.css"] = _palette().encode() + found["console.css"]
    found["htmx.js"] = _htmx().read_bytes()
    return {name: (data, _TYPES[Path(name).suffix]) for name, data in found.items()}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        {
            "root": ROOT,
            "static": _address,
            "drawn": drawn,
            "cycle_now": cycle_now,
            "running_line": running_line,
            "states_named": STATE_NAMES,
        }
    )
    environment.filters.update(
        {
            "ratio": ratio_of,
            "usd": usd,
            "time": time_of,
            "span": length,
            "shown": _shown,
            "coded": _coded,
            "chart": _chart,
        }
    )
    return environment


def render(name: str, **values: Any) -> str:
    """A template with its values."""
    return _environment().get_template(f"{name}.html").render(**values)


def _address(name: str) -> str:
    """Where a file is asked for: the address changes with its content."""
    return f"{ROOT}/static/{hashlib.sha256(static_files()[name][0]).hexdigest()[:12]}/{name}"


def _shown(value: object) -> str:
    """A value as the commands print it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _coded(text: str) -> Markup:
    """A sentence in which what stands between backquotes is code."""
    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # one that nothing closes
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def _chart(svg: str) -> Markup:
    """A chart of ours, whose words its sheet has escaped."""
    return Markup(svg)  # noqa: S704 - see there


def _palette() -> str:
    def colours(of: Any) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in of.items())

    dark = f"@media (prefers-color-scheme:dark){{:root{{{colours(DARK)}}}}}"
    return f":root{{color-scheme:light dark;{colours(LIGHT)}}}\n{dark}\n"


def _htmx() -> Path:
    spec = find_spec(_LIBRARY)
    if spec is None or spec.origin is None:
        message = f"the package that holds htmx is not installed: {_LIBRARY}"
        raise FileNotFoundError(message)
    return Path(spec.origin).parent / "static" / "htmx" / "htmx.min.js"
