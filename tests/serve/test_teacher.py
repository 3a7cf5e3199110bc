"""The teacher client against an endpoint that misbehaves."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis.strategies import binary, booleans, lists, one_of, sampled_from, text

from serve.settings import BudgetSettings, LaneSettings, TeacherSettings
from serve.teacher.breaker import Breaker
from serve.teacher.client import Answered, Invalid, Reply, Unavailable
from store.answers.prompt import prompt_version
from store.errors import SettingsError
from store.event import LabelAnswer, Lane, TeacherAnswer
from store.tasks.tasks import LaneTerms
from tests.serve.fakes import TEACHER, FakeEndpoint, eventually, teacher_of, text_input


def ask(endpoint: FakeEndpoint, text: str = "hello", settings: TeacherSettings = TEACHER) -> Reply:
    teacher = teacher_of(settings, monotonic=lambda: 0.0, client=endpoint.client())
    return asyncio.run(teacher.ask(text_input(text)))


def labelled(answer: TeacherAnswer) -> LabelAnswer:
    assert isinstance(answer, LabelAnswer)
    return answer


def test_an_answer_carries_its_cost_usage_and_prompt_version() -> None:
    reply = ask(FakeEndpoint())
    assert isinstance(reply, Answered)
    assert labelled(reply.answer).label == "no"
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
        (500, None, True, 1),
        (502, None, True, 1),
        (504, None, True, 1),
        (524, None, True, 1),
        (429, None, False, 2),
        (503, None, False, 2),
        (400, None, False, 1),
        (408, None, True, 1),
        (413, None, False, 1),
        (200, httpx2.ConnectError("refused"), False, 2),
        (200, httpx2.ConnectTimeout("far away"), False, 2),
        (200, httpx2.ReadTimeout("slow"), True, 1),
        (200, httpx2.ReadError("reset"), True, 1),
        (200, httpx2.RemoteProtocolError("half a header"), True, 1),
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
        b'{"choices": [{"message": {"content": 1}}]}',
        b'{"choices": ' + b"9" * 5_000,
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
    "usage",
    [
        {},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 10**40, "completion_tokens": 1},
        {"prompt_tokens": None, "completion_tokens": 2},
        {"prompt_tokens": -1},
        {"a": 1},
    ],
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


@pytest.mark.parametrize("status", [400, 403, 408, 409, 413, 414, 415, 418, 422, 431, 451])
def test_requests_that_the_endpoint_refuses_do_not_close_it_to_others(status: int) -> None:
    async def main() -> None:
        endpoint = FakeEndpoint()
        teacher = teacher_of(replace(TEACHER, breaker_failures=2), monotonic=lambda: 0.0, client=endpoint.client())
        endpoint.status = status
        for _ in range(5):
            assert isinstance(await teacher.ask(text_input("what the filter takes out")), Unavailable)
        endpoint.status = 200
        assert isinstance(await teacher.ask(text_input("somebody else's question")), Answered)

    asyncio.run(main())


def test_no_more_calls_run_at_once_than_the_cap_allows() -> None:
    async def main() -> int:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        teacher = teacher_of(replace(TEACHER, concurrency=3), monotonic=lambda: 0.0, client=endpoint.client())
        calls = [asyncio.create_task(teacher.ask(text_input(f"{index}"))) for index in range(10)]
        await eventually(lambda: endpoint.running == 3)
        endpoint.hold.set()
        assert all(isinstance(reply, Answered) for reply in await asyncio.gather(*calls))
        return endpoint.most_running

    assert asyncio.run(main()) == 3


def test_waiting_for_a_turn_ends_with_the_time_out() -> None:
    async def main() -> Reply:
        endpoint = FakeEndpoint()
        settings = replace(TEACHER, concurrency=1, timeout_s=0.05)
        teacher = teacher_of(settings, monotonic=lambda: 0.0, client=endpoint.client())
        await teacher._turns.acquire()
        return await teacher.ask(text_input("b"))

    assert asyncio.run(main()) == Unavailable(
        detail="no turn within the time-out: raise teacher.concurrency", billed=False
    )


def test_an_endpoint_that_hangs_is_left_after_the_time_out_and_counts_as_billed() -> None:
    async def main() -> Reply:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        settings = replace(TEACHER, timeout_s=0.05)
        return await teacher_of(settings, monotonic=lambda: 0.0, client=endpoint.client()).ask(text_input("a"))

    reply = asyncio.run(main())
    assert isinstance(reply, Unavailable)
    assert reply.billed


def test_the_circuit_opens_after_failures_and_lets_one_call_try_again() -> None:
    async def main() -> None:
        endpoint, now = FakeEndpoint(), [0.0]
        endpoint.status = 500
        settings = replace(TEACHER, breaker_failures=3, breaker_open_s=10.0)
        teacher = teacher_of(settings, monotonic=lambda: now[0], client=endpoint.client())
        for _ in range(5):
            await teacher.ask(text_input("a"))
        assert len(endpoint.bodies) == 3
        now[0] = 9.9
        assert [teacher.available] == [False]
        now[0] = 10.0
        assert [teacher.available] == [True]
        endpoint.hold = asyncio.Event()
        probe = asyncio.create_task(teacher.ask(text_input("probe")))
        await eventually(lambda: endpoint.running == 1)
        assert isinstance(await teacher.ask(text_input("beside the probe")), Unavailable)
        endpoint.status = 200
        endpoint.hold.set()
        assert isinstance(await probe, Answered)
        assert isinstance(await teacher.ask(text_input("after")), Answered)

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
    "answer_format": "text",
}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"prompt": "$text!"},
        {"parameters": {"temperature": 1}},
        {"answer_format": "json"},
    ],
)
def test_all_that_shapes_an_answer_changes_the_prompt_version(change: dict[str, Any]) -> None:
    assert prompt_version(**SHAPE) == prompt_version(**SHAPE)
    assert prompt_version(**(SHAPE | change)) != prompt_version(**SHAPE)


def test_a_prompt_version_is_what_it_was_before_the_labels_came_out_of_it() -> None:
    assert prompt_version(**SHAPE, labels=["a", "b"]) == "d18453968be97acc"
    assert prompt_version(**SHAPE, labels=["b", "a"]) != "d18453968be97acc" != prompt_version(**SHAPE)


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "", None])
def test_an_answer_that_ended_by_itself_is_read(reason: str | None) -> None:
    endpoint = FakeEndpoint()
    endpoint.raw = json.dumps({"choices": [{"message": {"content": "no"}, "finish_reason": reason}]}).encode()
    assert isinstance(ask(endpoint), Answered)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"finish_reason": "length"}, "raise lanes.teacher.parameters.max_tokens"),
        ({"finish_reason": "MAX_TOKENS"}, "raise lanes.teacher.parameters.max_tokens"),
        ({"finish_reason": "content_filter"}, "content filter"),
        ({"finish_reason": "tool_calls"}, "tool_calls"),
        ({"finish_reason": {"no": 1}}, "something else"),
        ({"finish_reason": 7}, "something else"),
        ({"message": {"content": "no", "refusal": "I cannot"}}, "refused"),
        ({"message": {"content": None}}, "is empty"),
        ({"message": {"content": "\ud800"}}, "half a character"),
    ],
)
def test_an_answer_that_did_not_end_by_itself_is_paid_and_of_no_use(change: dict[str, Any], says: str) -> None:
    endpoint = FakeEndpoint()
    choice = {"message": {"content": "no"}, "finish_reason": "stop"} | change
    endpoint.raw = json.dumps({"choices": [choice], "usage": endpoint.usage}).encode()
    reply = ask(endpoint)
    assert isinstance(reply, Invalid)
    assert says in reply.detail
    assert reply.cost_usd == pytest.approx(24e-6)


def test_an_answer_in_parts_is_the_text_of_its_parts() -> None:
    endpoint = FakeEndpoint()
    parts = [{"type": "text", "text": "n"}, {"type": "reasoning", "text": "yes"}, {"type": "text", "text": "o"}]
    endpoint.raw = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    reply = ask(endpoint)
    assert isinstance(reply, Answered)
    assert labelled(reply.answer).label == "no"


def test_numbers_that_json_does_not_have_spoil_no_answer() -> None:
    endpoint = FakeEndpoint()
    endpoint.raw = b'{"choices": [{"message": {"content": "no"}, "logprobs": [NaN, -Infinity]}], "usage": {"a": NaN}}'
    assert isinstance(ask(endpoint), Answered)


@given(raw=one_of(binary(max_size=200), text(max_size=100).map(lambda said: json.dumps(said).encode())))
def test_no_bytes_of_an_endpoint_raise(raw: bytes) -> None:
    endpoint = FakeEndpoint()
    endpoint.raw = raw
    assert isinstance(ask(endpoint), Unavailable | Invalid)


def test_parameters_go_into_the_body_whether_the_client_knows_them_or_not() -> None:
    endpoint = FakeEndpoint()
    parameters = {
        "temperature": 0,
        "top_k": 5,
        "chat_template_kwargs": {"enable_thinking": False},
        "repetition_penalty": 1.1,
        "extra_body": {"min_p": 0.1},
        "extra_headers": {"X-Title": "desk"},
    }
    assert isinstance(ask(endpoint, settings=replace(TEACHER, parameters=parameters)), Answered)
    body = endpoint.bodies[0]
    assert body["top_k"] == 5
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["min_p"] == 0.1
    assert "extra_body" not in body
    assert body["model"] == "big"


def test_a_limit_that_is_set_beside_the_rest_bounds_the_cost() -> None:
    teacher = teacher_of(
        replace(TEACHER, parameters={"extra_body": {"max_tokens": 1_000_000}}),
        monotonic=lambda: 0.0,
        client=FakeEndpoint().client(),
    )
    assert teacher.cost_bound_usd(text_input("a")) > 2.0


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {}, "key"),
        (403, {"error": {"code": "permission_denied"}}, "key"),
        (403, [{"error": {"status": "PERMISSION_DENIED"}}], "key"),
        (400, {"error": {"details": [{"reason": "API_KEY_INVALID"}]}}, "key"),
        (404, {"error": {"code": "model_not_found"}}, "model"),
        (404, {}, "model"),
        (400, {"error": {"code": "unsupported_parameter"}}, "parameters"),
        (429, {"error": {"code": "insufficient_quota"}}, "quota"),
        (402, {}, "quota"),
        (308, {}, "address"),
        (405, {}, "address"),
    ],
)
def test_a_fault_of_the_settings_is_said_at_once_and_tried_ever_more_rarely(
    status: int, body: dict[str, Any], reason: str
) -> None:
    async def main() -> None:
        endpoint, now = FakeEndpoint(), [0.0]
        endpoint.status, endpoint.raw = status, json.dumps(body).encode()
        settings = replace(TEACHER, attempts=3, breaker_open_s=10.0)
        teacher = teacher_of(settings, monotonic=lambda: now[0], client=endpoint.client())
        assert teacher.available
        await asyncio.gather(*(teacher.ask(text_input("a")) for _ in range(4)))
        assert teacher.refused == reason
        assert len(endpoint.bodies) == 4
        for after_s, calls in ((9.0, 4), (10.0, 5), (29.0, 5), (30.0, 6), (1_000.0, 7), (1_079.0, 7), (1_080.0, 8)):
            now[0] = after_s
            assert isinstance(await teacher.ask(text_input("a")), Unavailable)
            assert len(endpoint.bodies) == calls
        now[0], endpoint.status, endpoint.raw = 2_000.0, 200, None
        assert isinstance(await teacher.ask(text_input("a")), Answered)
        assert [teacher.refused] == [None]
        endpoint.status = 401
        await teacher.ask(text_input("a"))
        now[0] = 2_010.0
        assert teacher.available

    asyncio.run(main())


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_a_3xx_that_is_no_redirect_is_the_teachers_own_failure(status: int) -> None:
    async def main() -> None:
        endpoint = FakeEndpoint()
        endpoint.status = status
        teacher = teacher_of(replace(TEACHER, breaker_failures=2), monotonic=lambda: 0.0, client=endpoint.client())
        reply = await teacher.ask(text_input("a"))
        assert isinstance(reply, Unavailable)
        assert (reply.billed, teacher.refused, teacher.available) == (True, None, True)
        assert "base_url" not in reply.detail
        await teacher.ask(text_input("a"))
        assert not teacher.available

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "body", "billed"),
    [
        (403, {"error": {"code": "moderation", "type": "permission_error"}}, True),
        (403, {"error": {"metadata": {"flagged_input": "a"}, "code": 403}}, True),
        (400, {"error": {"code": "content_filter"}}, True),
        (403, {"error": {"message": "your API key has no permission"}}, True),
        (400, {"error": {"message": "insufficient_quota"}}, False),
    ],
)
def test_what_a_question_brought_on_itself_is_no_fault_of_the_settings(
    status: int,
    body: dict[str, Any],
    billed: bool,  # noqa: FBT001 - a case, not a flag
) -> None:
    async def main() -> None:
        endpoint = FakeEndpoint()
        endpoint.status, endpoint.raw = status, json.dumps(body).encode()
        teacher = teacher_of(TEACHER, monotonic=lambda: 0.0, client=endpoint.client())
        for _ in range(6):
            reply = await teacher.ask(text_input("a"))
            assert isinstance(reply, Unavailable)
            assert reply.billed == billed
        assert teacher.refused is None
        assert teacher.available

    asyncio.run(main())


@given(outcomes=lists(sampled_from(["failed", "passed_over", "succeeded"]), max_size=60))
def test_what_questions_bring_on_themselves_neither_opens_nor_closes_a_circuit(outcomes: list[str]) -> None:
    breaker, row = Breaker(failures=3, open_s=0.0), 0
    for now_s, outcome in enumerate(outcomes):
        assert breaker.admit(float(now_s))
        getattr(breaker, outcome)(*(() if outcome == "succeeded" else (float(now_s),)))
        row = {"failed": row + 1, "passed_over": row, "succeeded": 0}[outcome]
        assert (breaker._retry_at_s is not None) == (row >= 3)


def prompted(prompt: str) -> LaneSettings:
    return LaneSettings(
        lane=Lane("acme", "support"),
        task="classify",
        terms=LaneTerms(labels=("yes", "no")),
        training_permitted=True,
        teacher=replace(TEACHER, prompt=prompt),
        budget=BudgetSettings(calls_per_day=1),
    )


@pytest.mark.parametrize("prompt", ["no place", "$labels", "$text $other", "$text $ 5"])
def test_a_prompt_must_hold_the_text_and_nothing_that_nobody_fills(prompt: str) -> None:
    with pytest.raises(SettingsError, match="prompt_file"):
        prompted(prompt)


def test_a_prompt_may_leave_the_labels_out_and_write_dollars() -> None:
    assert prompted("$text costs $$5").teacher.prompt


def test_once_it_stops_asking_what_was_sent_is_answered_and_what_waits_costs_nothing() -> None:
    async def scene() -> None:
        endpoint = FakeEndpoint()
        endpoint.hold = asyncio.Event()
        settings = replace(TEACHER, concurrency=1)
        teacher = teacher_of(settings, monotonic=lambda: 0.0, client=endpoint.client())
        sent, waits = (
            asyncio.create_task(teacher.ask(text_input("one"))),
            asyncio.create_task(teacher.ask(text_input("two"))),
        )
        await eventually(lambda: endpoint.running == 1)
        teacher.stop_asking()
        endpoint.hold.set()
        assert isinstance(await sent, Answered)
        for reply in (await waits, await teacher.ask(text_input("three"))):
            assert isinstance(reply, Unavailable)
            assert not reply.billed
        assert len(endpoint.bodies) == 1

    asyncio.run(scene())
