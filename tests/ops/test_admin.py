"""The admin server answers probes from callables and never dies of one that fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from ops.processes.admin import Probes, admin_server


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


def test_an_unknown_path_is_404_and_names_the_known_ones() -> None:
    with client(Probes(live=lambda: True, ready=lambda: True), CollectorRegistry()) as http:
        answer = http.get("/secrets")
    assert answer.status_code == 404
    assert "/metrics" in answer.text
