"""Requests in flight end with an answer or a 503, never with a traceback of the server's."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve.drain import Drain

HTTP = {"type": "http"}


class Wire:
    """What went out to one client."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    @property
    def status(self) -> int:
        found: int = self.sent[0]["status"]
        return found

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


def answering(before: Callable[[], Awaitable[Any]], after: Callable[[], Awaitable[Any]]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await before()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await after()
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def nothing() -> None:
    await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


async def started(app: Any) -> Drain:
    drain = Drain(app)
    await drain({"type": "lifespan"}, Wire().receive, Wire().send)
    return drain


def test_who_is_unanswered_at_the_cut_and_who_comes_after_it_is_told_why() -> None:
    async def scene() -> None:
        drain, early, late = await started(answering(forever, nothing)), Wire(), Wire()
        request = asyncio.create_task(drain(HTTP, early.receive, early.send))
        await asyncio.sleep(0.01)
        drain.cut_after(0.0)
        await asyncio.wait_for(request, 10)
        await drain(HTTP, late.receive, late.send)
        for wire in (early, late):
            assert wire.status == 503
            told = json.loads(wire.sent[1]["body"])["error"]
            assert (told["code"], told["type"]) == ("shutting_down", "server_error")
            assert wire.headers[b"connection"] == b"close"
            assert wire.headers[b"retry-after"] == b"1"

    asyncio.run(scene())


def test_an_answer_that_has_begun_is_not_cut() -> None:
    async def scene() -> None:
        goes_on, wire = asyncio.Event(), Wire()
        drain = await started(answering(nothing, goes_on.wait))
        request = asyncio.create_task(drain(HTTP, wire.receive, wire.send))
        await asyncio.sleep(0.01)
        drain.cut_after(0.0)
        await asyncio.sleep(0.01)
        goes_on.set()
        await asyncio.wait_for(request, 10)
        assert wire.status == 200
        assert wire.sent[1]["body"] == b"ok"

    asyncio.run(scene())


def test_while_it_closes_every_answer_closes_its_connection() -> None:
    async def scene() -> None:
        drain, before, after = await started(answering(nothing, nothing)), Wire(), Wire()
        await drain(HTTP, before.receive, before.send)
        drain.close()
        await drain(HTTP, after.receive, after.send)
        assert b"connection" not in before.headers
        assert after.headers[b"connection"] == b"close"

    asyncio.run(scene())


def test_a_cancellation_that_is_not_the_cut_stays_one() -> None:
    async def scene() -> None:
        drain, wire = await started(answering(forever, nothing)), Wire()
        request = asyncio.create_task(drain(HTTP, wire.receive, wire.send))
        await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert wire.sent == []

    asyncio.run(scene())


def test_a_server_that_cancels_what_cannot_be_sent_after_the_cut_meets_no_error() -> None:
    async def scene() -> None:
        wire = Wire()
        drain = await started(answering(nothing, forever))
        request = asyncio.create_task(drain(HTTP, wire.receive, wire.send))
        await asyncio.sleep(0.01)
        drain.cut_after(0.0)
        await asyncio.sleep(0.01)
        request.cancel()
        await request
        assert len(wire.sent) == 1

    asyncio.run(scene())
