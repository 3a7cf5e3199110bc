"""The official client, unchanged, on a real port: whole answers and streams, of the student and of the teacher."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from serve.lifecycle import Gateway
from store.event import ChatEscalation, decode, encode
from tests.serve.chat.fakes import FakeTalker, chat_world, listening, teacher_in
from tests.serve.fakes import World, eventually

Step = Callable[[openai.AsyncOpenAI, Gateway], Awaitable[None]]


def run(world: World, step: Step) -> None:
    async def main() -> None:
        async with listening(world) as (client, gateway, _):
            await step(client, gateway)

    asyncio.run(main())


def said(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def only(world: World) -> ChatEscalation:
    (event,) = world.sink.events
    assert isinstance(event, ChatEscalation)
    assert decode(encode(event)) == event
    return event


def served(folder: Path, **changes: Any) -> World:
    world = chat_world(folder, **changes)
    world.serve(student=FakeTalker())
    return world


def test_a_sure_student_answers_and_nothing_goes_to_the_teacher(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        raw = await client.chat.completions.with_raw_response.create(model="intent", messages=said("hello"))
        found = raw.parse()
        assert raw.headers["x-understudy-served-by"] == "student"
        assert found.object == "chat.completion"
        assert found.choices[0].message.content == "you said: hello"
        assert found.choices[0].finish_reason == "stop"
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (1, 3, 4)
        assert found.model == "intent"

    run(world, step)
    assert world.sink.events == []
    assert teacher_in(world).bodies == []


def test_an_unsure_student_leaves_it_to_the_teacher_whose_completion_comes_as_it_was(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.chat.completions.create(
            model="intent", messages=said("unsure  4111 1111 1111 1111"), temperature=0.7, user="u-1"
        )
        assert (found.id, found.model, found.system_fingerprint) == ("t-1", "big-2", "fp")
        assert found.choices[0].message.content == "the teacher says so"

    run(world, step)
    (sent,) = teacher_in(world).bodies
    assert sent == {"model": "big", "messages": said("unsure  4111 1111 1111 1111"), "temperature": 0.7}
    event = only(world)
    assert event.input.messages[0].content.startswith("unsure  <CARD:")
    assert (event.teacher.text, event.eligible, event.escalation.reason) == (
        "the teacher says so",
        True,
        "low_confidence",
    )
    assert event.student is not None
    assert event.student.output.startswith("you said: unsure  <CARD:")
    assert event.subject is not None


def test_personal_data_comes_back_in_the_students_answer_and_the_student_never_reads_it(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.chat.completions.create(model="intent", messages=said("it is 4111 1111 1111 1111"))
        assert found.choices[0].message.content == "you said: it is 4111 1111 1111 1111"

    run(world, step)
    student = world.registry.students["a"]
    assert isinstance(student, FakeTalker)
    assert "4111" not in repr(student.seen)


async def texts(stream: Any) -> tuple[list[str], list[Any]]:
    """The pieces of a stream's text, and its chunks."""
    chunks = [chunk async for chunk in stream]
    return [one.choices[0].delta.content or "" for one in chunks if one.choices], chunks


def test_a_students_stream_is_its_answer_in_pieces_with_usage_where_that_is_asked_for(tmp_path: Path) -> None:
    world = served(tmp_path)
    text = "word " * 20

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        plain = await client.chat.completions.create(model="intent", messages=said(text), stream=True)
        pieces, chunks = await texts(plain)
        assert len(pieces) > 4
        assert "".join(pieces) == f"you said: {text}"
        assert [one.choices[0].finish_reason for one in chunks][-1] == "stop"
        counted = await client.chat.completions.create(
            model="intent", messages=said(text), stream=True, stream_options={"include_usage": True}
        )
        chunks = (await texts(counted))[1]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 22

    run(world, step)


def test_a_teachers_stream_is_read_while_it_comes_and_its_event_is_there_before_the_end(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher = teacher_in(world)
        teacher.held = asyncio.Event()
        stream = await client.chat.completions.create(model="intent", messages=said("unsure"), stream=True)
        first = await anext(aiter(stream))
        assert first.choices[0].delta.role == "assistant"
        assert world.sink.events == []  # the teacher has not come to its end, and we read already
        teacher.held.set()
        pieces, chunks = await texts(stream)
        assert "".join(pieces) == "the teacher says so"
        assert all(one.choices for one in chunks)  # nobody asked for the tokens
        assert len(world.sink.events) == 1
        assert {one.model for one in chunks} == {"big-2"}

    run(world, step)
    event = only(world)
    assert event.teacher.text == "the teacher says so"
    assert event.teacher.usage.prompt_tokens == 20
    assert event.teacher.cost_usd == pytest.approx(24e-6)
    assert teacher_in(world).bodies[0]["stream_options"] == {"include_usage": True}


def test_a_client_that_leaves_in_the_middle_of_a_stream_loses_no_paid_answer(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher = teacher_in(world)
        teacher.held = asyncio.Event()
        stream = await client.chat.completions.create(model="intent", messages=said("unsure"), stream=True)
        await anext(aiter(stream))
        await stream.close()
        teacher.held.set()
        await eventually(lambda: len(world.sink.events) == 1)

    run(world, step)
    assert only(world).teacher.text == "the teacher says so"


def test_a_teacher_that_breaks_off_midway_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher_in(world).breaks = True
        stream = await client.chat.completions.create(model="intent", messages=said("unsure"), stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            await texts(stream)

    run(world, step)
    assert world.sink.events == []
    assert world.metric("understudy_teacher_calls_total", outcome="unavailable") == 1


def test_a_teacher_that_does_not_begin_leaves_a_stream_to_the_student(tmp_path: Path) -> None:
    world = served(tmp_path)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher_in(world).status = 500
        stream = await client.chat.completions.create(model="intent", messages=said("unsure"), stream=True)
        pieces, _chunks = await texts(stream)
        assert "".join(pieces) == "you said: unsure"

    run(world, step)


def test_a_stream_that_nobody_answers_is_an_http_error(tmp_path: Path) -> None:
    world = chat_world(tmp_path)  # cold

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher_in(world).status = 500
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="intent", messages=said("hello"), stream=True)
        assert failed.value.status_code == 503
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=said("hello"))

    run(world, step)


def test_what_no_student_can_do_goes_to_the_teacher_and_nobody_learns_it(tmp_path: Path) -> None:
    world = served(tmp_path)
    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    tool: Any = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teacher_in(world).message = {"role": "assistant", "content": None, "tool_calls": [call]}
        teacher_in(world).finish_reason = "tool_calls"
        found = await client.chat.completions.create(model="intent", messages=said("pay it"), tools=[tool])
        assert found.choices[0].message.tool_calls is not None
        assert found.choices[0].message.tool_calls[0].id == "c1"

    run(world, step)
    event = only(world)
    assert (event.escalation.reason, event.eligible) == ("unsupported", False)
    assert event.input.shape == {"tools": [tool]}
    assert event.teacher.tool_calls == [call]
    assert teacher_in(world).bodies[0]["tools"] == [tool]


def test_the_models_are_the_lanes_that_a_key_opens(tmp_path: Path) -> None:
    world = served(tmp_path)
    world.api_keys = ("any",)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.models.list()
        assert [(one.id, one.object, one.owned_by) for one in found.data] == [("intent", "model", "understudy")]
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()

    run(world, step)
