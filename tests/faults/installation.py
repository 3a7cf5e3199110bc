"""A fresh installation of everything in a temporary folder, run as an operator runs it; nothing of it stays."""

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import psutil

from ops.demo.site import set_key
from ops.demo.traffic.generate import TrafficRow, TrafficSettings, generate, to_jsonl
from ops.demo.traffic.recorded_teacher import RUN_NAME
from ops.imports.importing import import_file
from ops.init import init
from ops.readers.tasks import open_reader
from ops.settings import SETTINGS_NAME, Settings
from ops.site import Site
from ops.state.run_files import read_run_file
from ops.status.collect import collect, local_versions
from ops.status.report import LaneStatus
from store.event import Lane, TextInput
from store.redact import redact
from store.registry.moves import fold
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from tests.faults.claims import Standing

LANE: Final = Lane("acme", "support")
_IMPORTED: Final = 300  # rows of each import, of these intents, which are easy to tell apart
_FIRST_INTENTS: Final = frozenset(
    {
        *("damaged_item", "exchange_size", "password_reset", "close_account"),
        *("gift_card_balance", "discount_code", "payment_declined", "speak_to_human"),
    }
)
_ROWS: Final = 3000
_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
_STOP_S: Final = 15.0  # for all processes together, before they are killed
_TAIL_LINES: Final = 40


