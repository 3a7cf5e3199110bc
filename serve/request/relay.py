"""A teacher's stream on its way to a client: what has come so far, and whether anything has."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import msgspec

from serve.completions.stream import DONE, Events, event
from serve.escalation import Answer, Given, Voice
from serve.front.errors import ApiError
from serve.tasks.face import Asked

_EMPTY: Final = b'"choices":[]'


class Relay:
    """Hears a streamed answer piece by piece; the client's side reads the same events as they come.

    Written and read on one event loop. What it holds is bounded by what a teacher's answer may have.
    """

    def __init__(self, *, with_usage: bool) -> None:
        """Nothing has come. Tokens are counted for us whatever the client asks for; it reads of them if it did."""
        self._with_usage = with_usage
        self._events = Events()
        self._data: asyncio.Queue[bytes] = asyncio.Queue()
        self.begun = asyncio.Event()
        self.voice: Voice | None = None  # of the student, where it may be heard while its answer grows

    def hear(self, piece: bytes) -> None:
        """Some more of the teacher's body."""
        for data in self._events.feed(piece):
            if data != DONE and (self._with_usage or not _counts_only(data)):
                self._data.put_nowait(data)
                self.begun.set()

    def put(self, data: bytes) -> None:
        """An event of the student's."""
        self._data.put_nowait(data)
        self.begun.set()

    @property
    def told(self) -> int:
        """Characters that the student has said."""
        return 0 if self.voice is None else self.voice.told

    async def next(self) -> bytes:
        """The next event's data, once it is there."""
        return await self._data.get()

    def left(self) -> list[bytes]:
        """What has come and was not read yet."""
        return [self._data.get_nowait() for _ in range(self._data.qsize())]


async def streamed(
    work: asyncio.Future[Given],
    relay: Relay,
    asked: Asked,
    chunks: Callable[[Asked, Given, int], Iterator[bytes]],
) -> AsyncIterator[bytes]:
    """The events of one answer: the teacher's as they come, or else those that a whole answer makes.

    The closing event comes after the answer is complete, its escalation accepted. A teacher that breaks off midway
    leaves an error as the last event, and none that closes: the client's library raises; so does a student's. A client
    that leaves ends this, and what the student does for it; what a teacher was paid for goes on.
    """
    try:
        async for one in _events(work, relay, asked, chunks):
            yield one
    finally:
        if relay.told:
            work.cancel()  # changes nothing once it is done


async def _events(
    work: asyncio.Future[Given],
    relay: Relay,
    asked: Asked,
    chunks: Callable[[Asked, Given, int], Iterator[bytes]],
) -> AsyncIterator[bytes]:
    while not work.done():
        coming = asyncio.ensure_future(relay.next())
        try:
            both: set[asyncio.Future[Any]] = {work, coming}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not coming.done():
                coming.cancel()
        if coming.done() and not coming.cancelled():
            yield event(coming.result())
    for data in relay.left():
        yield event(data)
    if (failed := _broken(work, begun=relay.begun.is_set() and not relay.told)) is not None:
        yield event(msgspec.json.encode(failed.envelope))
        return
    if relay.told or not relay.begun.is_set():
        for data in chunks(asked, work.result(), relay.told):
            yield event(data)
    yield event(DONE)


def _broken(work: asyncio.Future[Given], *, begun: bool) -> ApiError | None:
    """Why a stream has no end."""
    if work.cancelled():
        return ApiError(503, "teacher_down", "the gateway is stopping")
    if (error := work.exception()) is not None:
        return error if isinstance(error, ApiError) else ApiError(500, "internal_error", "the answer broke off")
    answers = [one for one in work.result().found if isinstance(one, Answer)]
    if begun and not any(one.served_by == "teacher" for one in answers):
        return ApiError(502, "teacher_down", "the teacher's answer broke off")
    return None


def _counts_only(data: bytes) -> bool:
    """Whether a chunk says nothing but how many tokens there were."""
    if _EMPTY not in data.replace(b" ", b""):
        return False
    try:
        return not msgspec.json.decode(data).get("choices")
    except (msgspec.MsgspecError, AttributeError):
        return False
