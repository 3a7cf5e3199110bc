"""A request's spans at a real collector, its trace context at the teacher and the log, and no word of what was said."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import httpx2
import openai
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

import ops.wiring.otel
from serve.lifecycle import Gateway
from serve.teacher.wire import BoundedTransport
from store.errors import SpoolFullError
from store.tracing.spans import OFF, context_of
from tests.serve.chat.fakes import FakeTalker, FakeTalkingTeacher, chat_world
from tests.serve.chat.fakes import question as chat_body
from tests.serve.fakes import TEACHER, FakeStudent, World, eventually
from tests.serve.rank.fakes import LLM, FakeRanker, rank_world
from tests.serve.rank.fakes import body as rank_body
from tests.serve.tracing.collector import Collector, Got, collecting, tracer_to

CANARY: Final = "a-word-that-nobody-else-says"
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
SENT: Final = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "shop=1,desk=2"}
INTERNAL, SERVER, CLIENT, PRODUCER = 1, 2, 3, 4


@dataclass(frozen=True)
class Way:
    """One task's gateway, with a question that goes to the teacher and one that the student answers."""

    path: str
    task: str
    make: Callable[[Path], World]
    student: Callable[[], FakeStudent]
    unsure: Mapping[str, Any]
    sure: Mapping[str, Any]
    operation: str = "chat"


def text_body(text: str) -> dict[str, Any]:
    return {"model": "intent", "input": text}


WAYS: Final = {
    "classify": Way(
        "/classify", "classify", World, FakeStudent, text_body(f"unsure {CANARY}"), text_body(f"sure {CANARY}")
    ),
    "rank": Way(
        "/v1/rerank",
        "rank",
        rank_world,
        FakeRanker,
        rank_body(f"unsure {CANARY}"),
        rank_body(f"red {CANARY}"),
        operation="rerank",
    ),
    "rank by a chat model": Way(
        "/v1/rerank",
        "rank",
        lambda folder: rank_world(folder, replace(LLM, window_documents=10)),
        FakeRanker,
        rank_body(f"unsure {CANARY}"),
        rank_body(f"red {CANARY}"),
    ),
    "chat": Way(
        "/v1/chat/completions",
        "chat",
        chat_world,
        FakeTalker,
        chat_body(f"unsure {CANARY}"),
        chat_body(f"hello {CANARY}"),
    ),
    "chat, streamed": Way(
        "/v1/chat/completions",
        "chat",
        chat_world,
        FakeTalker,
        chat_body(f"unsure {CANARY}", stream=True),
        chat_body(f"hello {CANARY}", stream=True),
    ),
}


def overheard(world: World) -> list[dict[str, str]]:
    """The headers that the world's teacher will be sent."""
    heard: list[dict[str, str]] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        heard.append(dict(request.headers))
        return await world.endpoint(request)

    def client() -> openai.AsyncOpenAI:
        mock = httpx2.MockTransport(answer)
        transport = BoundedTransport(mock) if isinstance(world.endpoint, FakeTalkingTeacher) else mock
        return openai.AsyncOpenAI(
            base_url=TEACHER.base_url,
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport),
        )

    world.endpoint.client = client  # type: ignore[method-assign]
    return heard


