"""Deciding before an answer is whole: what leaves when, who is asked, and what becomes of it when something breaks.

The property of all of them: once a token has left, the teacher is never asked for that answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import openai
import pytest
from msgspec import structs

from serve.completions.stream import Speech
from serve.lifecycle import Gateway
from store.policy import EarlyPolicy
from store.tasks.chat import ChatTerms
from store.tasks.tasks import LaneTerms
from tests.serve.chat.fakes import chat_world, listening, question, teacher_in
from tests.serve.chat.teller import EARLY, Teller
from tests.serve.fakes import World, eventually

Step = Callable[[openai.AsyncOpenAI, Gateway], Awaitable[None]]
Early = Literal["prompt", "first_tokens"]
BOTH = pytest.mark.parametrize("decide", ["prompt", "first_tokens"])


def served(folder: Path, decide: Early, **changes: Any) -> tuple[World, Teller]:
    world = chat_world(folder, terms=LaneTerms(chat=ChatTerms(decide=decide)), **{"audit_ratio": 0.0, **changes})
    teller = Teller()
    world.serve(student=teller)
    return world, teller


def run(world: World, step: Step) -> None:
    async def main() -> None:
        async with listening(world) as (client, gateway, _):
            await step(client, gateway)

    asyncio.run(main())


async def stream(client: openai.AsyncOpenAI, text: str, **more: Any) -> Any:
    return await client.chat.completions.create(**question(text, stream=True, **more))


async def read(found: Any) -> tuple[str, list[Any]]:
    chunks = [one async for one in found]
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices), chunks


@BOTH
def test_a_trusted_students_stream_begins_before_its_answer_is_whole(tmp_path: Path, decide: Early) -> None:
    world, teller = served(tmp_path, decide)
    teller.free = False

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teller.turn.release(3)
        raw = await client.chat.completions.with_raw_response.create(**question("a b c d e f", stream=True))
        assert raw.headers["x-understudy-served-by"] == "student"
        assert raw.headers["x-understudy-version"] == "a"
        events = aiter(raw.parse())
        first = await anext(events)
        assert first.choices[0].delta.role == "assistant"
        assert first.choices[0].delta.content
        assert teller.steps <= 4, "the answer was whole already"
        teller.free = True
        teller.turn.release(20)
        rest, chunks = await read(events)
        assert first.choices[0].delta.content + rest == "you said: a b c d e f"
        assert chunks[-1].choices[0].finish_reason == "stop"

    run(world, step)
    assert teacher_in(world).bodies == []
    assert world.sink.events == []
    assert teller.begun == 1


@BOTH
def test_an_unsure_student_is_stopped_and_the_teachers_event_is_there_before_the_end(
    tmp_path: Path, decide: Early
) -> None:
    world, teller = served(tmp_path, decide)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        text, chunks = await read(await stream(client, "unsure b c d e f g h"))
        assert text == "the teacher says so"
        assert len(world.sink.events) == 1
        assert {one.model for one in chunks} == {"big-2"}

    run(world, step)
    (event,) = world.sink.events
    assert event.student is None, "it had not answered"
    assert (event.escalation.reason, event.escalation.threshold) == ("low_confidence", 0.8)
    assert teller.begun == (0 if decide == "prompt" else 1)
    if decide == "prompt":
        assert teller.steps == 0


@BOTH
def test_what_certifies_nothing_at_a_moment_escalates_all_of_that_kind_alone(tmp_path: Path, decide: Early) -> None:
    world, teller = served(tmp_path, decide)
    nothing = EarlyPolicy(threshold=None, coverage_ratio=0.0, rows=0, lower=0.0)
    teller.policy = structs.replace(EARLY, threshold=0.0, early={**EARLY.early, decide: nothing})

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        assert (await read(await stream(client, "hello")))[0] == "the teacher says so"
        whole = await client.chat.completions.create(**question("hello"))
        said = "the teacher says so" if decide == "prompt" else "you said: hello"  # whole ones are decided at the end
        assert whole.choices[0].message.content == said

    run(world, step)


@BOTH
def test_a_version_without_numbers_for_the_moment_decides_at_the_end(tmp_path: Path, decide: Early) -> None:
    world, teller = served(tmp_path, decide)
    teller.moments, teller.policy = (), structs.replace(EARLY, threshold=0.05, early={})

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        assert (await read(await stream(client, "hello")))[0] == "you said: hello"

    run(world, step)
    assert teacher_in(world).bodies == []
    assert teller.expected == 0


@BOTH
@pytest.mark.parametrize(
    "more", [{"response_format": {"type": "json_object"}}, {"max_tokens": 5}], ids=["structured", "limited"]
)
def test_what_must_be_whole_is_never_told_while_it_grows(tmp_path: Path, decide: Early, more: dict[str, Any]) -> None:
    world, teller = served(tmp_path, decide)
    teller.policy = structs.replace(EARLY, threshold=0.05)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        text, _chunks = await read(await stream(client, "cut short " + "word " * 20, **more))
        assert text == "the teacher says so"

    run(world, step)
    assert len(world.sink.events) == 1


@BOTH
def test_a_student_that_breaks_off_ends_the_stream_with_an_error_and_nobody_else_goes_on(
    tmp_path: Path, decide: Early
) -> None:
    world, _ = served(tmp_path, decide)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        with pytest.raises(openai.APIError, match="broke off"):
            await read(await stream(client, "breaks b c d e f g h"))

    run(world, step)
    assert teacher_in(world).bodies == []
    assert world.sink.events == []


@BOTH
def test_a_student_that_fails_before_anything_has_left_leaves_it_to_the_teacher(tmp_path: Path, decide: Early) -> None:
    world, teller = served(tmp_path, decide)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        teller.hurt = True
        assert (await read(await stream(client, "hello")))[0] == "the teacher says so"

    run(world, step)
    (event,) = world.sink.events
    assert event.escalation.reason == "student_down"


@BOTH
def test_a_client_that_leaves_ends_what_the_student_does_for_it(tmp_path: Path, decide: Early) -> None:
    world, teller = served(tmp_path, decide)
    teller.free = False

    async def step(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
        teller.turn.release(3)
        found = await stream(client, "a b c d e f g h i j k l m n o p q")
        await anext(aiter(found))
        await found.close()
        slot = gateway.lanes[0].service.slots.current
        assert slot is not None
        await eventually(lambda: _released(teller) and bool(teller.dropped))
        await eventually(lambda: slot.pins == 0)
        teller.free = True

    run(world, step)
    assert teller.steps < 19
    assert teacher_in(world).bodies == []


def _released(teller: Teller) -> bool:
    teller.turn.release()
    return True


@BOTH
def test_where_the_teacher_is_down_the_student_answers_whole(tmp_path: Path, decide: Early) -> None:
    world, _ = served(tmp_path, decide)

    async def step(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
        teacher_in(world).status = 500
        assert (await read(await stream(client, "unsure b c")))[0] == "you said: unsure b c"
        slot = gateway.lanes[0].service.slots.current
        assert slot is not None
        await eventually(lambda: slot.pins == 0)

    run(world, step)
    assert world.sink.events == []


@BOTH
def test_an_audit_has_the_whole_answer_and_how_sure_it_was_then(tmp_path: Path, decide: Early) -> None:
    world, _ = served(tmp_path, decide, audit_ratio=1.0)

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        assert (await read(await stream(client, "hello there")))[0] == "you said: hello there"
        await eventually(lambda: len(world.sink.events) == 1)

    run(world, step)
    (event,) = world.sink.events
    assert (event.escalation.reason, event.escalation.propensity) == ("audit", 1.0)
    assert event.student is not None
    assert (event.student.output, event.student.confidence) == ("you said: hello there", 0.95)


def test_by_the_prompt_alone_whole_answers_are_decided_too_and_nothing_is_computed_for_the_others(
    tmp_path: Path,
) -> None:
    world, teller = served(tmp_path, "prompt")

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found = await client.chat.completions.create(**question("unsure hello"))
        assert found.choices[0].message.content == "the teacher says so"
        assert teller.begun == 0
        found = await client.chat.completions.create(**question("hello"))
        assert found.choices[0].message.content == "you said: hello"

    run(world, step)


def test_a_text_that_may_become_a_value_of_the_clients_or_an_end_is_held_back(tmp_path: Path) -> None:
    world, _ = served(tmp_path, "first_tokens")
    text = "call 4111 1111 1111 1111 or mail a@b.example now please"

    async def step(client: openai.AsyncOpenAI, _: Gateway) -> None:
        found, chunks = await read(await stream(client, text))
        assert found == f"you said: {text}"
        assert not any("<" in (one.choices[0].delta.content or "") for one in chunks if one.choices)

    run(world, step)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_pieces_make_the_whole_and_nothing_leaves_that_becomes_something_else(size: int) -> None:
    said: list[bytes] = []
    speech = Speech(
        head={}, with_usage=False, noted={"<CARD:0123456789>": "4111"}, stops=("END", "ENOUGH"), put=said.append
    )
    whole = "pay <CARD:0123456789> or <CARD:1 é EN"
    for end in range(1, len(whole) + 1, size):
        speech.say(whole[:end] + "\ufffd")
    told = "".join(_content(one) for one in said)
    assert "pay 4111 or <CARD:1 é EN".startswith(told)
    assert not told.endswith("EN")
    assert len(told) == speech.told
    if size == 1:
        assert told == "pay 4111 or <CARD:1 é "


def _content(data: bytes) -> str:
    found: str = msgspec.json.decode(data)["choices"][0]["delta"]["content"]
    return found
