"""The proxy's HTTP face: a request goes on as it came, its answer comes back as it comes, and both are told on.

A client has the end of its answer only once the call was recorded: whoever kills the proxy loses what was in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve.completions.stream import DONE
from serve.front.admission import Caller, Doors, admit_caller, is_local
from serve.front.bodies import Bodies, BodyLimits
from serve.front.errors import ApiError
from serve.front.health import health_routes
from serve.proxy.teacher import ProxiedTeacher, Sent, passed_back
from serve.teacher.ask.reply import completion_of
from store.log.lazy import logger

_log: Final = logger(__name__)
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MOST_KEPT_BYTES: Final = 16 << 20  # of an answer: what is longer goes on, and is not recorded
_GRACE_S: Final = 30.0  # for answers whose clients have left


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call that the teacher answered."""

    at_s: float  # when it was asked, Unix seconds
    took_s: float
    request: dict[str, Any]
    response: dict[str, Any]  # of a stream, the whole that its events make


Record = Callable[[Exchange], None]  # blocks; raises what keeps it from being recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proxy:
    teacher: ProxiedTeacher
    path: str
    record: Record
    now: Callable[[], float]
    client: httpx2.AsyncClient
    open_wide: bool  # each client shows the teacher its own key, so that it may come from anywhere
    bodies: Bodies = field(default_factory=lambda: Bodies(BodyLimits(each_bytes=32 << 20, total_bytes=256 << 20)))
    reading: set[asyncio.Task[None]] = field(default_factory=set)  # answers that are coming in as streams


def build_proxy(
    teacher: ProxiedTeacher,
    *,
    path: str,
    record: Record,
    now: Callable[[], float],
    client: httpx2.AsyncClient | None = None,
) -> Starlette:
    """The application.

    Args:
        teacher: where requests go.
        path: on which the paths end whose calls are recorded.
        record: told of each, in a thread.
        now: Unix seconds.
        client: instead of the teacher's own.
    """
    proxy = _Proxy(
        teacher=teacher,
        path=path,
        record=record,
        now=now,
        client=client or teacher.client(),
        open_wide=teacher.api_key is None,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if proxy.reading:
                await asyncio.wait(proxy.reading, timeout=_GRACE_S)
            await proxy.client.aclose()

    async def forward(request: Request) -> Response:
        try:
            return await _forward(request, proxy)
        except ApiError as error:
            return error.response()
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    routes = [
        *health_routes(alive=lambda: True, ready=lambda: True),
        Route("/{path:path}", forward, methods=list(_METHODS)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _forward(request: Request, proxy: _Proxy) -> Response:
    peer = request.client.host if request.client is not None else None
    local = is_local(peer, request.headers)
    admit_caller(request.headers, Caller(keyed=proxy.open_wide, local=local, open_here=True), Doors())
    body, at_s = await proxy.bodies.read(request), proxy.now()
    asked = _object(body) if request.method == "POST" else None
    if asked is not None and proxy.teacher.model is not None and "model" in asked:
        asked["model"] = proxy.teacher.model
        body = msgspec.json.encode(asked)
    is_question = asked is not None and request.url.path.endswith(proxy.path)
    sent = Sent(headers=request.headers, body=body)
    made = proxy.teacher.request(proxy.client, request.method, request.url.path, request.url.query, sent)
    try:
        response = await proxy.client.send(made, stream=True)
        if asked is None or not is_question or not response.is_success:
            return StreamingResponse(_passed(response), response.status_code, passed_back(response))
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            pieces = _heard(response, lambda heard: _kept(proxy, asked, at_s, heard), proxy.reading)
            return StreamingResponse(pieces, response.status_code, passed_back(response))
        try:
            answer = await response.aread()
        finally:
            await response.aclose()
    except httpx2.TransportError as error:
        _log.warning("the teacher did not answer", error=type(error).__name__)
        message = f"the teacher did not answer: {type(error).__name__}"
        raise ApiError(502, "teacher_down", message) from error
    await _kept(proxy, asked, at_s, answer)
    return Response(answer, response.status_code, passed_back(response))


async def _passed(response: httpx2.Response) -> AsyncIterator[bytes]:
    """What is not recorded, as it comes."""
    try:
        async for piece in response.aiter_raw():
            yield piece
    finally:
        await response.aclose()


async def _heard(
    response: httpx2.Response, keep: Callable[[bytes], Any], reading: set[asyncio.Task[None]]
) -> AsyncIterator[bytes]:
    """A stream as it comes. A client that leaves ends this and not the reading, which was paid for.

    Raises:
        httpx2.TransportError: the teacher broke off; so does this, and nothing is recorded.
    """
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def read() -> None:
        heard, end = bytearray(), bytearray()
        try:
            async for piece in response.aiter_raw():
                heard += piece[: max(0, _MOST_KEPT_BYTES + 1 - len(heard))]
                if end or DONE in heard[-len(piece) - len(DONE) :]:
                    end += piece  # the event that closes the stream waits until it is recorded
                else:
                    pieces.put_nowait(piece)
            await keep(bytes(heard))
            pieces.put_nowait(bytes(end))
        finally:
            pieces.put_nowait(None)
            await response.aclose()

    task = asyncio.create_task(read())
    reading.add(task)
    task.add_done_callback(lambda done: _ended(done, reading))
    while (piece := await pieces.get()) is not None:
        yield piece
    await task


def _ended(task: asyncio.Task[None], reading: set[asyncio.Task[None]]) -> None:
    reading.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("the teacher's answer broke off", error=type(error).__name__)


async def _kept(proxy: _Proxy, asked: dict[str, Any], at_s: float, answer: bytes) -> None:
    """Record a call; one that cannot be is said, and its client has its answer all the same."""
    try:
        response = _whole(answer)
        exchange = Exchange(at_s=at_s, took_s=proxy.now() - at_s, request=asked, response=response)
        await asyncio.to_thread(proxy.record, exchange)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client was answered
        _log.error("a call was not recorded", error=f"{type(error).__name__}: {error}")


def _whole(answer: bytes) -> dict[str, Any]:
    """What was answered.

    Raises:
        ValueError: nothing that is whole.
    """
    if len(answer) > _MOST_KEPT_BYTES:
        message = f"an answer of more than {_MOST_KEPT_BYTES} bytes"
        raise ValueError(message)
    if (found := _object(answer)) is not None:
        return found
    completion = completion_of(answer)
    if any(choice.get("finish_reason") is None for choice in completion["choices"]):
        message = "a stream that ends before its answer does"
        raise ValueError(message)
    return completion


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
