"""LiteLLM as a client of ours: whole answers, streams, objects, errors, and ranking."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.serve.chat.fakes import FakeTalker, chat_world, listening
from tests.serve.fakes import FakeStudent, World

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.clients


@pytest.fixture
def labels(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.serve(student=FakeStudent())
    return world


def run(world: World, *bodies: dict[str, Any]) -> list[Any]:
    """What LiteLLM returns for each; of a stream its text."""

    async def work() -> list[Any]:
        async with listening(world) as (_, _, url):
            found = []
            for body in bodies:
                answer = await litellm.acompletion(
                    model="openai/intent", api_base=url, api_key="any", num_retries=0, **body
                )
                if body.get("stream"):
                    answer = "".join([one.choices[0].delta.content or "" async for one in answer])
                found.append(answer)
            return found

    return asyncio.run(work())


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_lane_of_labels_answers(labels: World) -> None:
    whole, streamed, held = run(
        labels,
        {"messages": user("unsure"), "temperature": 0, "max_tokens": 5},
        {"messages": user("unsure"), "stream": True},
        {"messages": user("sure"), "response_format": {"type": "json_object"}},
    )
    assert (whole.choices[0].message.content, streamed) == ("no", "no")
    assert whole.usage.prompt_tokens == 20
    assert held.choices[0].message.content == '{"label":"yes"}'


def test_what_no_label_can_be_is_its_bad_request(labels: World) -> None:
    with pytest.raises(litellm.BadRequestError, match="only 1"):
        run(labels, {"messages": user("sure"), "n": 2})


def test_a_busy_or_missing_teacher_is_its_service_unavailable(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.endpoint.status = 500
    with pytest.raises(litellm.ServiceUnavailableError):
        run(world, {"messages": user("a")})


def test_a_lane_of_chat_answers(tmp_path: Path) -> None:
    world = chat_world(tmp_path)
    world.serve(student=FakeTalker())
    whole, streamed = run(world, {"messages": user("hello")}, {"messages": user("hello"), "stream": True})
    assert (whole.choices[0].message.content, streamed) == ("you said: hello", "you said: hello")