def run(world: World, step: Callable[[httpx.AsyncClient, Gateway], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with world.running() as (client, gateway):
            await step(client, gateway)

    asyncio.run(whole())


def traced(
    world: World, collector: Collector, step: Callable[[httpx.AsyncClient, Gateway], Awaitable[None]], **how: Any
) -> list[Got]:
    """What the collector has once a gateway that traces has stopped."""
    tracer = tracer_to(collector.url, **how)
    world.tracer = tracer
    run(world, step)
    tracer.close()
    return collector.spans()


def one_of(spans: list[Got], kind: int) -> Got:
    (found,) = [one for one in spans if one.kind == kind]
    return found


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_an_escalation_is_one_tree_whose_context_reaches_teacher_and_log(way: Way, tmp_path: Path) -> None:
    world = way.make(tmp_path)
    world.serve(student=way.student())
    heard = overheard(world)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post(way.path, json=way.unsure, headers=SENT)
        assert response.status_code == 200, response.text

    with collecting() as collector:
        spans = traced(world, collector, step)
        assert collector.paths[0] == "/v1/traces"
        assert collector.headers[0]["x-key"] == "of the collector"
        assert CANARY.encode() not in b"".join(collector.bodies)
    assert {one.trace for one in spans} == {TRACE}
    assert {one.service for one in spans} == {"understudy-test"}
    server, student, client, producer = (one_of(spans, kind) for kind in (SERVER, INTERNAL, CLIENT, PRODUCER))
    assert (server.parent, server.name, server.failed) == (PARENT, f"POST {way.path}", False)
    assert {one.parent for one in (student, client, producer)} == {server.id}
    assert server.said["http.response.status_code"] == 200
    assert (server.said["understudy.lane"], server.said["understudy.task"]) == ("acme/intent", way.task)
    assert (server.said["understudy.served_by"], server.said["understudy.reason"]) == ("teacher", "low_confidence")

    event = world.sink.events[0]
    assert {one.said["understudy.event_id"] for one in (server, student, client, producer)} == {event.id}
    assert (student.name, student.said["gen_ai.operation.name"]) == (f"{way.task} intent", way.task)
    assert (student.said["gen_ai.request.model"], student.said["gen_ai.response.model"]) == ("intent", "a")
    assert student.said["understudy.confidence"] == 0.5
    assert (client.name, client.said["gen_ai.operation.name"]) == (f"{way.operation} big", way.operation)
    assert (client.said["gen_ai.request.model"], client.said["server.address"]) == ("big", "teacher.invalid")
    assert client.said["gen_ai.response.model"].startswith("big")
    assert client.said["gen_ai.usage.input_tokens"] == event.teacher.usage.prompt_tokens > 0
    assert client.said["gen_ai.usage.output_tokens"] == event.teacher.usage.completion_tokens
    assert client.said["understudy.cost_usd"] == pytest.approx(event.teacher.cost_usd)
    assert producer.said["messaging.message.id"] == event.id
    assert client.said.get("gen_ai.response.finish_reasons") == (None if way.operation == "rerank" else ["stop"])

    assert [one["traceparent"] for one in heard] == [f"00-{TRACE}-{client.id}-01"]
    assert [one["tracestate"] for one in heard] == [SENT["tracestate"]]
    assert world.sink.traces == [f"00-{TRACE}-{producer.id}-01"], "ingest's spans are linked with this one"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_what_the_student_answers_asks_nobody_and_an_audit_belongs_to_its_request(way: Way, tmp_path: Path) -> None:
    world = way.make(tmp_path)
    world.serve(student=way.student())
    world.audit_ratio = 1.0
    heard = overheard(world)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        assert (await client.post(way.path, json=way.sure, headers=SENT)).status_code == 200
        await gateway.lanes[0].service.audits.settled()

    with collecting() as collector:
        spans = traced(world, collector, step)
        assert CANARY.encode() not in b"".join(collector.bodies)
    server, client = one_of(spans, SERVER), one_of(spans, CLIENT)
    assert (server.said["understudy.served_by"], server.said["understudy.reason"]) == ("student", "audit")
    assert (client.trace, client.parent) == (TRACE, server.id)
    assert heard[0]["traceparent"] == f"00-{TRACE}-{client.id}-01"
    assert one_of(spans, PRODUCER).parent == server.id


def test_without_tracing_a_clients_context_is_passed_on_to_teacher_and_log_as_it_came(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0)
    world.serve()
    heard = overheard(world)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        for headers in (SENT, {"traceparent": "rubbish"}, {}):
            await client.post("/classify", json=text_body("unsure"), headers=headers)
        await client.post("/classify", json=text_body("sure"), headers=SENT)
        await gateway.lanes[0].service.audits.settled()

    assert world.tracer is OFF
    run(world, step)
    passed = [(one.get("traceparent"), one.get("tracestate")) for one in heard]
    ours = (SENT["traceparent"], SENT["tracestate"])
    assert passed == [ours, (None, None), (None, None), ours], "of an audit, too"
    assert world.sink.traces == [SENT["traceparent"], None, None, SENT["traceparent"]]


def test_who_keeps_a_trace_is_said_by_its_client_and_of_the_rest_by_the_ratio(tmp_path: Path) -> None:
    world = World(tmp_path)
    heard = overheard(world)
    unkept = f"00-{TRACE}-{PARENT}-00"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        for headers in ({}, {"traceparent": unkept}, SENT):
            await client.post("/classify", json=text_body("unsure"), headers=headers)

    with collecting() as collector:
        spans = traced(world, collector, step, ratio=0.0)
    assert {(one.trace, one.kind) for one in spans} == {(TRACE, SERVER), (TRACE, CLIENT), (TRACE, PRODUCER)}
    assert one_of(spans, SERVER).parent == PARENT
    assert [bool(int(one["traceparent"][-2:], 16) & 1) for one in heard] == [False, False, True]
    assert heard[1]["traceparent"].split("-")[1] == TRACE


def test_a_teacher_that_fails_is_told_by_a_word_and_its_request_is_not_blamed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        for status, answer, failure in (
            (500, "no", None),
            (200, f"{CANARY} is no label", None),
            (200, "no", httpx2.ReadTimeout(CANARY)),
        ):
            world.endpoint.status, world.endpoint.answer, world.endpoint.failure = status, answer, failure
            assert (await client.post("/classify", json=text_body("unsure"))).json()["data"][0]["degraded"]

    with collecting() as collector:
        spans = traced(world, collector, step)
        assert CANARY.encode() not in b"".join(collector.bodies)
    calls = [one for one in spans if one.kind == CLIENT]
    assert [(one.failed, one.said["error.type"]) for one in calls] == [
        (True, "500"), (True, "off_list"), (True, "ReadTimeout"),
    ]  # fmt: skip
    assert calls[1].said["gen_ai.usage.input_tokens"] == 20, "it was paid for"
    assert not any(one.failed for one in spans if one.kind == SERVER)
    assert [one.said["understudy.degraded"] for one in spans if one.kind == SERVER] == [
        "teacher_down", "invalid_answer", "teacher_down",
    ]  # fmt: skip


def test_an_event_that_is_dropped_is_told_by_the_errors_kind_and_none_of_its_words(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sink.failure = SpoolFullError(CANARY)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await client.post("/classify", json=text_body("unsure"))).status_code == 200

    with collecting() as collector:
        spans = traced(world, collector, step)
        assert CANARY.encode() not in b"".join(collector.bodies)
    producer, server = one_of(spans, PRODUCER), one_of(spans, SERVER)
    assert (producer.failed, producer.said["error.type"]) == (True, "SpoolFullError")
    assert (server.failed, server.said["understudy.degraded"]) == (False, "escalation_dropped")


def test_a_request_that_nobody_answers_is_an_error_and_each_text_of_a_list_has_its_own_spans(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        body = {"model": "intent", "input": ["unsure one", "unsure two"]}
        assert (await client.post("/classify", json=body)).status_code == 200
        world.endpoint.status = 500
        assert (await client.post("/classify", json=text_body("unsure"))).status_code == 503
        assert (await client.post("/classify", json={"model": "nobody"})).status_code == 404
        assert (await client.get("/readyz")).status_code == 200, "no span of a probe"

    with collecting() as collector:
        spans = traced(world, collector, step)
    whole, refused, unknown = [one for one in spans if one.kind == SERVER]
    assert whole.said["understudy.answers"] == 2
    calls = [one for one in spans if one.kind == CLIENT and one.parent == whole.id]
    assert {one.said["understudy.event_id"] for one in calls} == {event.id for event in world.sink.events}
    assert len(calls) == 2
    assert (refused.failed, refused.said["error.type"]) == (True, "503")
    assert (unknown.failed, unknown.said["http.response.status_code"]) == (False, 404)


def test_a_collector_that_is_away_costs_spans_alone_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is not taken is not tried again for ever, and the SDK's own words are not heard."""
    monkeypatch.setattr(ops.wiring.otel, "_EVERY_MS", 20.0)
    world, counted = World(tmp_path), CollectorRegistry()

    def count(outcome: str) -> float:
        return counted.get_sample_value("understudy_trace_spans_total", {"outcome": outcome}) or 0.0

    with collecting() as collector, capture_logs() as lines:
        collector.status = 400

        async def step(client: httpx.AsyncClient, _: Gateway) -> None:
            for _round in range(3):
                before = count("failed")
                assert (await client.post("/classify", json=text_body("unsure"))).status_code == 200
                await eventually(lambda before=before: count("failed") >= before + 3)  # type: ignore[misc]
            collector.status = 200
            assert (await client.post("/classify", json=text_body("unsure"))).status_code == 200
            await eventually(lambda: count("sent") == 3)

        traced(world, collector, step, registry=counted)
    assert len(world.sink.events) == 4
    assert (count("failed"), count("dropped")) == (9, 0)
    told = [line["event"] for line in lines if "collector" in line["event"]]
    assert len(told) == 2, told
    assert "does not take spans" in told[0]
    assert "takes spans again" in told[1]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_what_finds_no_room_is_dropped_and_counted_and_an_end_waits_for_no_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_MOST_WAITING", 6), ("_AT_ONCE", 2), ("_FLUSH_S", 0.05), ("_TAKE_S", 600.0)):
        monkeypatch.setattr(ops.wiring.otel, name, value)
    world, counted = World(tmp_path), CollectorRegistry()
    with collecting() as collector:
        collector.hold = hold = threading.Event()

        async def step(client: httpx.AsyncClient, _: Gateway) -> None:
            for _round in range(5):  # of three spans each
                assert (await client.post("/classify", json=text_body("unsure"))).status_code == 200

        tracer = tracer_to(collector.url, registry=counted)
        world.tracer = tracer
        run(world, step)
        tracer.close()  # though the collector holds on
        assert counted.get_sample_value("understudy_trace_spans_total", {"outcome": "dropped"}) == 9
        assert collector.bodies == []
        hold.set()


def test_where_it_is_off_no_process_imports_what_sends_spans() -> None:
    """The client of Redis imports OpenTelemetry's measures wherever it is installed: that is not ours to decide."""
    code = (
        "import sys, ops.processes.run.serve, ops.processes.run.ingest, ops.processes.run.train, serve.app\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.exporter', 'ops.wiring.otel'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("traceparent", "known"),
    [
        (SENT["traceparent"], True),
        (f"00-{TRACE}-{PARENT}-01-more", False),  # of version 00 there is no more
        (f"01-{TRACE}-{PARENT}-01-more", True),  # a later one may say more, which is passed over
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        ("", False),
        (None, False),
    ],
)
def test_a_trace_context_is_taken_as_w3c_has_it(traceparent: str | None, known: bool) -> None:  # noqa: FBT001
    found = context_of(traceparent, "a=1")
    assert (found is not None) == known
    if found is not None:
        assert (len(found.traceparent), found.sampled, found.headers["tracestate"]) == (55, True, "a=1")
    assert context_of(SENT["traceparent"], "x" * 513) == context_of(SENT["traceparent"])
    assert context_of(SENT["traceparent"], "a=1\r\nx: y") == context_of(SENT["traceparent"])
