"""The gateway from HTTP to HTTP, with fakes for everything behind it."""

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest

from serve.lifecycle import Gateway
from store.event import event_id_of_key
from store.secrets import subject_token
from tests.serve.client import ask, only_event, run
from tests.serve.fakes import LANE, World, eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_cold_lane_is_ready_and_the_teacher_answers(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "sure of it")
        assert response.status_code == 200
        body = response.json()
        assert body["object"] == "list"
        assert body["model"] == "intent"
        assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
        (datum,) = body["data"]
        assert (datum["index"], datum["label"], datum["probs"], datum["num_classes"]) == (0, "no", None, 3)
        assert (datum["served_by"], datum["reason"], datum["version"]) == ("teacher", "cold", None)
        assert response.headers["x-understudy-served-by"] == "teacher"
        assert response.headers["x-understudy-event"] == datum["event_id"]
        assert response.headers["x-understudy-propensity"] == "1"
        assert "x-understudy-degraded" not in response.headers

    run(world, step)
    event = only_event(world)
    assert event.student is None
    assert event.escalation.reason == "cold"
    assert event.teacher.label == "no"
    assert event.teacher.cost_usd == pytest.approx(24e-6)
    assert event.lane == LANE


def test_a_sure_student_answers_and_nothing_is_published(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "sure of it")
        (datum,) = response.json()["data"]
        assert (datum["served_by"], datum["reason"], datum["version"]) == ("student", None, "a")
        assert datum["probs"] == pytest.approx([0.95, 0.025, 0.025])
        assert datum["labels"] == ["yes", "no", "maybe"]
        assert datum["event_id"] is None

    run(world, step)
    assert world.sink.events == []
    assert world.endpoint.bodies == []


@pytest.mark.parametrize(
    ("text", "reason"), [("unsure of it", "low_confidence"), ("novel thing", "novel"), ("long text", "too_long")]
)
def test_what_the_student_should_not_answer_goes_to_the_teacher(world: World, text: str, reason: str) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        (datum,) = (await ask(client, text)).json()["data"]
        assert (datum["served_by"], datum["reason"], datum["version"]) == ("teacher", reason, "a")

    run(world, step)
    event = only_event(world)
    assert event.escalation.reason == reason
    assert event.escalation.propensity == 1.0
    assert event.escalation.threshold == 0.8
    if reason == "low_confidence":
        assert event.student is not None
        assert (event.student.version, event.student.output, event.student.confidence) == ("a", "yes", 0.5)
        assert event.student.members == [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]


def test_the_event_is_redacted_and_the_teacher_reads_the_original(world: World) -> None:
    run(world, lambda client, _: ask(client, "card  4111 lost"))
    assert only_event(world).input.text == "card  <CARD:0> lost"
    assert world.endpoint.bodies[0]["messages"][0]["content"] == "One of:\nyes\nno\nmaybe\nText: card  4111 lost"
    assert world.endpoint.bodies[0]["max_tokens"] == 8


def test_a_client_can_force_the_teacher_and_name_a_subject_a_key_and_a_trace(world: World) -> None:
    world.serve()
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        body = {"model": "intent", "input": "sure", "user": "person-7"}
        headers = {"X-Understudy-Force": "teacher", "Idempotency-Key": "k1", "traceparent": trace}
        response = await client.post("/classify", json=body, headers=headers)
        assert response.headers["x-understudy-reason"] == "forced"

    run(world, step)
    event = only_event(world)
    assert (event.subject, event.id) == (
        subject_token(b"s" * 32, "person-7"),
        event_id_of_key(LANE, "k1", world.sink.items[0]),
    )
    assert world.sink.traces == [trace]


def test_a_list_is_answered_item_by_item_in_order(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, ["sure", "unsure", "sure too"], Idempotency_Key="k")
        data = response.json()["data"]
        assert [datum["index"] for datum in data] == [0, 1, 2]
        assert [datum["served_by"] for datum in data] == ["student", "teacher", "student"]
        assert response.headers["x-understudy-served-by"] == "mixed"
        assert "x-understudy-event" not in response.headers

    run(world, step)
    assert only_event(world).id == event_id_of_key(LANE, "k\x1f1", world.sink.items[0])


def test_an_audit_is_published_behind_the_students_answer(world: World) -> None:
    world.audit_ratio = 1.0
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        (datum,) = (await ask(client, "sure")).json()["data"]
        assert (datum["served_by"], datum["reason"]) == ("student", "audit")
        assert world.sink.events == []
        world.endpoint.hold.set()
        await eventually(lambda: len(world.sink.events) == 1)
        assert world.sink.events[0].id == datum["event_id"]

    run(world, step)
    assert only_event(world).escalation.reason == "audit"
    assert world.metric("understudy_audits_total", outcome="published") == 1


