"""A busy gateway: it refuses early and whole, computes nothing in vain, and never pays because it is busy."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from serve.escalation import Answer
from serve.lifecycle import Gateway
from serve.settings import GatewaySettings
from serve.student.executor import Executor
from store.event import ClassifyEscalation, TaskInput
from store.student.loaded import LabelOpinion
from tests.serve.client import ask, run
from tests.serve.fakes import TEACHER, FakeStudent, World, eventually, text_of
from tests.serve.test_gateway import question

LIST = ["sure"] * 40


class SlowStudent(FakeStudent):
    """Takes a while for each text."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        time.sleep(0.02 * len(inputs))
        found = super().look(inputs)
        self.read += map(text_of, inputs)
        return found


def busy_world(folder: Path, **changes: Any) -> tuple[World, SlowStudent]:
    """A gateway of small batches; who would wait for more than a few of them is refused."""
    settings = GatewaySettings(follow_s=0.02, batch_wait_s=0.001, max_batch=4, student_wait_s=0.05)
    world, student = World(folder, settings=settings, changes=changes), SlowStudent()
    world.serve(student=student)
    return world, student


async def hold(client: httpx.AsyncClient, gateway: Gateway, student: FakeStudent) -> "asyncio.Task[httpx.Response]":
    """A list that the student does not get to read for now."""
    student.gate = threading.Event()
    held = asyncio.create_task(ask(client, LIST))
    await eventually(lambda: stands_still(gateway))
    return held


def stands_still(gateway: Gateway) -> bool:
    """Whether the student is still at the list that is held."""
    if not gateway.devices.all:
        return False
    executor = executor_of(gateway)
    return executor.waiting + len(executor._running) >= len(LIST)


def executor_of(gateway: Gateway) -> Executor:
    (device,) = gateway.devices.all
    assert isinstance(device.executor, Executor)
    return device.executor


def let_go(student: FakeStudent) -> None:
    assert student.gate is not None
    student.gate.set()


def test_a_busy_gateway_still_tells_a_load_balancer_that_it_is_well(tmp_path: Path) -> None:
    world, student = busy_world(tmp_path)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        held = await hold(client, gateway, student)
        refused, *told = await asyncio.gather(ask(client, LIST), client.get("/healthz"), client.head("/readyz"))
        assert refused.status_code == 429
        assert [answer.status_code for answer in told] == [200, 200]
        assert stands_still(gateway)
        let_go(student)
        assert (await held).status_code == 200

    run(world, step)


@pytest.mark.parametrize("policy", ["promise", "budget"])
def test_a_busy_student_refuses_early_and_whole_and_nobody_is_paid(tmp_path: Path, policy: str) -> None:
    world, student = busy_world(tmp_path, policy=policy)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        held = await hold(client, gateway, student)
        refused = await asyncio.gather(*(ask(client, ["unsure"] * 40) for _ in range(20)))
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert world.endpoint.bodies == []
        assert stands_still(gateway)
        let_go(student)
        assert (await held).status_code == 200
        assert (await ask(client, "sure")).status_code == 200

    run(world, step)
    assert world.metric("understudy_requests_shed_total", reason="student_line") == 20
    assert "unsure" not in student.read


@pytest.mark.parametrize("policy", ["promise", "budget"])
def test_a_text_that_waited_in_vain_is_refused_and_not_paid_for(tmp_path: Path, policy: str) -> None:
    world, _ = busy_world(tmp_path, policy=policy)
    world.settings = replace(world.settings, student_timeout_s=0.4)

    async def step(_: httpx.AsyncClient, gateway: Gateway) -> None:
        service, rng = gateway.lanes[0].service, Random(1)
        found = await asyncio.gather(*(service.answer(question("unsure", rng)) for _ in range(100)))
        late = [one for one in found if not isinstance(one, Answer)]
        assert {(one.status, one.code) for one in late} == {(429, "overloaded")}
        assert all(one.retry_after_s for one in late)
        assert {one.reason for one in found if isinstance(one, Answer)} <= {
            "low_confidence",
            "bought",
            "budget_margin",
            None,
        }
        assert len(world.endpoint.bodies) <= len(found) - len(late)

    run(world, step)
    assert world.metric("understudy_requests_shed_total", reason="waited_in_vain") > 0


def test_a_forced_request_is_not_kept_waiting_by_a_busy_student(tmp_path: Path) -> None:
    world, student = busy_world(tmp_path)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        held = await hold(client, gateway, student)
        forced = await ask(client, ["sure"] * 5, X_Understudy_Force="teacher")
        assert [datum["served_by"] for datum in forced.json()["data"]] == ["teacher"] * 5
        assert stands_still(gateway)
        let_go(student)
        await held

    run(world, step)
    events = [event for event in world.sink.events if isinstance(event, ClassifyEscalation)]
    assert [(event.escalation.reason, event.student) for event in events] == [("forced", None)] * 5


def test_what_a_client_that_hung_up_asked_is_not_computed(tmp_path: Path) -> None:
    world, student = busy_world(tmp_path)

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        held = await hold(client, gateway, student)
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": b'{"model": "intent", "input": "left"}', "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        app: Any = client._transport.app  # type: ignore[attr-defined]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/classify",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "query_string": b"",
            "client": ("127.0.0.1", 2),
        }
        asked = asyncio.create_task(app(scope, receive, send))
        await eventually(lambda: gateway.admission.in_flight == len(LIST) + 1)
        gone.set()
        await asked
        assert stands_still(gateway)
        assert gateway.admission.in_flight == len(LIST)
        let_go(student)
        await held

    run(world, step)
    assert student.read.count("left") == 0
    assert len(student.read) == len(LIST) + 1 + 4  # warmed up with these


