"""Redaction away from the event loop: who waits for whom, and what is refused."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from serve.intake import Intake, IntakeBusyError, Laborious, Named, Naming
from serve.lifecycle import Gateway
from serve.tasks.classify.face import Classify
from store.errors import TooLaboriousError
from store.event import ClassifyEscalation, TextInput
from store.redact import redact
from store.secrets import item_id
from store.tasks.classify import ClassifyRules
from tests.serve.client import ask, only_event, run
from tests.serve.fakes import TEACHER, World, eventually

KEY = b"k" * 32
LONG = "a" * 20_000


class Redaction:
    """Notes each text and the thread it came on; texts that begin with `held` wait until they are let go."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()

    def __call__(self, text: str) -> str:
        self.seen.append(text)
        self.threads.add(threading.get_ident())
        if text.startswith("held"):
            self.gate.wait(20)
        if text.startswith("hard"):
            message = "too hard"
            raise TooLaboriousError(message)
        return text.replace("4111", "<CARD:0>")


async def read(intake: Intake, texts: Sequence[str], redaction: Redaction) -> list[Named] | Laborious:
    return await intake.read([TextInput(text=text) for text in texts], naming(redaction))


def naming(redaction: Redaction) -> Naming:
    return Naming(
        matter=Classify(),
        rules=ClassifyRules(),
        redact=lambda text: (redaction(text), {}),
        lane_key=KEY,
        tokens=lambda value: len(repr(value)),
    )


def test_texts_come_back_redacted_and_named_in_their_order_from_another_thread() -> None:
    redaction = Redaction()

    async def main() -> None:
        intake = Intake()
        texts = [f"text  {n} 4111 " + "b" * n for n in range(0, 9_000, 1_000)]
        found = await read(intake, texts, redaction)
        assert isinstance(found, list)
        wanted = [TextInput(text=text.replace("4111", "<CARD:0>")) for text in texts]
        assert [one.redacted for one in found] == wanted
        assert [one.item_id for one in found] == [item_id(KEY, ClassifyRules(), text) for text in wanted]
        assert [one.tokens for one in found] == [len(repr(text)) for text in wanted]
        intake.close()

    asyncio.run(main())
    assert threading.get_ident() not in redaction.threads


def test_a_short_question_does_not_wait_for_a_long_one() -> None:
    redaction = Redaction()

    async def main() -> None:
        intake = Intake()
        slow = asyncio.create_task(read(intake, ["held" + LONG], redaction))
        await eventually(lambda: bool(redaction.seen))
        assert isinstance(await read(intake, ["short"], redaction), list)
        assert not slow.done()
        redaction.gate.set()
        assert isinstance(await slow, list)
        intake.close()

    asyncio.run(main())


def test_long_requests_take_turns() -> None:
    redaction = Redaction()

    async def main() -> None:
        intake = Intake()
        first = asyncio.create_task(read(intake, ["held" + LONG, *[f"one {n}{LONG}" for n in range(20)]], redaction))
        await eventually(lambda: bool(redaction.seen))
        second = asyncio.create_task(read(intake, [f"two{LONG}"], redaction))
        await asyncio.sleep(0)  # it is in the queue now
        redaction.gate.set()
        await asyncio.gather(first, second)
        intake.close()

    asyncio.run(main())
    assert [text[:3] for text in redaction.seen[:3]] in (["hel", "two", "one"], ["hel", "one", "two"])


def test_the_first_text_that_is_too_laborious_is_told_by_its_place() -> None:
    async def main() -> None:
        intake = Intake()
        texts = ["a", LONG, "b", "hard", "hard"]
        assert await read(intake, texts, Redaction()) == Laborious(place=3, why="too hard")
        assert intake.waiting_chars == 0
        intake.close()

    asyncio.run(main())


def test_the_wait_is_bounded_and_so_is_what_waits() -> None:
    redaction = Redaction()

    async def main() -> None:
        intake = Intake(patience_s=0.05, max_waiting_chars=30_000)
        slow = asyncio.create_task(read(intake, ["held" + LONG], redaction))
        await eventually(lambda: bool(redaction.seen))
        with pytest.raises(IntakeBusyError):
            await read(intake, [LONG], redaction)
        with pytest.raises(IntakeBusyError):
            await slow
        redaction.gate.set()
        assert isinstance(await read(Intake(max_waiting_chars=1), [LONG], redaction), list)
        assert intake.waiting_chars == 0
        intake.close()

    asyncio.run(main())


def test_a_text_that_is_too_laborious_is_refused_with_its_field(tmp_path: Path) -> None:
    world = World(tmp_path, redact=Redaction())

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        response = await ask(client, ["fine", "hard to do"])
        assert response.status_code == 422
        assert response.json()["error"] == {
            "code": "invalid_request",
            "message": "input[1]: too hard",
            "type": "invalid_request_error",
            "field": "input[1]",
            "param": "input[1]",
        }
        assert (await ask(client, "hard to do")).json()["error"]["field"] == "input"

    run(world, step)
    assert world.endpoint.bodies == []


def test_the_gateway_goes_on_while_megabytes_of_almost_phone_numbers_are_redacted(tmp_path: Path) -> None:
    many_turns = replace(TEACHER, concurrency=1_000)  # else a cold lane's long list leaves the next one no turn
    world = World(tmp_path, redact=partial(redact, key=KEY), changes={"teacher": many_turns})

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        hostile = asyncio.create_task(ask(client, ["01001 " * 3_333] * 200))
        await eventually(lambda: gateway.intake.waiting_chars > 0)
        for _ in range(20):
            response = await ask(client, "where is 4111 1111 1111 1111")
            assert response.status_code == 200
            assert gateway.healthy()
        assert not hostile.done()
        assert gateway.intake.waiting_chars > 0
        hostile.cancel()

    run(world, step)
    events = [event for event in world.sink.events if isinstance(event, ClassifyEscalation)]
    assert len(events) == 20
    assert all("<CARD:" in event.input.text for event in events)


def test_a_subject_is_published_as_a_token_alone(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        body = {"model": "intent", "input": "hello", "user": "jane@example.com"}
        assert (await client.post("/classify", json=body)).status_code == 200

    run(world, step)
    subject = only_event(world).subject
    assert subject is not None
    assert "jane" not in subject
    assert subject.startswith("subject:")
