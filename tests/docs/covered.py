"""Which test runs a command line of a page; those that none runs, each with the reason."""

from collections.abc import Iterator
from typing import Final, Literal

from tests.docs.lines import ours_in
from tests.docs.pages import PAGES, sessions_of, typed_in

Way = Literal["as it stands", "tutorial", "site", "curl", "left"]
TUTORIALS: Final = ("docs/tutorials/classify.md", "docs/tutorials/rank.md", "docs/tutorials/chat.md")
PLAYED: Final = TUTORIALS[:1]
"""Those that are played each time; the others among the long tests, but their marked blocks run each time, too."""
REFERENCE: Final = "docs/reference/cli.md"
AFTERWARDS: Final = {(TUTORIALS[2], "understudy show VERSION"), (TUTORIALS[2], "understudy rollback")}
"""Of tutorials, what wants a version, which the few rows that a page shows do not make: typed on a prepared site."""

_MINUTES: Final = "takes minutes; tests/ops/test_backtest_*.py runs backtests of small logs"
_MACHINE: Final = (
    "changes the machine's own packages, users or units; tests/deploy holds the files against the real tools"
)
_LONG: Final = "runs until it is stopped"
LEFT: Final = {
    "make demo": "takes five minutes; tests/ops/test_demo_*.py hold its parts",
    "make test": "is what runs this test",
    "export OPENAI_API_KEY=…": "of the quick start: the tutorials type it",
    "export TEACHER_KEY=…": "is for the proxy, which tests/ops/test_proxy_log.py starts",
    "understudy run": f"{_LONG}: the tutorials start everything, tests/ops/test_run.py each process",
    "UNDERSTUDY_STATE_DIR=state-2": f"{_LONG}: tests/ops/test_run.py starts gateways beside one another",
    "understudy proxy-log": f"{_LONG}: tests/ops/test_proxy_log.py starts it before a teacher",
    "understudy backtest": _MINUTES,
    "understudy cycle start --candidate": "waits 20 s for a trainer; tests/ops/test_cycle_wait.py has one answer",
    "understudy import calls.jsonl": "to a lane of chat, as its tutorial; tests/ops/test_proxy_log.py reads such files",
    "understudy restore before-the-upgrade.tar.zst --force": "moves a running site aside: tests/ops/test_backup.py",
    "../.venv/bin/understudy": "of the quick start: the tutorials of rank and chat type it, and how-to/catalogue.md",
    ".venv/bin/understudy run": "of the quick start: the tutorial of classify starts it",
    ".venv/bin/understudy init": "of the quick start: the tutorials of rank and chat type it",
    "cd ": "of the quick start: the tutorials type it",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True": "wants vLLM, 5.9 GB: `make test-vllm` starts one so",
    "python3.11 -m venv /opt/understudy/.venv": _MACHINE,
    "useradd --system understudy": _MACHINE,
    "sudo -u understudy": _MACHINE,
    "cp deploy/systemd/": _MACHINE,
    "uv tool install": "installs for a user, with a network; tests/ops/test_wheel.py builds the wheel",
    "pipx install": "installs for a user, with a network: as above",
    "uv build --wheel": "as above: tests/ops/test_wheel.py builds it",
}
"""Why a line that begins so is not run."""


def lines() -> Iterator[tuple[str, str]]:
    """Every command line of every page, with its page."""
    yield from ((page, line) for page in PAGES for line in typed_in(page))


def left(line: str) -> str | None:
    """The beginning under which a line is left out."""
    return next((start for start in LEFT if line.startswith(start)), None)


def way(page: str, line: str) -> Way | None:
    """How a line is run, or that it is left; None: nobody has said."""
    plain = " ".join(line.split())
    if any(plain in " ".join(session.script.replace("\\\n", " ").split()) for session in sessions_of(page)):
        return "as it stands"
    if page in TUTORIALS:
        return "site" if (page, line) in AFTERWARDS else "tutorial"
    if left(line) is not None:
        return "left"
    if line.startswith("curl "):
        return "curl"
    return "site" if ours_in(line) is not None else None
