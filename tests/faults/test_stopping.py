"""SIGTERM in the middle of a backlog: every request is answered or told why not, every paid call has its event."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from ops.open_log import open_history
from ops.state.run_files import read_run_file
from tests.faults.claims import read_log
from tests.faults.slow_teacher import SlowTeacher, slow_teacher
from tests.ops.children import REPOSITORY, until
from tests.ops.sites import LANE, make_site, open_site

START_S = 240.0  # a slow machine imports torch


class Clients:
    """Many at once, each with one question; what came back."""

    def __init__(self, url: str, texts: list[str]) -> None:
        self.answers: list[httpx.Response] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(url, text)) for text in texts]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(120)

    def _ask(self, url: str, text: str) -> None:
        body = {"model": LANE.use_case, "input": text}
        headers = {"X-Understudy-Force": "teacher"} if text.startswith("unsure") else {}  # or most would be shed
        try:
            self.answers.append(
                httpx.post(f"{url}/v1/classify", json=body, headers=headers, timeout=110.0, trust_env=False)
            )
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")


@contextmanager
def gateway(settings: Path, student_s: float, cut_s: float) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real one that serves; its address."""
    log = settings.parent / "serve.log"
    command: list[str | Path] = [sys.executable, "-m", "tests.faults.stopping", settings, str(student_s), str(cut_s)]
    with log.open("wb") as output, subprocess.Popen(command, cwd=REPOSITORY, stderr=output) as process:
        try:
            directory = open_site(settings).run_directory
            until(lambda: b'"swapped"' in log.read_bytes(), seconds=START_S)
            until(lambda: read_run_file(directory, "serve") is not None, seconds=START_S)
            record = read_run_file(directory, "serve")
            assert record is not None
            yield process, f"http://127.0.0.1:{record.port}"
        finally:
            process.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("student_s", "teacher_s", "cut_s"),
    [
        (0.2, 0.7, 80.0),  # all of it can be done, on a machine many times slower, too
        (0.2, 2.0, 2.0),  # most wait for the teacher when they are cut
        (15.0, 1.0, 3.0),  # the student is in the middle of a forward pass when all else is over
    ],
)
def test_sigterm_with_a_backlog_ends_in_order(
    tmp_path: Path, redis_url: str, student_s: float, teacher_s: float, cut_s: float
) -> None:
    with slow_teacher(teacher_s) as teacher:
        settings = make_site(
            tmp_path / "site", url=f'"{redis_url}"', base_url=f'"http://127.0.0.1:{teacher.server_port}/v1"'
        )
        with gateway(settings, student_s, cut_s) as (process, url):
            until(lambda: _is_answered(url), seconds=START_S)  # it knows its budget
            clients = Clients(url, [f"{'unsure' if one % 4 else 'sure'} {one}" for one in range(120)])
            until(lambda: teacher.asked > 4, seconds=30.0)
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                os.kill(process.pid, number)  # the first one counts, the others change nothing
                time.sleep(0.05)
            process.wait(120)
            os_says = (settings.parent / "serve.log").read_text("utf-8")
            clients.wait()
        assert process.returncode == 0, os_says[-3000:]
        for word in ("terminate called", "Traceback", "Exception", "never retrieved", "cut off"):
            assert word not in os_says, os_says[-6000:]
        assert clients.failures == []
        codes = Counter(answer.status_code for answer in clients.answers)
        assert sum(codes.values()) == 120
        assert set(codes) <= {200, 429, 503}, codes
        reasons = {answer.json()["error"]["code"] for answer in clients.answers if answer.status_code == 503}
        assert all(reasons)
        _each_paid_call_has_its_event(settings, clients, teacher)
        if cut_s > 10:
            assert codes[503] == 0, reasons
            assert codes[200] >= 90, codes  # those that only the teacher can answer
        else:
            assert codes[503] > 4


def _is_answered(url: str) -> bool:
    first = Clients(url, ["unsure"])
    first.wait()
    return [answer.status_code for answer in first.answers] == [httpx.codes.OK]


def _each_paid_call_has_its_event(settings: Path, clients: Clients, teacher: SlowTeacher) -> None:
    site = open_site(settings)
    with redis.Redis.from_url(site.redis_url()) as client, open_history(site, client) as history:
        found = [event_id for event_id, _ in read_log(history, LANE, site.secret.lane_key(LANE))]
    assert len(found) == len(set(found)) == teacher.asked
    answered = [one for one in clients.answers if one.status_code == 200]
    data = [json.loads(one.content)["data"][0] for one in answered]
    accepted = {one["event_id"] for one in data if one["served_by"] == "teacher"}
    assert accepted <= set(found)
