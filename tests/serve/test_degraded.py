"""Who answers when the teacher, the student, the budget, the spool or Redis do not."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.app import _respond
from serve.escalation import Given, Refusal
from serve.lifecycle import Gateway
from serve.tasks.classify.face import Classify
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


@pytest.mark.parametrize(("name", "labels"), [("escalations_dropped", {}), ("swaps", {"outcome": "failed"})], ids=str)
def test_what_an_alert_counts_begins_at_zero_so_that_the_first_is_a_rise(
    world: World, name: str, labels: dict[str, str]
) -> None:
    async def step(_client: httpx.AsyncClient, _: Gateway) -> None:
        names = {"tenant": "acme", "use_case": "intent", **labels}
        assert world.prometheus.get_sample_value(f"understudy_{name}_total", names) == 0

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
        assert 1 <= int(response.headers["retry-after"]) <= 10

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


def test_a_student_that_raises_counts_as_failed(world: World) -> None:
    class Broken(FakeStudent):
        broken = False

        def look(self, inputs: Any) -> Any:
            if self.broken:
                message = "the student says what is no number"
                raise ValueError(message)
            return super().look(inputs)

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
        assert response.headers["retry-after"] == "1"

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


@pytest.mark.parametrize(("status", "reason"), [(404, "model"), (308, "address")])
@pytest.mark.parametrize("cold", [False, True])
def test_a_refused_model_or_address_takes_out_only_a_lane_without_a_student(
    world: World, status: int, reason: str, *, cold: bool
) -> None:
    if not cold:
        world.serve()
    world.endpoint.status = status

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        await eventually(gateway.ready)
        await ask(client, "unsure")
        await eventually(lambda: world.metric("understudy_teacher_refused", reason=reason) == 1)
        assert gateway.ready() != cold
        assert ("lanes.teacher.base_url" in gateway.why_not()) == cold
        assert gateway.degraded() == ["teacher of acme/intent"]

    run(world, step)


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


@pytest.mark.parametrize(
    ("down", "code", "degraded"),
    [(True, "budget_unavailable", "budget_unavailable"), (False, "budget_exhausted", None)],
)
def test_what_cannot_be_paid_names_its_true_cause(
    world: World,
    *,
    down: bool,
    code: str,
    degraded: str | None,
) -> None:
    world.serve()
    world.ledger.left, world.ledger.down = 0, down

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        withheld = await ask(client, "unsure")
        assert (withheld.status_code, withheld.headers["x-understudy-withheld"]) == (200, "1")
        assert withheld.headers.get("x-understudy-degraded") == degraded
        forced = await ask(client, "sure", X_Understudy_Force="teacher")
        assert (forced.status_code, forced.json()["error"]["code"]) == (503, code)
        assert forced.headers["retry-after"] == ("1" if down else "60")
        assert ("Redis" in forced.json()["error"]["message"]) == down
        await eventually(lambda: world.metric("understudy_promise_suspended") == 1)
        assert gateway.ready()

    run(world, step)
    assert world.endpoint.bodies == []


def test_while_all_replicas_are_counted_anew_the_cause_is_redis_and_not_the_budget(world: World) -> None:
    world.serve()
    world.ledger.held = True

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        withheld = await ask(client, "unsure")
        assert withheld.headers["x-understudy-degraded"] == "budget_unavailable"
        forced = await ask(client, "sure", X_Understudy_Force="teacher")
        assert (forced.status_code, forced.json()["error"]["code"]) == (503, "budget_unavailable")
        assert "restored" in forced.json()["error"]["message"]
        await eventually(lambda: world.metric("understudy_promise_suspended") == 1)
        assert gateway.degraded() == ["redis of acme/intent"]
        assert gateway.ready()
        world.ledger.held = False
        await eventually(lambda: world.metric("understudy_promise_suspended") == 0)
        await eventually(lambda: gateway.degraded() == [])

    run(world, step)


def test_a_cold_lane_without_redis_says_that_it_is_redis(world: World) -> None:
    world.ledger.down = True

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, "unsure")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "budget_unavailable")
        assert "Redis" in response.json()["error"]["message"]

    run(world, step)


def test_the_promise_is_suspended_while_redis_is_gone_and_no_longer_once_escalations_are_possible(
    world: World,
) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        def suspended() -> float:
            return world.metric("understudy_promise_suspended")

        await eventually(lambda: bool(world.beats))
        assert suspended() == 0
        world.ledger.down = True
        await eventually(lambda: suspended() == 1)  # before anybody was turned away: nothing is leased
        assert world.metric("understudy_degraded", dependency="redis") == 1
        assert gateway.degraded() == ["redis of acme/intent"]
        assert gateway.ready()
        world.ledger.down = False
        await eventually(lambda: suspended() == 0)  # without a question: a lease is the proof
        assert gateway.lanes[0].service.budget.allows("escalation", 0.0)
        await eventually(lambda: world.metric("understudy_degraded", dependency="redis") == 0)
        assert not world.beats[-1].suspended
        assert gateway.degraded() == []
        world.ledger.down = True
        await eventually(lambda: world.metric("understudy_degraded", dependency="redis") == 1)
        assert suspended() == 0  # what was leased can still be spent
        assert (await ask(client, "unsure")).headers["x-understudy-served-by"] == "teacher"

    run(world, step)


def test_a_redis_that_reads_and_does_not_write_suspends_the_promise_until_it_writes_again(world: World) -> None:
    world.serve()
    world.ledger.read_only = True

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "unsure")).headers["x-understudy-degraded"] == "budget_unavailable"
        beats = len(world.beats)
        await eventually(lambda: len(world.beats) > beats + 3)
        assert world.beats[-1].suspended
        assert world.metric("understudy_promise_suspended") == 1
        world.ledger.read_only = False
        await eventually(lambda: world.metric("understudy_promise_suspended") == 0)

    run(world, step)


def test_the_promise_is_suspended_while_redis_hangs(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await eventually(lambda: bool(world.beats))
        world.ledger.hang = threading.Event()
        withheld = await ask(client, "unsure")
        assert withheld.headers["x-understudy-degraded"] == "budget_unavailable"
        world.ledger.hang.set()
        await eventually(lambda: world.metric("understudy_promise_suspended") == 0)

    run(world, step)


def test_a_forced_request_gets_the_teacher_or_the_true_cause(world: World) -> None:
    world.serve()
    world.endpoint.status = 500

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        forced = await ask(client, "sure", X_Understudy_Force="teacher")
        assert (forced.status_code, forced.json()["error"]["code"]) == (503, "teacher_down")
        world.endpoint.status, world.endpoint.answer = 200, "perhaps"
        forced = await ask(client, "sure", X_Understudy_Force="teacher")
        assert (forced.status_code, forced.json()["error"]["code"]) == (502, "invalid_answer")
        assert gateway.degraded() == []

    run(world, step)


def test_what_answers_go_on_without_is_named_for_each_dependency(world: World) -> None:
    world.serve()
    world.endpoint.status = 500

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        world.sink.healthy = False
        for _ in range(TEACHER.breaker_failures):
            await ask(client, "unsure")
        assert gateway.degraded() == ["log of acme/intent", "teacher of acme/intent"]
        await eventually(lambda: world.metric("understudy_degraded", dependency="log") == 1)
        await eventually(lambda: world.metric("understudy_degraded", dependency="teacher") == 1)
        assert gateway.ready()

    run(world, step)


@pytest.mark.parametrize("order", [1, -1])
def test_a_list_that_nobody_could_answer_is_told_the_cause_that_lasts_longest(order: int, tmp_path: Path) -> None:
    refusals = [
        Refusal(status=429, code="overloaded", message="busy", retry_after_s=1),
        Refusal(status=503, code="budget_exhausted", message="spent", retry_after_s=60),
    ]
    face = Classify()
    asked = face.decode(b'{"model": "support", "input": ["a", "b"]}', World(tmp_path).parts().settings)
    response = _respond(Given(first_id="1", at_s=1.0, found=refusals[::order]), asked, face)
    assert (response.status_code, response.headers["retry-after"]) == (503, "60")
    assert b"budget_exhausted" in response.body


def test_while_redis_hangs_the_student_answers_soon_and_who_wants_the_teacher_waits_for_it(world: World) -> None:
    world.serve()

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.ledger.hang = threading.Event()
        forced = asyncio.create_task(ask(client, "sure", X_Understudy_Force="teacher"))
        withheld = await ask(client, "unsure")
        assert withheld.headers["x-understudy-served-by"] == "student"
        assert not forced.done()
        world.ledger.hang.set()
        assert (await forced).headers["x-understudy-served-by"] == "teacher"

    run(world, step)
