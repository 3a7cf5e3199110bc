"""Who answers when the teacher, the student, the budget, the spool or Redis do not."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.lifecycle import Gateway
from store.errors import SpoolFullError
from tests.serve.client import ask, only_event, run
from tests.serve.fakes import TEACHER, FakeStudent, World, eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_item_that_nobody_can_answer_does_not_take_the_others_with_it(world: World) -> None:
    world.serve()
    world.endpoint.answer = "who knows"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        data = (await ask(client, ["sure", "long one"])).json()["data"]
        assert data[0]["label"] == "yes"
        assert data[1] == {"index": 1, "label": None, "error": data[1]["error"]}
        assert data[1]["error"]["code"] == "invalid_answer"

    run(world, step)


def test_a_call_that_may_have_been_billed_counts(world: World) -> None:
    world.serve()
    world.endpoint.status = 500

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "unsure")).headers["x-understudy-degraded"] == "teacher_down"

    run(world, step)
    assert world.ledger.left == 1_000_000 - len(world.endpoint.bodies) == 999_999


def test_with_the_teacher_down_the_student_answers_and_says_so(world: World) -> None:
    world.serve()
    world.endpoint.status = 503

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "unsure")
        assert response.status_code == 200
        assert response.headers["x-understudy-degraded"] == "teacher_down"
        assert response.headers["x-understudy-served-by"] == "student"
        assert response.headers["x-understudy-propensity"] == "0"

    run(world, step)
    assert world.sink.events == []
    assert world.ledger.left == 1_000_000  # a refused call costs nothing, and the lease went back


def test_with_the_teacher_down_and_no_student_the_answer_is_503(world: World) -> None:
    world.endpoint.status = 500

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "unsure")
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "teacher_down"

    run(world, step)


def test_with_the_student_down_the_teacher_answers(world: World) -> None:
    student = world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        student.failure = RuntimeError("no more memory")
        response = await ask(client, "sure")
        assert response.headers["x-understudy-served-by"] == "teacher"
        assert response.headers["x-understudy-reason"] == "student_down"

    run(world, step)
    assert only_event(world).student is None


def test_numbers_that_are_not_finite_count_as_a_failed_student(world: World) -> None:
    class Broken(FakeStudent):
        broken = False

        def predict(self, texts: Any) -> Any:
            found = super().predict(texts)
            if self.broken:
                found.probs[:] = float("nan")
            return found

    student = Broken()
    world.serve(student=student)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        student.broken = True
        assert (await ask(client, "sure")).headers["x-understudy-reason"] == "student_down"

    run(world, step)


def test_an_invalid_answer_counts_in_the_budget_and_is_never_published(world: World) -> None:
    world.endpoint.answer = "perhaps"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "hello")
        assert (response.status_code, response.json()["error"]["code"]) == (502, "invalid_answer")

    run(world, step)
    assert world.sink.events == []
    assert world.ledger.left == 1_000_000 - 1


def test_after_an_invalid_answer_the_student_answers_if_there_is_one(world: World) -> None:
    world.serve()
    world.endpoint.answer = "perhaps"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "unsure")
        assert response.headers["x-understudy-degraded"] == "invalid_answer"
        assert response.json()["data"][0]["label"] == "yes"

    run(world, step)


def test_a_full_spool_drops_the_event_and_the_answer_goes_out(world: World) -> None:
    world.sink.failure = SpoolFullError("full")

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "hello")
        assert response.headers["x-understudy-degraded"] == "escalation_dropped"
        assert response.json()["data"][0]["label"] == "no"
        assert response.json()["data"][0]["event_id"] is None

    run(world, step)
    assert world.metric("understudy_escalations_dropped_total") == 1


def test_when_the_budget_binds_the_student_answers_and_the_answer_is_withheld(world: World) -> None:
    world.serve()
    world.ledger.left = 0

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        response = await ask(client, "unsure")
        assert response.headers["x-understudy-withheld"] == "1"
        assert response.headers["x-understudy-served-by"] == "student"
        assert response.headers["x-understudy-propensity"] == "0"
        assert gateway.lanes[0].service.budget.binds

    run(world, step)
    assert world.endpoint.bodies == []


def test_when_the_budget_binds_and_there_is_no_student_the_answer_is_503(world: World) -> None:
    world.ledger.left = 0

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "unsure")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "budget_exhausted")

    run(world, step)


def test_more_than_the_gateway_can_hold_is_refused(world: World) -> None:
    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        gateway.admission.in_flight = gateway.settings.max_in_flight
        response = await ask(client, "a")
        assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
        assert int(response.headers["retry-after"]) >= 1

    run(world, step)


def test_answers_go_on_while_redis_is_down(world: World) -> None:
    world.serve()
    world.ledger.down = True

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        assert (await ask(client, "sure")).headers["x-understudy-served-by"] == "student"
        assert (await ask(client, "unsure")).headers["x-understudy-withheld"] == "1"
        world.ledger.down = False
        gateway.lanes[0].service.budget._ask_at_s.clear()
        assert (await ask(client, "unsure")).headers["x-understudy-served-by"] == "teacher"
        world.ledger.down = True
        assert (await ask(client, "unsure")).headers["x-understudy-served-by"] == "teacher"  # leased before
        assert gateway.healthy()

    run(world, step)


def test_a_refused_key_is_said_at_once_and_forgotten_once_it_is_taken(world: World) -> None:
    world.serve()
    world.endpoint.status = 401
    world.changes = {"teacher": replace(TEACHER, breaker_open_s=0.1)}

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        assert gateway.why_not() == ""
        response = await ask(client, "unsure")
        assert response.headers["x-understudy-degraded"] == "teacher_down"
        assert not gateway.ready()
        assert gateway.why_not().startswith("acme/intent: the endpoint refuses the API key")
        assert gateway.healthy()
        await eventually(lambda: world.metric("understudy_teacher_refused", reason="key") == 1)
        assert world.ledger.calls - world.ledger.left <= 20  # the lease that is out; no refused call counts
        world.endpoint.status = 200
        await eventually(gateway.ready)  # it asks by itself: nobody asks a gateway that is not ready
        await eventually(lambda: world.metric("understudy_teacher_refused", reason="key") == 0)
        assert "test question" in world.endpoint.bodies[-1]["messages"][0]["content"]

    run(world, step)
    assert world.sink.events == []
    assert world.ledger.calls - world.ledger.left == 1


def test_an_account_without_quota_leaves_the_student_in_service(world: World) -> None:
    world.serve()
    world.endpoint.status, world.endpoint.raw = 429, b'{"error": {"code": "insufficient_quota"}}'

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        await ask(client, "unsure")
        await eventually(lambda: world.metric("understudy_teacher_refused", reason="quota") == 1)
        assert gateway.ready()

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_a_paid_call_that_is_cut_off_at_shutdown_counts_and_frees_the_rest_of_its_lease(world: World) -> None:
    world.serve()
    world.settings = replace(world.settings, grace_s=0.2)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        asking = asyncio.create_task(ask(client, "unsure"))
        await eventually(lambda: world.endpoint.running == 1)
        asking.cancel()

    run(world, step)
    assert world.ledger.calls - world.ledger.left == 1