class InstallationError(Exception):
    """Something did not come about; the message says what, and holds the end of what the processes wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Everything of one installation, seen from outside."""

    folder: Path
    site: Site
    settings_file: Path
    log_file: Path  # what `run all` and its children write
    known: Sequence[TrafficRow]  # of the first import, which the first version is made of, and of one more
    traffic: Sequence[str]  # all sorts, also questions that it was never taught

    def gateway_url(self) -> str | None:
        """Where the gateway is; after a restart it has another port."""
        found = read_run_file(self.site.run_directory, "serve")
        return None if found is None or found.port is None else f"http://127.0.0.1:{found.port}"

    def pid(self, process: str) -> int | None:
        """The process, where it runs and has said so."""
        found = read_run_file(self.site.run_directory, process)
        return None if found is None else found.pid

    def ready(self, process: str) -> bool:
        """Whether the process says that it is."""
        found = read_run_file(self.site.run_directory, process)
        if found is None or found.admin_port is None:
            return False
        with suppress(httpx.HTTPError):
            answer = httpx.get(f"http://127.0.0.1:{found.admin_port}/readyz", timeout=_ANSWER_S, trust_env=False)
            return answer.status_code == httpx.codes.OK
        return False

    def standing(self) -> Standing:
        """The chain of moves, verified."""
        moves = self.site.registry.moves(LANE).read()
        return Standing(
            champion=fold(moves).champion, moves=tuple(msgspec.json.encode(move).decode() for move in moves)
        )

    def served(self) -> set[str | None]:
        """What the gateway says it serves."""
        return set(local_versions(self.site).get(str(LANE), {}).values())

    def status(self) -> LaneStatus:
        """`understudy status`, of the lane."""
        return collect(self.site, self.site.lanes(None)).lanes[0]

    def cycles(self) -> list[dict[str, Any]]:
        """The cycles that have reached a verdict."""
        path = self.site.run_directory / "cycles.jsonl"
        ended = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        return [cycle for cycle in ended if cycle["verdict"] != "error"]

    def cycles_begun(self) -> int:
        """The cycles that the trainer says it has begun, those that were killed among them."""
        return self.log_file.read_bytes().count(b'"cycle begins"')

    def import_rows(self, number: int) -> None:
        """`understudy import` of the first 300 rows (number 0) or the next (1); a cycle is asked for with them.

        Raises:
            InstallationError: ingest did not take them.
        """
        path, section = self.folder / f"import-{number}.jsonl", self.site.lane(None)
        rows = list(self.known[number * _IMPORTED : (number + 1) * _IMPORTED])
        path.write_text("".join(f"{line}\n" for line in to_jsonl(rows)), "utf-8")
        reader = open_reader(section.task, path, {}, labels=section.labels)
        report = import_file(self.site, section, path, reader, seen=lambda: None)
        if not report.cycle_asked or report.published != _IMPORTED:
            message = f"the import did not come through: {report}"
            raise self.failed(message)

    def run(self, *command: str, deadline_s: float) -> tuple[int, dict[str, Any]]:
        """Run a command of the CLI; its exit code and what it printed.

        Raises:
            InstallationError: it printed no JSON, or took too long.
        """
        try:
            ran = subprocess.run(
                [*_python(self.folder), "ops.cli", *command, "-o", "json", "--config", str(self.settings_file)],
                cwd=self.folder,
                capture_output=True,
                timeout=max(1.0, deadline_s - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"`understudy {' '.join(command)}` did not end in time"
            raise self.failed(message) from error
        try:
            return ran.returncode, json.loads(ran.stdout)
        except ValueError as error:
            message = f"`understudy {' '.join(command)}`: {ran.stderr.decode(errors='replace')[-1000:]}"
            raise self.failed(message) from error

    def item_of(self, text: str) -> str:
        """The item id that the gateway gives a text."""
        secret = self.site.secret
        redacted = TextInput(text=redact(text, secret.redaction_key(LANE)))
        return item_id(secret.lane_key(LANE), ClassifyRules(), redacted)

    def until(self, what: str, condition: Callable[[], bool], deadline_s: float) -> None:
        """Poll until the condition holds.

        Raises:
            InstallationError: it did not in time.
        """
        while not condition():
            if time.monotonic() > deadline_s:
                message = f"not in time: {what}"
                raise self.failed(message)
            time.sleep(_POLL_S)

    def failed(self, message: str) -> InstallationError:
        """The error, with the end of the log."""
        lines = self.log_file.read_text("utf-8", "replace").splitlines() if self.log_file.exists() else []
        return InstallationError("\n".join([message, *lines[-_TAIL_LINES:]]))


@contextmanager
def installation(
    seed: int,
    deadline_s: float,
    *,
    state: Callable[[Path], AbstractContextManager[object]] = nullcontext,
    port: int = 0,
) -> Iterator[Installation]:
    """A running installation with a champion; the folder and every process are gone after it.

    Args:
        seed: of the traffic.
        deadline_s: monotonic seconds.
        state: prepares the state directory, and cleans up after all processes have ended (a disk of its own).
        port: of the gateway; 0: any free one.

    Raises:
        InstallationError: it did not come about before `deadline_s`, or something outlived the stop.
    """
    with tempfile.TemporaryDirectory(prefix="us-kill-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        rows = generate(TrafficSettings(seed=seed, rows=_ROWS))
        made = _prepare(folder, rows)
        try:
            with state(folder / "state"), _teacher(folder) as teacher_port:
                _configure(made, teacher_port, sorted({row.label for row in rows}), port)
                loaded = Installation(
                    folder=folder,
                    site=Site(Settings.load(made)),
                    settings_file=made,
                    log_file=folder / "all.log",
                    known=[row for row in rows if row.intent in _FIRST_INTENTS][: 2 * _IMPORTED],
                    traffic=[row.text for row in rows],
                )
                with _running(folder, loaded.log_file, "ops.cli", "run", "all", "--config", str(made)):
                    _crown_the_first(loaded, deadline_s)
                    yield loaded
        finally:
            _nothing_works_in(folder)


def _prepare(folder: Path, rows: list[TrafficRow]) -> Path:
    """The settings file of a fresh installation, beside what the teacher says."""
    init(folder)
    (folder / "teacher.jsonl").write_text("".join(f"{line}\n" for line in to_jsonl(rows)), "utf-8")
    return folder / SETTINGS_NAME


def _configure(file: Path, teacher_port: int, labels: list[str], port: int) -> None:
    """What a quick first version asks for, and cycles only when they are asked for."""
    text = file.read_text("utf-8")
    for (table, key), value in {
        ("gateway", "port"): port,
        ("admin", "serve_port"): 0,
        ("admin", "ingest_port"): 0,
        ("admin", "train_port"): 0,
        ("trainer", "min_new_labels"): 100_000,
        ("trainer", "min_items_per_label"): 5,
        ("trainer", "fine_tune"): False,
        ("trainer", "quarantine_s"): 0.0,
        ("split", "calibrate_ratio"): 0.4,
        ("lanes", "tenant"): LANE.tenant,
        ("lanes", "use_case"): LANE.use_case,
        ("lanes", "labels"): labels,
        ("lanes", "training_permitted"): True,
        ("lanes", "audit_ratio"): 0.15,
        ("lanes.promise", "target"): 0.9,
        ("lanes.budget", "calls_per_day"): 100_000,
        ("lanes.teacher", "base_url"): f"http://127.0.0.1:{teacher_port}/v1",
    }.items():
        text = set_key(text, table, key, value)
    file.write_text(text, "utf-8")


def _crown_the_first(made: Installation, deadline_s: float) -> None:
    made.until("ingest is ready", lambda: made.ready("ingest"), deadline_s)
    made.import_rows(0)
    made.until("a first cycle", lambda: bool(made.cycles()), deadline_s)
    champion = made.standing().champion
    if champion is None:
        message = f"no first champion: {made.cycles()}"
        raise made.failed(message)
    made.until("the champion serves", lambda: made.ready("serve") and made.served() == {champion}, deadline_s)
    made.until("train is ready", lambda: made.ready("train"), deadline_s)


@contextmanager
def _teacher(folder: Path) -> Iterator[int]:
    """The recorded teacher; its port."""
    places = ("--table", str(folder / "teacher.jsonl"), "--prompt-file", str(folder / "prompts" / "classify.txt"))
    with _running(
        folder, folder / "teacher.log", "ops.demo.traffic.recorded_teacher", *places, "--run-folder", str(folder)
    ):
        deadline_s = time.monotonic() + 30.0
        while (found := read_run_file(folder, RUN_NAME)) is None or found.port is None:
            if time.monotonic() > deadline_s:
                raise InstallationError((folder / "teacher.log").read_text("utf-8", "replace")[-2000:])
            time.sleep(_POLL_S)
        yield found.port


@contextmanager
def _running(folder: Path, log: Path, *module: str) -> Iterator[None]:
    """Run `python -m module` in a session of its own; it and all that came from it end with the context."""
    libc = ctypes.CDLL(None)

    def die_with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_python(folder), *module],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone
            umask=0,  # whatever it is, what an installation keeps is for its owner alone
            preexec_fn=die_with_us,  # noqa: PLW1509 - no threads of ours run yet
        )
    try:
        yield
    finally:
        _stop(process)


def _python(folder: Path) -> list[str]:
    """`python -m`, offline, with its temporary files in the folder: those of a killed process must go, too."""
    return ["env", f"TMPDIR={folder / 'tmp'}", "HF_HUB_OFFLINE=1", sys.executable, "-m"]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, and by force what is left of it and of its descendants; no signal cuts it short."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGALRM})
    family = []
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_S)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _nothing_works_in(folder: Path) -> None:
    """See that no process has its working directory in the folder, and kill the ones that have.

    Raises:
        InstallationError: there were some.
    """
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                left.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
                process.kill()
    if left:
        message = "these outlived the stop: " + "; ".join(left)
        raise InstallationError(message)
