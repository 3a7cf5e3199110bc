"""How requests in flight end when the gateway does: with an answer, or with a 503 that says why, and no traceback.

An ASGI application around the gateway's own. Once it is closing, each response closes its connection, so that clients
ask elsewhere; what is still unanswered at the cut is told to, before the server would hang up on it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import uvicorn

from serve.front.errors import ApiError
from serve.front.listener import Listener

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_REASON: Final = ApiError(503, "shutting_down", "this gateway is stopping: ask another, or again in a moment")
_BODY: Final = msgspec.json.encode(_REASON.envelope)
_LAST_TURNS: Final = 256  # of the event loop, for connections that wait to be accepted
_TURNS_TO_OPEN: Final = 3  # after it was accepted; asyncio drops one that is not open when its server closes
_CLOSE: Final = (b"connection", b"close")
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"retry-after", b"1"),
    _CLOSE,
)


class Drain:
    """Passes everything on, and knows what is unanswered. `close` and `cut_after` may be called from any thread."""

    def __init__(self, app: _App) -> None:
        """Wrap the application."""
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unanswered: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._cut = asyncio.Event()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """One request, or the application's lifespan."""
        if scope["type"] != "http":
            self._loop = asyncio.get_running_loop()
            await self._app(scope, receive, send)
            return
        task = asyncio.current_task()
        if self._cut.is_set() or task is None:
            await _refuse(send)
            return

        async def answer(message: _Message) -> None:
            if message["type"] == "http.response.start":
                self._unanswered.discard(task)
                if self._closing:
                    message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
            await send(message)

        self._unanswered.add(task)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            if not self._cut.is_set():
                raise
            task.uncancel()
            if task in self._unanswered:
                await _refuse(send)
        finally:
            self._unanswered.discard(task)

    def close(self) -> None:
        """From now on no connection is kept alive."""
        self._closing = True

    def cut_after(self, seconds: float) -> None:
        """Tell whoever is unanswered then that nobody will."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._cut_off)

    def _cut_off(self) -> None:
        self._cut.set()
        for task in self._unanswered:
            task.cancel()


class DrainingServer(uvicorn.Server):
    """Uvicorn's, which at its end resets nobody that the kernel has let in."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in the last connections, and then end as uvicorn does."""
        idle = 0
        for _ in range(_LAST_TURNS):
            waiting = any(one.any_waiting() for one in sockets or () if isinstance(one, Listener))
            idle = 0 if waiting else idle + 1
            if idle > _TURNS_TO_OPEN:
                break
            await asyncio.sleep(0)  # in each of its turns the event loop accepts some
        await super().shutdown(sockets)


async def _refuse(send: _Send) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": list(_HEADERS)})
    await send({"type": "http.response.body", "body": _BODY})
