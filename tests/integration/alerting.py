"""Real Prometheus and Alertmanager on the shipped rules, sped up, and what they say."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "prometheus"
_UNITS_MS: Final = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
_ONE: Final = r"(?:\d+(?:ms|[smhd]))+"
_DURATION: Final = re.compile(rf"(?P<before>\bfor: |\[|\boffset )(?P<one>{_ONE})(?:(?P<colon>:)(?P<step>{_ONE})?)?")
_LEAST_MS: Final = 1000
_READY_S: Final = 60.0


def sped_up(rules: str, factor: float, *, least_ms: int = _LEAST_MS) -> str:
    """The rules with every `for:`, range, step and offset divided by a factor; all else is as it is shipped.

    A range shorter than three scrapes has no rate, so none becomes shorter than `least_ms`; `for:` may.
    """

    def shorter(found: re.Match[str]) -> str:
        least = 0 if found["before"] == "for: " else least_ms
        step = "" if found["step"] is None else _written(found["step"], factor, least)
        return f"{found['before']}{_written(found['one'], factor, least)}{found['colon'] or ''}{step}"

    return _DURATION.sub(shorter, rules)


def _written(duration: str, factor: float, least_ms: int) -> str:
    return f"{max(round(duration_ms(duration) / factor), least_ms)}ms"


def duration_ms(duration: str) -> int:
    """A duration as Prometheus writes it, in milliseconds."""
    return sum(int(number) * _UNITS_MS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", duration))


def promised_s(rules: str, alert: str, *, factor: float = 1.0) -> float:
    """Within what time a rule promises to fire: its `for:` and its longest range but the one that only looks back.

    Ranges of a day are how long something is remembered, ranges of hours what is summed over: they need not be full.
    """
    rule = rules.partition(f"- alert: {alert}\n")[2].partition("- alert: ")[0]
    waits = sum(duration_ms(one) for one in re.findall(rf"\bfor: ({_ONE})", rule))
    ranges = [duration_ms(one) for one in re.findall(rf"\[({_ONE})\]", rule)]
    return (waits + max((one for one in ranges if one < duration_ms("1h")), default=0)) / 1000 / factor


def program(name: str, *arguments: str) -> str:
    """Run a program of Prometheus'; what it printed. Missing: a skip at a desk, a failure in CI."""
    done = subprocess.run([_found(name), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _found(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert "CI" not in os.environ, f"{name} is missing: run deploy/setup-services"  # noqa: TID251
        pytest.skip(f"{name} is missing: run deploy/setup-services")
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _told(_alert: str) -> bool:
    """Where there is no Alertmanager, there is nothing to wait for."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A running Prometheus."""

    url: str
    log: Path
    told: Callable[[str], bool] = _told  # whether Alertmanager has passed on that an alert fires

    def ask(self, path: str, **query: str) -> Any:
        """An answer of its API."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=20.0, trust_env=False)
        answer.raise_for_status()
        return answer.json()["data"]

    def firing(self, **labels: str) -> set[str]:
        """The alerts that fire now, of those that have these labels."""
        return {
            alert["labels"]["alertname"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing" and labels.items() <= alert["labels"].items()
        }

    def fired_s(self, alert: str, *, since_s: float) -> float:
        """When an alert fired first since a Unix time, by its own record: we may have looked much later. 0: not yet."""
        window = f"{max(1, round((time.time() - since_s) * 1000))}ms"  # noqa: TID251 - its clock
        query = f'ALERTS{{alertname="{alert}",alertstate="firing"}}[{window}]'
        found = self.ask("query", query=query)["result"]
        return min((float(at) for series in found for at, _ in series["values"]), default=0.0)

    def sees(self, job: str) -> bool:
        """Whether it has read a process's metrics."""
        return bool(self.ask("query", query=f'understudy_process_info{{job="{job}"}}')["result"])

    def looks(self, since_s: float, until_s: float) -> float:
        """How often it has looked between two Unix times: its own seconds, which a busy machine makes longer."""
        window = f"{max(1, round((until_s - since_s) * 1000))}ms"
        query = f'count_over_time(up{{job="prometheus"}}[{window}])'
        found = self.ask("query", query=query, time=str(until_s))["result"]
        return float(found[0]["value"][1]) if found else 0.0


@contextmanager
def prometheus(folder: Path, rules: str, targets: dict[str, int], *, tell: int | None = None) -> Iterator[Watch]:
    """Prometheus on rules and admin ports (job -> port), looking every second; `tell` is Alertmanager's port."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "understudy.rules.yml").write_text(rules, "utf-8")
    port = free_port()
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{at}"]}]}
        for job, at in {**targets, "prometheus": port}.items()
    ]
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["understudy.rules.yml"],
        "scrape_configs": jobs,
    }
    if tell is not None:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{tell}"]}]}]}
    (folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
    command = [
        _found("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with _running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready"):
        yield Watch(url=f"http://127.0.0.1:{port}", log=folder / "prometheus.log")


@contextmanager
def alertmanager(folder: Path, receiver: int) -> Iterator[int]:
    """Alertmanager on the shipped example, which sends to a port of ours; its own port."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = (FOLDER / "alertmanager.yml").read_text("utf-8")
    ours = re.sub(
        r"(group_wait|group_interval): \w+", r"\1: 1s", shipped.replace("127.0.0.1:9095", f"127.0.0.1:{receiver}")
    )
    (folder / "alertmanager.yml").write_text(ours, "utf-8")
    port = free_port()
    command = [
        _found("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log", f"http://127.0.0.1:{port}/-/ready"):
        yield port


@contextmanager
def _running(command: list[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + _READY_S
            while not _answers(ready):
                said = log.read_text("utf-8", "replace")[-3000:]
                assert process.poll() is None, said
                assert time.monotonic() < deadline_s, said
                time.sleep(0.1)
            yield
        finally:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, and remembers which alert came on which path with which status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.heard: set[tuple[str, str, str]] = set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def begun(self) -> set[str]:
        """The alerts that were told as firing."""
        return {alert for _, alert, status in list(self.heard) if status == "firing"}

    @property
    def ended(self) -> set[str]:
        """Those that were told as resolved."""
        return {alert for _, alert, status in list(self.heard) if status == "resolved"}


class _Hook(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
            self.server.heard.add((self.path, alert["labels"]["alertname"], alert["status"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A running receiver."""
    with ExitStack() as stack:
        server = stack.enter_context(Receiver())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server
