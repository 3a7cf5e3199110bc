"""One installation as separate real processes, each of which can be killed or have its world broken."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal

import httpx
from typer.testing import CliRunner

from ops.cli.app import app
from ops.open_log import open_appender
from ops.state.run_files import read_run_file
from store.buffer.server import private_redis
from store.event import wall_clock_s
from tests.integration.alerting import FOLDER, Watch, free_port, promised_s, sped_up
from tests.ops.children import REPOSITORY
from tests.ops.sites import LANE, make_site, open_site
from tests.ops.stand import TOPIC

FACTOR: Final = 30.0
SHIPPED: Final = (FOLDER / "understudy.rules.yml").read_text("utf-8")
RULES: Final = sped_up(SHIPPED, FACTOR, least_ms=4000)
DEADLINE_S: Final = 300.0  # for anything, on a machine ten times slower
_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
LONG: Final = "\u5b57" * 19_000  # three bytes each
Mood = Literal["well", "fails", "refuses", "babbles", "slow"]


def _nothing() -> None:
    """What is done while a condition is waited for, unless there is something to do."""


class Teacher(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that can be broken."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.mood: Mood = "well"
        self.label = "refund"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Answer(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        mood = self.server.mood
        if mood == "slow":
            time.sleep(1.0)
        content = "I would rather talk about the weather" if mood == "babbles" else self.server.label
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice]}
        body = json.dumps({**answer, "usage": _USAGE}).encode()
        self.send_response({"fails": 500, "refuses": 401}.get(mood, 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # whoever asked was killed meanwhile
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Rig:
    """A site with its processes, its Redis and its teacher; of the processes only those that are started run."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: str) -> None:
        self.folder = folder
        self.teacher = stack.enter_context(Teacher())
        thread = threading.Thread(target=self.teacher.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.teacher.shutdown)
        self._redis = stack.enter_context(ExitStack())
        self.ports = {name: free_port() for name in ("serve", "ingest", "train")}
        self.settings = make_site(
            folder / "site",
            **{"url": f'"{self._redis.enter_context(private_redis(folder / "redis"))}"'} | settings,
            base_url=f'"{self.teacher.url}"',
            **{f"{name}_port": str(port) for name, port in self.ports.items()},
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self._end)
        self._sent = 0

    def start(self, *names: str, files: int | None = None) -> None:
        """Start processes, with so many files open at most, and wait until each has said where it is."""
        limit = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [*limit, sys.executable, "-m", "ops.cli", "run", name, "-c", str(self.settings)],
                    cwd=REPOSITORY,
                    stdout=log,
                    stderr=log,
                )
        for name in names:
            self.until(f"{name} runs", partial(self._announced, name))

    def _announced(self, name: str) -> bool:
        found = read_run_file(open_site(self.settings).run_directory, name)
        return found is not None and found.pid == self._processes[name].pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process; after SIGKILL it is reaped."""
        self._processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self._processes.pop(name).wait()

    def stop_redis(self) -> None:
        """Redis is gone, and everything that it kept with it on disk."""
        self._redis.close()

    def start_redis(self) -> None:
        """It is back, with what it kept."""
        self._redis.enter_context(private_redis(self.folder / "redis"))

    def change(self, old: str, new: str) -> None:
        """Change the settings file, once."""
        text = self.settings.read_text("utf-8")
        assert text.count(old) == 1, f"{old} is there {text.count(old)} times"
        self.settings.write_text(text.replace(old, new), "utf-8")

    def ask(self, text: str | None = None, *, timeout_s: float = 30.0) -> int:
        """Ask the gateway a question that nobody asked before; the answer's status, 0 where there is none."""
        found = read_run_file(open_site(self.settings).run_directory, "serve")
        if found is None or found.port is None:
            return 0
        self._sent += 1
        question = {"model": LANE.use_case, "input": f"question {self._sent} {text or ''}"}
        try:
            answer = httpx.post(f"http://127.0.0.1:{found.port}/classify", json=question, timeout=timeout_s)
        except httpx.HTTPError:
            return 0
        return answer.status_code

    def fill(self, share: float) -> None:
        """Ask something so long that its event fills most of what the spool lacks of a share of what it may hold."""
        lacks = share * self.metric("understudy_spool_limit_bytes", "serve") - self.metric(
            "understudy_spool_bytes", "serve"
        )
        self.ask(LONG[: max(10, int(lacks / 3 / 2))])

    def publish(self, *values: bytes, age_s: float = 0.0) -> None:
        """Put records on the topic, as another producer does, which the log took so long ago."""
        at_ms = round((wall_clock_s() - age_s) * 1000)
        site = open_site(self.settings)
        with site.redis_client() as client, closing(open_appender(site, client)) as appender:
            for value in values:
                appender.append(TOPIC, key=b"k", value=value, timestamp_ms=at_ms).result(30)

    def connect(self, count: int) -> None:
        """Open connections to the gateway that ask nothing, and close them."""
        found = read_run_file(open_site(self.settings).run_directory, "serve")
        with ExitStack() as stack, suppress(OSError):
            for _ in range(count if found and found.port else 0):
                stack.enter_context(socket.create_connection(("127.0.0.1", found.port if found else None), timeout=5.0))

    def command(self, *arguments: str) -> None:
        """A command of ours, which must succeed."""
        done = CliRunner().invoke(app, [*arguments, "-c", str(self.settings)])
        assert done.exit_code == 0, done.output

    def metric(self, name: str, process: str) -> float:
        """The sum of a metric's samples, as a process says it now; 0 where there is none."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.ports[process]}/metrics", timeout=10.0).text
        except httpx.HTTPError:
            return 0.0
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def ready(self, process: str) -> bool:
        """Whether a process says that it is."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.ports[process]}/readyz", timeout=10.0).status_code == 200
        return False

    def until(self, what: str, condition: Callable[[], object], *, meanwhile: Callable[[], object] = _nothing) -> None:
        """Wait for a condition, doing something in between."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not in time: {what}\n{self.said()}"
            meanwhile()
            time.sleep(0.2)

    def said(self) -> str:
        """The end of what each process wrote."""
        return "\n".join(log.read_text("utf-8", "replace")[-1500:] for log in sorted(self.folder.glob("*.log")))

    def fires(self, watch: Watch, alert: str, *, slack_s: float, meanwhile: Callable[[], object] = _nothing) -> None:
        """See an alert fire, within what its rule promises and `slack_s` of Prometheus' own seconds, and be passed on.

        What ends before Alertmanager's next round is never passed on, so nothing may be mended before.
        """
        began_s = time.time()  # noqa: TID251 - Prometheus' own clock
        self.until(f"{alert} fires", lambda: watch.fired_s(alert, since_s=began_s), meanwhile=meanwhile)
        took = watch.looks(began_s, watch.fired_s(alert, since_s=began_s))
        promised = promised_s(SHIPPED, alert, factor=FACTOR)
        assert took <= promised + slack_s, f"{alert} took {took:.0f} looks, {promised:.0f} are promised"
        self.until(f"{alert} is told", lambda: watch.told(alert), meanwhile=meanwhile)

    def resolves(self, watch: Watch, *alerts: str, meanwhile: Callable[[], object] = _nothing) -> None:
        """See alerts end."""
        for alert in alerts:
            self.until(f"{alert} ends", partial(self._quiet, watch, alert), meanwhile=meanwhile)

    def calm(self, watch: Watch, *, meanwhile: Callable[[], object] = _nothing) -> None:
        """See that only the watchdog fires; else say what does."""
        try:
            self.until("calm", lambda: watch.firing() == {"Watchdog"}, meanwhile=meanwhile)
        except AssertionError as error:
            error.add_note(f"firing: {', '.join(sorted(watch.firing()))}")
            raise

    @staticmethod
    def _quiet(watch: Watch, alert: str) -> bool:
        return alert not in watch.firing()

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def rig(folder: Path, **settings: str) -> Iterator[Rig]:
    """A rig on which nothing runs yet but Redis and the teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield Rig(folder, stack, **settings)
