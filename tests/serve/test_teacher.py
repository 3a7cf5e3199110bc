"""The teacher client against an endpoint that misbehaves."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, lists

from serve.settings import TeacherSettings
from serve.teacher.client import Answered, Breaker, Invalid, Reply, Teacher, Unavailable, prompt_version
from store.errors import SettingsError
from tests.serve.fakes import LABELS, TEACHER, FakeEndpoint, eventually


def ask(endpoint: FakeEndpoint, text: str = "hello", settings: TeacherSettings = TEACHER) -> Reply:
    teacher = Teacher(settings, LABELS, monotonic=lambda: 0.0, client=endpoint.client())
    return asyncio.run(teacher.ask(text))


def test_an_answer_carries_its_cost_usage_and_prompt_version() -> None:
    reply = ask(FakeEndpoint())
    assert isinstance(reply, Answered)
    assert reply.answer.label == "no"
    assert reply.answer.cost_usd == pytest.approx(24e-6)
    assert reply.answer.usage.prompt_tokens == 20
    assert len(reply.answer.prompt_version) == 16


def test_text_with_dollar_signs_reaches_the_teacher_unchanged() -> None:
    endpoint = FakeEndpoint()
    ask(endpoint, "refund $text and $5 to $labels")
    assert endpoint.bodies[0]["messages"][0]["content"].endswith("Text: refund $text and $5 to $labels")


def test_an_endpoint_that_does_not_say_what_it_used_costs_the_bound() -> None:
    endpoint = FakeEndpoint()
    endpoint.usage = None
    reply = ask(endpoint, "hé")
    assert isinstance(reply, Answered)
    prompt = "One of:\nyes\nno\nmaybe\nText: hé"
    assert reply.answer.cost_usd == pytest.approx((len(prompt.encode()) + 32) * 1e-6 + 8 * 2e-6)


def test_an_answer_off_the_list_is_invalid_and_still_costs() -> None:
    endpoint = FakeEndpoint()
    endpoint.answer = "I would say no"
    reply = ask(endpoint)
    assert isinstance(reply, Invalid)
    assert reply.cost_usd == pytest.approx(24e-6)


@pytest.mark.parametrize(
    ("status", "failure", "billed", "calls"),
    [
        (500, None, False, 2),
        (429, None, False, 2),
        (400, None, False, 1),
        (200, httpx2.ConnectError("refused"), False, 2),
        (200, httpx2.ReadTimeout("slow"), True, 1),
    ],
)
def test_only_a_call_that_was_surely_not_billed_is_sent_again(
    status: int,
    failure: Exception | None,
    billed: bool,  # noqa: FBT001 - a case, not a flag
    calls: int,
) -> None:
    endpoint = FakeEndpoint()
    endpoint.status, endpoint.failure = status, failure
    reply = ask(endpoint, settings=replace(TEACHER, attempts=2))
    assert isinstance(reply, Unavailable)
    assert reply.billed == billed
    assert len(endpoint.bodies) == calls


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>sign in</html>",
        b"[]",
        b"\xff",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["no"]}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b'{"choices": ' + b"[" * 100_000,
    ],
)
def test_an_endpoint_that_answers_with_something_else_is_down_and_may_have_been_billed(raw: bytes) -> None:
    endpoint = FakeEndpoint()
    endpoint.raw = raw
    reply = ask(endpoint, settings=replace(TEACHER, attempts=2))
    assert isinstance(reply, Unavailable)
    assert reply.billed
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None, "completion_tokens": 2}, {"prompt_tokens": -1}, {"a": 1}]
)
def test_a_count_that_makes_no_sense_costs_the_bound_and_the_answer_is_kept(usage: dict[str, Any]) -> None:
    endpoint = FakeEndpoint()
    endpoint.usage = None
    bound = ask(endpoint)
    endpoint.usage = usage
    reply = ask(endpoint)
    assert isinstance(reply, Answered)
    assert isinstance(bound, Answered)
    assert reply.answer.cost_usd == bound.answer.cost_usd


@pytest.mark.parametrize("status", [400, 422])
def test_requests_that_the_endpoint_refuses_do_not_close_it_to_others(status: int) -> None:
    async def main() -> None:
        endpoint = FakeEndpoint()
        teacher = Teacher(replace(TEACHER, breaker_failures=2), LABELS, monotonic=lambda: 0.0, client=endpoint.client())
        endpoint.status = status
        for _ in range(5):
            assert isinstance(await teacher.ask("what the filter takes out"), Unavailable)
        endpoint.status = 200
        assert isinstance(await teacher.ask("somebody else's question"), Answered)

    asyncio.run(main())


def test_no_more_calls_run_at_once_than_the_cap_allows() -> None:
    async def main() -> int:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        teacher = Teacher(replace(TEACHER, concurrency=3), LABELS, monotonic=lambda: 0.0, client=endpoint.client())
        calls = [asyncio.create_task(teacher.ask(f"{index}")) for index in range(10)]
        await eventually(lambda: endpoint.running == 3)
        endpoint.hold.set()
        assert all(isinstance(reply, Answered) for reply in await asyncio.gather(*calls))
        return endpoint.most_running

    assert asyncio.run(main()) == 3


def test_waiting_for_a_turn_ends_with_the_time_out() -> None:
    async def main() -> Reply:
        endpoint = FakeEndpoint()
        settings = replace(TEACHER, concurrency=1, timeout_s=0.05)
        teacher = Teacher(settings, LABELS, monotonic=lambda: 0.0, client=endpoint.client())
        await teacher._turns.acquire()
        return await teacher.ask("b")

    assert asyncio.run(main()) == Unavailable(
        detail="no turn within the time-out: raise teacher.concurrency", billed=False
    )


def test_an_endpoint_that_hangs_is_left_after_the_time_out_and_counts_as_billed() -> None:
    async def main() -> Reply:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        settings = replace(TEACHER, timeout_s=0.05)
        return await Teacher(settings, LABELS, monotonic=lambda: 0.0, client=endpoint.client()).ask("a")

    reply = asyncio.run(main())
    assert isinstance(reply, Unavailable)
    assert reply.billed


def test_the_circuit_opens_after_failures_and_lets_one_call_try_again() -> None:
    async def main() -> None:
        endpoint, now = FakeEndpoint(), [0.0]
        endpoint.status = 500
        settings = replace(TEACHER, breaker_failures=3, breaker_open_s=10.0)
        teacher = Teacher(settings, LABELS, monotonic=lambda: now[0], client=endpoint.client())
        for _ in range(5):
            await teacher.ask("a")
        assert len(endpoint.bodies) == 3
        now[0] = 9.9
        assert [teacher.available] == [False]
        now[0] = 10.0
        assert [teacher.available] == [True]
        endpoint.hold = asyncio.Event()
        probe = asyncio.create_task(teacher.ask("probe"))
        await eventually(lambda: endpoint.running == 1)
        assert isinstance(await teacher.ask("beside the probe"), Unavailable)
        endpoint.status = 200
        endpoint.hold.set()
        assert isinstance(await probe, Answered)
        assert isinstance(await teacher.ask("after"), Answered)

    asyncio.run(main())


@given(outcomes=lists(booleans(), max_size=60))
def test_a_breaker_is_open_only_after_that_many_failures_in_a_row(outcomes: list[bool]) -> None:
    breaker, row = Breaker(failures=3, open_s=5.0), 0
    for now_s, succeeded in enumerate(outcomes):
        if not breaker.admit(float(now_s)):
            assert row >= 3
            continue
        row = 0 if succeeded else row + 1
        breaker.succeeded() if succeeded else breaker.failed(float(now_s))
        assert breaker.is_open(float(now_s)) == (row >= 3)


SHAPE: dict[str, Any] = {
    "model": "m",
    "prompt": "$text",
    "parameters": {"temperature": 0},
    "labels": ["a", "b"],
    "answer_format": "text",
}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"prompt": "$text!"},
        {"parameters": {"temperature": 1}},
        {"labels": ["b", "a"]},
        {"answer_format": "json"},
    ],
)
def test_all_that_shapes_an_answer_changes_the_prompt_version(change: dict[str, Any]) -> None:
    assert prompt_version(**SHAPE) == prompt_version(**SHAPE)
    assert prompt_version(**(SHAPE | change)) != prompt_version(**SHAPE)


@pytest.mark.parametrize("prompt", ["no place", "$labels", "$text $other", "$text $ 5"])
def test_a_prompt_must_hold_the_text_and_nothing_that_nobody_fills(prompt: str) -> None:
    with pytest.raises(SettingsError, match="prompt_file"):
        replace(TEACHER, prompt=prompt)


def test_a_prompt_may_leave_the_labels_out_and_write_dollars() -> None:
    check: Callable[[str], TeacherSettings] = lambda prompt: replace(TEACHER, prompt=prompt)  # noqa: E731
    assert check("$text costs $$5").prompt


def test_once_it_stops_asking_what_was_sent_is_answered_and_what_waits_costs_nothing() -> None:
    async def scene() -> None:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        settings = replace(TEACHER, concurrency=1)
        teacher = Teacher(settings, LABELS, monotonic=lambda: 0.0, client=endpoint.client())
        sent, waits = asyncio.create_task(teacher.ask("one")), asyncio.create_task(teacher.ask("two"))
        await eventually(lambda: endpoint.running == 1)
        teacher.stop_asking()
        endpoint.hold.set()
        assert isinstance(await sent, Answered)
        for reply in (await waits, await teacher.ask("three")):
            assert isinstance(reply, Unavailable)
            assert not reply.billed
        assert len(endpoint.bodies) == 1

    asyncio.run(scene())
