"""The admin server answers probes from callables and never dies of one that fails."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from ops.processes.admin import MOST_AT_ONCE, Probes, admin_server
from tests.serve.openapi.played import schemathesis


@contextmanager
def client(probes: Probes, registry: CollectorRegistry) -> Iterator[httpx.Client]:
    with (
        admin_server("127.0.0.1", 0, probes, registry=registry) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        yield http


@pytest.mark.parametrize(("live", "ready"), [(True, True), (True, False), (False, True)])
def test_each_probe_answers_with_its_own_callable(*, live: bool, ready: bool) -> None:
    with client(Probes(live=lambda: live, ready=lambda: ready), CollectorRegistry()) as http:
        assert http.get("/livez").status_code == (200 if live else 503)
        assert http.get("/readyz").status_code == (200 if ready else 503)


def test_readyz_says_why_not() -> None:
    ready = [False]
    probes = Probes(live=lambda: True, ready=lambda: ready[0], why=lambda: "waits for redis\nwaits for log")
    with client(probes, CollectorRegistry()) as http:
        assert http.get("/readyz").text == "waits for redis\nwaits for log\n"
        assert http.get("/livez").text == "ok\n"
        ready[0] = True
        assert http.get("/readyz").text == "ok\n"


def test_metrics_are_those_of_the_registry() -> None:
    registry = CollectorRegistry()
    Counter("understudy_tests", "Counted in this test.", registry=registry).inc(3)
    with client(Probes(live=lambda: True, ready=lambda: True), registry) as http:
        answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "understudy_tests_total 3.0" in answer.text


def test_lanes_are_what_the_callable_says() -> None:
    lanes = {"a/b": {"version": "0123456789abcdef"}}
    with client(Probes(live=lambda: True, ready=lambda: True, lanes=lambda: lanes), CollectorRegistry()) as http:
        assert http.get("/lanes").json() == lanes


def test_a_probe_that_raises_is_a_503_and_the_server_lives_on() -> None:
    def broken() -> bool:
        message = "a secret in a message"
        raise RuntimeError(message)

    with client(Probes(live=broken, ready=lambda: True), CollectorRegistry()) as http:
        answer = http.get("/livez")
        assert answer.status_code == 503
        assert "secret" not in answer.text
        assert http.get("/readyz").status_code == 200


def test_the_port_keeps_to_its_document_ready_or_not(tmp_path: Path) -> None:
    ready = cycle([True, False])
    lanes = {"a/b": {"replica": None}}
    probes = Probes(live=lambda: True, ready=lambda: next(ready), why=lambda: "waits", lanes=lambda: lanes)
    with client(probes, CollectorRegistry()) as http:
        document = http.get("/openapi.json").json()
        not_ready = ("--exclude-checks", "not_a_server_error,positive_data_acceptance")
        found = schemathesis(document, str(http.base_url), tmp_path, "--max-examples", "3", "--seed", "1", *not_ready)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Tested: 5" in found.stdout


def test_an_unknown_path_is_404_and_names_the_known_ones() -> None:
    with client(Probes(live=lambda: True, ready=lambda: True), CollectorRegistry()) as http:
        answer = http.get("/secrets")
    assert answer.status_code == 404
    assert "/metrics" in answer.text


def test_a_process_that_does_without_something_is_ready_and_names_it() -> None:
    probes = Probes(live=lambda: True, ready=lambda: True, degraded=lambda: ["redis of a/b", "log of a/b"])
    with client(probes, CollectorRegistry()) as http:
        answer = http.get("/readyz")
        assert (answer.status_code, answer.text) == (200, "ok\ndegraded: redis of a/b\ndegraded: log of a/b\n")
        assert http.get("/livez").text == "ok\n"


PROBES = Probes(live=lambda: True, ready=lambda: True, lanes=lambda: {"a/b": {}})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:9471", "Origin": "http://evil.example:9471"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": ""},
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/lanes", "/livez", "/readyz"])
def test_no_web_page_reads_the_admin_port(headers: dict[str, str], path: str) -> None:
    with client(PROBES, CollectorRegistry()) as http:
        answer = http.get(path, headers=headers)
    assert answer.status_code == 403
    assert "understudy_" not in answer.text


@pytest.mark.parametrize("host", ["10.1.2.3:9471", "localhost", "[::1]:9471", "scraper.example:9471"])
def test_addresses_and_allowed_names_are_answered(host: str) -> None:
    hosts = frozenset({"scraper.example"})
    with (
        admin_server("127.0.0.1", 0, PROBES, registry=CollectorRegistry(), hosts=hosts) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        assert http.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
def test_nothing_but_get_is_answered(method: str) -> None:
    with client(PROBES, CollectorRegistry()) as http:
        answer = http.request(method, "/livez", content=b"x" * 1000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_idle_connections_keep_no_probe_out_and_take_few_threads() -> None:
    before = threading.active_count()
    with client(PROBES, CollectorRegistry()) as http, ExitStack() as stack:
        for _ in range(10 * MOST_AT_ONCE):
            stack.enter_context(socket.create_connection((http.base_url.host, http.base_url.port)))
        assert http.get("/livez").status_code == 200
        assert threading.active_count() <= before + 2 * MOST_AT_ONCE + 1


def test_a_connection_that_drips_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.processes.admin._CONNECTION_S", 0.3)
    with (
        client(PROBES, CollectorRegistry()) as http,
        socket.create_connection((http.base_url.host, http.base_url.port)) as slow,
        suppress(ConnectionError),
    ):
        slow.settimeout(20.0)
        while True:  # ends with a broken pipe
            slow.sendall(b"G")
            time.sleep(0.01)
