"""A gateway that is flooded with connections answers requests, probes and a rollback, and its log stays small."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.state.run_files import RunFile, read_run_file
from tests.ops.children import REPOSITORY, until
from tests.ops.sites import make_site, open_site, publish

FILES = 256
IDLE = 400
START_S = 90.0


@contextmanager
def gateway(settings: Path, log: Path) -> Iterator[RunFile]:
    """A real gateway process that may have 256 files open."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "run", "serve", "-c", settings],
            cwd=REPOSITORY,
            stderr=errors,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),  # noqa: PLW1509 - no threads yet
        ) as process,
    ):
        try:
            directory = open_site(settings).run_directory
            until(lambda: read_run_file(directory, "serve") is not None or process.poll() is not None, seconds=START_S)
            record = read_run_file(directory, "serve")
            assert record is not None, log.read_text()
            yield record
        finally:
            process.terminate()
            process.wait(60)


def idle(stack: ExitStack, port: int | None, connections: int) -> None:
    """Open connections that never say a thing."""
    for _ in range(connections):
        one = stack.enter_context(socket.socket())
        one.settimeout(START_S)
        with contextlib.suppress(ConnectionError):
            one.connect(("127.0.0.1", port))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


def rollback(settings: Path) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "rollback", "-c", settings, "-o", "json"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        timeout=START_S,
    )
    return done.returncode, json.loads(done.stdout)


def test_idle_connections_stop_neither_requests_nor_probes_and_the_log_stays_small(
    settings: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with gateway(settings, log) as record, ExitStack() as stack:
        for port in (record.port, record.admin_port):
            idle(stack, port, IDLE)
        for _ in range(3):
            answer = httpx.post(
                f"http://127.0.0.1:{record.port}/v1/classify", json={"model": "other", "input": "a"}, timeout=START_S
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_model")
            assert httpx.get(f"http://127.0.0.1:{record.admin_port}/livez", timeout=START_S).status_code == 200
            idle(stack, record.port, IDLE)
        metrics = httpx.get(f"http://127.0.0.1:{record.admin_port}/metrics", timeout=START_S).text
        assert 'understudy_connections_closed_total{why="evicted"}' in metrics
        publish(settings, b"one", b"two")
        code, report = rollback(settings)
        assert (code, report["followed"], report["silent"]) == (1, False, [])  # these versions cannot be served
        assert report["served_by"] == {open_site(settings).replica: None}
    assert log.stat().st_size < 20_000, log.read_text()[:5_000]