def test_who_chooses_idempotency_keys_does_not_choose_who_is_audited(tmp_path: Path) -> None:
    """The lanes' keys alone tell; and what a key does with one text says nothing of another text."""
    keys = [f"key-{number}" for number in range(40)]

    def audited(text: str, audit_key: bytes) -> list[str]:
        world = World(tmp_path, audit_ratio=0.5, audit_key=audit_key)
        world.serve()

        async def step(client: httpx.AsyncClient, _: Gateway) -> None:
            for key in keys:
                (datum,) = (await ask(client, text, Idempotency_Key=key)).json()["data"]
                if datum["reason"] == "audit":
                    found.append(key)

        found: list[str] = []
        run(world, step)
        return found

    one = audited("sure", b"1" * 32)
    assert 0 < len(one) < len(keys)
    assert one == audited("sure", b"1" * 32)
    assert one != audited("sure", b"2" * 32)
    assert one != audited("sure too", b"1" * 32)


def test_where_training_is_not_permitted_events_are_not_eligible(world: World) -> None:
    world.training_permitted = False
    run(world, lambda client, _: ask(client, "hello"))
    assert only_event(world).eligible is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"\xff", "body"),
        (b"[]", "body"),
        (b'{"input": "a"}', "model"),
        (b'{"model": "intent"}', "input"),
        (b'{"model": 3, "input": "a"}', "model"),
        (b'{"model": "intent", "input": ["a", 1]}', "input[1]"),
        (b'{"model": "intent", "input": {"a": 1}}', "input"),
        (b'{"model": "intent", "input": []}', "input"),
        (b'{"model": "intent", "input": " "}', "input"),
        (b'{"model": "intent", "input": ["a", ""]}', "input[1]"),
        (b'{"model": "intent", "input": "a", "user": ""}', "user"),
        (b'{"model": "intent", "input": "a", "user": 7}', "user"),
        (b'{"model": "intent", "input": "' + b"a" * 20_001 + b'"}', "input"),
    ],
)
def test_a_malformed_request_gets_422_with_the_field_named(world: World, body: bytes, field: str) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await client.post("/classify", content=body, headers=JSON)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "invalid_request"
        assert response.json()["error"]["field"] == field

    run(world, step)
    assert world.endpoint.bodies == []


def test_headers_and_sizes_are_checked(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "a", X_Understudy_Force="student")).json()["error"]["field"] == "X-Understudy-Force"
        assert (await ask(client, "a", Idempotency_Key="k" * 300)).json()["error"]["field"] == "Idempotency-Key"
        assert (await client.post("/classify", content=b" " * (5 << 20), headers=JSON)).status_code == 413

    run(world, step)


def test_an_unknown_model_is_404_and_so_is_another_tasks_path(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        unknown = await client.post("/classify", json={"model": "other", "input": "a"})
        assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "model")
        elsewhere = await client.post("/rerank", json={"model": "intent", "query": "a", "documents": ["b"]})
        assert (elsewhere.status_code, elsewhere.json()["error"]["field"]) == (404, "model")
        assert "/v1/classify" in elsewhere.json()["error"]["message"]
        assert "/v1/chat/completions" in elsewhere.json()["error"]["message"]

    run(world, step)


def test_a_key_opens_its_lane_alone(world: World) -> None:
    world.api_keys = ("secret-1",)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "a")).status_code == 401
        assert (await ask(client, "a", Authorization="Bearer wrong")).status_code == 401
        assert (await ask(client, "a", Authorization="Bearer secret-1")).status_code == 200
        assert (await ask(client, "a", X_API_Key="secret-1")).status_code == 200

    run(world, step)


def test_a_lane_without_keys_is_open_to_this_machine_and_closed_to_the_network(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "a", Authorization="Bearer anything")).status_code == 401

    run(world, step, host="192.0.2.7")


def test_the_replica_says_what_it_serves_and_how_much_it_escalates(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        await ask(client, ["sure", "sure", "unsure"])
        await eventually(lambda: bool(world.beats) and world.beats[-1].requests == 3)
        beat = world.beats[-1]
        assert (beat.version, beat.escalated, beat.recent_requests, beat.recent_escalated) == ("a", 1, 3, 1)
        assert beat.budget_limit_calls == 1_000_000
        assert gateway.healthy()

    run(world, step)


def test_health_needs_no_key_and_no_known_name_and_is_not_counted(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "sure of it")
        before = generate_latest(world.prometheus)
        for path in ("/healthz", "/readyz"):
            answer = await client.get(path, headers={"Host": "a.load.balancer"})
            assert (answer.status_code, answer.text) == (200, "ok\n")
        assert _requests(generate_latest(world.prometheus)) == _requests(before)

    run(world, step)


def _requests(metrics: bytes) -> list[bytes]:
    return [line for line in metrics.splitlines() if b"requests_total" in line or b"answers_total" in line]
