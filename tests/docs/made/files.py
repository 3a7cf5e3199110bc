"""The table of files: one line each, from the first line of a module's docstring or of a script's comment."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from tests.docs.made.markdown import head, page, table

ROOT: Final = Path(__file__).parents[3]
PLACES: Final = {  # in the order of the page, with what stands there where no docstring can say it
    "store": None,
    "stream": None,
    "trainer": None,
    "serve": None,
    "ops": None,
    "deploy": "What an installation needs beside the code: units, alerts, runbooks.",
    "tests": None,
}
OF_ONE: Final = {  # of files that cannot speak for themselves
    "store/escalation-v1.schema.json": "the event's JSON Schema, generated from `store/event.py`",
    "deploy/pictures/backtest.png": "What teacher calls buy on real text: `curve.png` of a backtest",
    "deploy/pictures/published.json": "Published numbers that the backtest's picture draws beside ours",
}
_COMMENTS: Final = {".html": ("{#", "#}"), ".css": ("/*", "*/"), ".js": ("//", "")}  # how one begins and ends
_UNSPOKEN: Final = {"deploy/runbooks", "tests/golden/0.1.0", "tests/golden/0.2.0"}  # a page an alert; what was stored


def files_page() -> str:
    """The whole page."""
    lines = head(
        "Files",
        "the first line of each file's docstring or comment",
        "`ops` imports `stream`, `trainer` and `serve`; they never import one another; all import `store`. A tool says"
        " so (`make check`). Beside each room stand its tests. `deploy/runbooks` has a page for each"
        " [alert](alerts.md), `tests/golden` what each release stores, read by today's code.",
    )
    files = described_files()
    for place, said in PLACES.items():
        lines += [f"## `{place}`", "", said or first_line(ROOT / place / "__init__.py"), ""]
        for folder in sorted({str(PurePosixPath(name).parent) for name in files if name.split("/")[0] == place}):
            own = [name for name in files if str(PurePosixPath(name).parent) == folder]
            if folder != place:
                package = ROOT / folder / "__init__.py"
                lines += [f"### `{folder}`", "", *([first_line(package), ""] if package.is_file() else [])]
            lines += table(("file", "what it is for"), [(f"`{name}`", files[name]) for name in own])
    return page(lines)


def described_files() -> dict[str, str]:
    """What each file of the rooms, of the deployment and of the tests is for."""
    return {
        name: _said(name)
        for name in tracked(PLACES)
        if not name.endswith("__init__.py") and str(PurePosixPath(name).parent) not in _UNSPOKEN
        if not any(name.startswith(f"{folder}/") for folder in _UNSPOKEN)
        if not name.startswith("tests/") or name.endswith(".py")
    }


def tracked(places: Iterable[str]) -> list[str]:
    """The files that git keeps, or would keep, of some folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted({name for name in done.stdout.splitlines() if (ROOT / name).is_file()})


def _said(name: str) -> str:
    said = OF_ONE.get(name) or first_line(ROOT / name)
    return said.removesuffix(".")


def first_line(path: Path) -> str:
    """The first line that a file says of itself."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return text.partition("\n")[0].removeprefix('"""').removesuffix('"""') if text.startswith('"""') else ""
    if path.suffix == ".json":
        return str(json.loads(text)["description"])
    if path.suffix == ".svg":
        return text.partition("<title>")[2].partition("</title>")[0]
    comments = (line for line in text.splitlines() if not line.startswith("#!"))
    begun, ended = _COMMENTS.get(path.suffix, ("#", ""))
    return next(comments).removeprefix("--").removeprefix(begun).removesuffix(ended).strip()