def test_a_slow_teacher_piles_up_no_requests(tmp_path: Path) -> None:
    world = World(tmp_path, changes={"teacher": replace(TEACHER, concurrency=2, timeout_s=60.0)})

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        turns = gateway.lanes[0].service.turns
        turns.took(91.0)  # from here on a call is believed to take 10 s, and half of the time-out holds few
        asked = [asyncio.create_task(ask(client, f"cold {index}")) for index in range(50)]
        await eventually(lambda: sum(task.done() for task in asked) + turns.promised == 50)
        refused = [task.result() for task in asked if task.done()]
        assert len(refused) > 30
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        world.endpoint.hold.set()
        answered = [task for task in asked if (await task).status_code == 200]
        assert len(answered) == 50 - len(refused)

    run(world, step)
    assert world.metric("understudy_requests_shed_total", reason="teacher_turns") > 30


def test_where_too_many_wait_for_the_teacher_the_student_answers_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.serve()

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        gateway.lanes[0].service.turns.asked = 10_000
        answer = await ask(client, "unsure")
        assert answer.headers["x-understudy-served-by"] == "student"
        assert answer.headers["x-understudy-degraded"] == "teacher_busy"
        assert answer.headers["x-understudy-propensity"] == "0"
        forced = await ask(client, "sure", X_Understudy_Force="teacher")
        assert (forced.status_code, forced.json()["error"]["code"]) == (429, "overloaded")

    run(world, step)
    assert world.endpoint.bodies == []
    assert world.ledger.left == 1_000_000


def test_a_student_that_hangs_is_down_and_an_endless_hang_is_no_life(tmp_path: Path) -> None:
    world = World(tmp_path, settings=GatewaySettings(follow_s=0.02, batch_wait_s=0.001, student_timeout_s=0.3))
    student = world.serve()

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        student.gate = threading.Event()
        answer = await ask(client, "sure")  # alone: others may be refused where the machine is slow
        assert answer.headers["x-understudy-reason"] == "student_down"
        await eventually(lambda: world.prometheus.get_sample_value("understudy_student_hung_seconds") != 0.0)
        assert gateway.healthy()
        executor_of(gateway)._stuck_s = 61.0
        assert not gateway.healthy()
        student.gate.set()
        await eventually(gateway.healthy)

    run(world, step)


def test_a_swap_and_a_shutdown_in_the_middle_of_overload_lose_nothing_that_was_let_in(tmp_path: Path) -> None:
    world, student = busy_world(tmp_path)
    second = SlowStudent()
    world.registry.students["b"] = second

    async def main() -> list[httpx.Response]:
        async with world.running() as (client, gateway):
            held = await hold(client, gateway, student)
            asked = [asyncio.create_task(ask(client, "sure")) for _ in range(100)]
            await eventually(lambda: any(task.done() for task in asked))
            world.registry.move("b", "a")
            await eventually(lambda: gateway.lanes[0].service.slots.version == "b")
            let_go(student)
            found = [await held, *await asyncio.gather(*asked), await ask(client, "sure")]
            again = await hold(client, gateway, second)
            asyncio.get_running_loop().call_later(0.1, let_go, second)
        return [*found, await again]

    found = asyncio.run(main())
    assert {answer.status_code for answer in found} == {200, 429}
    assert [found[0].status_code, *(one.status_code for one in found[-2:])] == [200, 200, 200]
    versions = [{datum["version"] for datum in one.json()["data"]} for one in found if one.status_code == 200]
    assert [versions[0], *versions[-2:]] == [{"a"}, {"b"}, {"b"}]
    assert world.endpoint.bodies == []


def test_texts_that_are_still_being_redacted_hold_no_place_with_student_or_teacher(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        if text.startswith("slow"):
            begun.set()
            go_on.wait(20)
        return text

    world = World(tmp_path, redact=slow, changes={"teacher": replace(TEACHER, concurrency=1, timeout_s=4.0)})

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        slow_one = asyncio.create_task(ask(client, ["slow " + "x" * 5_000] * 200))
        await eventually(begun.is_set)
        try:
            assert gateway.admission.in_flight == 0
            assert (await ask(client, "short")).json()["data"][0]["served_by"] == "teacher"
        finally:
            go_on.set()
            slow_one.cancel()

    run(world, step)


def test_a_call_that_was_not_sent_when_its_client_hung_up_is_never_sent(tmp_path: Path) -> None:
    world = World(tmp_path, changes={"teacher": replace(TEACHER, concurrency=1, timeout_s=20.0)})

    async def step(_: httpx.AsyncClient, gateway: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        service, rng = gateway.lanes[0].service, Random(1)
        asked = [asyncio.create_task(service.answer(question(f"cold {index}", rng))) for index in range(4)]
        await eventually(lambda: world.endpoint.running == 1 and service.turns.asked == 4)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        world.endpoint.hold.set()
        await eventually(lambda: service.turns.asked == 0)

    run(world, step)
    assert len(world.endpoint.bodies) == 1  # the one that had left is paid, and published
    assert len(world.sink.events) == 1
    assert world.ledger.calls - world.ledger.left == 1
