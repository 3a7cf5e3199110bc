"""Tracing as the settings have it: what a process is opened with, and the spans of ingest and of cycles."""

import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from prometheus_client import CollectorRegistry

import ops.wiring.otel
from ops.exits import BAD_SETTINGS, exit_code_of
from ops.wiring.tracing import check_tracing, open_tracer
from store.control import Control
from store.errors import SettingsError
from store.event import Lane, encode
from store.tracing.spans import OFF
from tests.ops.sites import LANE, make_site, open_site
from tests.ops.stand import TOPIC, Stand, standing, until
from tests.ops.task_lanes import label_event
from tests.serve.tracing.collector import collecting, tracer_to
from trainer.daemon.journal import Journal
from trainer.work import CycleReport

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def stand(tmp_path: Path, redis_url: str) -> Iterator[Stand]:
    with standing(tmp_path, redis_url) as made:
        yield made


def test_a_batch_of_ingest_is_a_span_linked_with_the_requests_whose_events_it_holds(stand: Stand) -> None:
    def headers(trace: str, flags: str) -> tuple[tuple[str, bytes], ...]:
        return (("traceparent", f"00-{trace}-00f067aa0ba902b7-{flags}".encode()),)

    with collecting() as collector:
        tracer = tracer_to(collector.url, ratio=0.0)
        stand.tracer = tracer
        sent = [headers(TRACE, "01"), headers("ab" * 16, "00"), (), (("traceparent", b"\xff"),)]
        for number, one in enumerate(sent):
            value = encode(label_event(stand, number, number))
            stand.appender.append(TOPIC, key=b"one partition", value=value, headers=one).result(30)
        with stand.ingesting():
            until(lambda: stand.counters.counted == len(sent))
        stand.sent = 100  # other events than these
        stand.send(3)  # which nobody traces
        with stand.ingesting():
            until(lambda: stand.counters.counted == len(sent) + 3)
        tracer.close()
        spans = collector.spans()
    assert spans, "there is one"
    assert {one.name for one in spans} == {f"process {TOPIC}"}
    assert [link for one in spans for link in one.links] == [TRACE], "who is not kept, or has no trace, is not named"
    (span,) = spans
    assert (span.kind, span.parent, span.failed) == (5, "", False)
    assert (span.said["messaging.destination.name"], span.said["messaging.operation.type"]) == (TOPIC, "process")
    assert span.said["messaging.batch.message_count"] >= 1


def test_a_cycle_is_a_span_that_names_the_version_it_made(tmp_path: Path) -> None:
    report = CycleReport(
        id="c-1", at_s=1_700_000_000.0, seconds=4.0, lane=str(LANE), kind="head", candidate=None, verdict="pass",
        refusals=[], rows_judged=120, difference=None, lower=None, delta=0.05, rows_needed=0, version="ab" * 8,
    )  # fmt: skip
    control = cast("Control", SimpleNamespace(cycle_ended=lambda *_: None))
    with collecting() as collector:
        tracer = tracer_to(collector.url, ratio=0.0)
        journal = Journal(path=tmp_path / "cycles.jsonl", control=control, tracer=tracer)
        journal.ended(Lane("acme", "support"), report)
        journal.failed(Lane("acme", "support"), report, OSError("a canary"), next_try_in_s=None)
        tracer.close()
        ended, failed = collector.spans()
        assert b"canary" not in b"".join(collector.bodies)
    assert (ended.name, ended.kind, ended.failed) == ("cycle head", 1, False)
    assert (ended.said["understudy.version"], ended.said["understudy.verdict"]) == ("ab" * 8, "pass")
    assert (ended.said["understudy.lane"], ended.said["understudy.rows_judged"]) == (str(LANE), 120)
    assert (failed.failed, failed.said["error.type"]) == (True, "OSError")


def test_it_is_off_until_a_collector_is_named_and_then_says_whose_spans_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = open_site(make_site(tmp_path / "off"))
    with open_tracer(off, "serve", CollectorRegistry()) as tracer:
        assert tracer is OFF
    monkeypatch.setenv("OTLP", "authorization=Bearer%20abc, x-team = desk")
    with collecting() as collector:
        path = make_site(
            tmp_path / "on", endpoint=f'"{collector.url}"', headers_env='"OTLP"', sample_ratio="1.0"
        )  # fmt: skip
        with open_tracer(open_site(path), "serve", CollectorRegistry()) as tracer:
            tracer.record("one", "internal", {}, start_s=1.0, end_s=2.0)
        (span,) = collector.spans()
        assert (span.service, collector.paths) == ("understudy-serve", ["/v1/traces"])
        assert (collector.headers[0]["authorization"], collector.headers[0]["x-team"]) == ("Bearer abc", "desk")


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter.otlp.proto.http"])
def test_without_the_extra_every_process_refuses_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        if missing == "opentelemetry" and name.startswith("opentelemetry."):
            raise ModuleNotFoundError(name)
        return None if name == missing else real(name, package)

    site = open_site(make_site(tmp_path, endpoint='"http://127.0.0.1:1"'))
    check_tracing(site)
    monkeypatch.setattr("ops.wiring.tracing.find_spec", find)
    with pytest.raises(SettingsError, match=r"pip install 'understudy\[otel\]'") as refused:
        check_tracing(site)
    assert exit_code_of(refused.value) == BAD_SETTINGS
    from ops.wiring import ingest, serve, train  # noqa: PLC0415 - each asks for itself

    for check in (serve.check_serve, ingest.check_ingest, train.check_train):
        with pytest.raises(SettingsError, match="understudy"):
            check(site)


@pytest.mark.parametrize("value", ["", "no pair", "=x", "a b=c", "a=%0d%0a"])
def test_headers_that_are_none_are_refused_and_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OTLP", value)
    site = open_site(make_site(tmp_path, endpoint='"http://127.0.0.1:1"', headers_env='"OTLP"'))
    with pytest.raises(SettingsError, match=r"tracing\.headers_env: the environment variable OTLP") as refused:
        check_tracing(site)
    assert not value or value not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4318", "grpc://x:4317", "http://", "http://me:secret@x", "http://x/?key=secret", "http://x:0"]
)
def test_an_address_that_is_none_is_refused_and_not_quoted(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"tracing\.endpoint: it") as refused:
        open_site(make_site(tmp_path, endpoint=f'"{url}"'))
    assert "secret" not in str(refused.value)


def test_a_tracer_that_is_opened_is_closed_whatever_the_process_ends_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(ops.wiring.otel.OtelTracer, "close", lambda _: closed.append("closed"))
    site = open_site(make_site(tmp_path, endpoint='"http://127.0.0.1:1"'))
    with suppress(ZeroDivisionError), open_tracer(site, "serve", CollectorRegistry()):
        raise ZeroDivisionError
    assert closed == ["closed"]
