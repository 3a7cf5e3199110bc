"""An answer while it grows, for a request that may hear it before it is whole."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from serve.student.line import StudentReply, Ticket, TooLong
from serve.student.slot import Slot
from store.event import TaskInput
from store.policy import Moment
from store.student.loaded import Opinion, SoFar

Hear = Callable[[str], None]
"""Told what the whole answer will begin with, longer each time."""


class Talk:
    """One answer. For the event loop alone; whoever computes elsewhere comes by way of `call_soon_threadsafe`.

    It is asked twice: how sure the student is, and then for the answer; in between it may be dropped.
    """

    def __init__(self, moment: Moment, begin: Callable[["Talk"], None]) -> None:
        """Nothing is computed yet.

        Args:
            moment: when the student is to say how sure it is.
            begin: has the answer computed; `heard` is told of it, and `whole` gets it.
        """
        loop = asyncio.get_running_loop()
        self.whole: asyncio.Future[StudentReply] = loop.create_future()
        self.whole.add_done_callback(_noted)
        self._moment = moment
        self._view: asyncio.Future[Opinion] = loop.create_future()
        self._begin = begin
        self._begun = False
        self._text = ""
        self._hear: Hear | None = None

    @property
    def viewed(self) -> bool:
        """Whether the student has said how sure it is."""
        return self._view.done()

    def heard(self, so_far: SoFar) -> None:
        """The answer has grown."""
        self._text = so_far.text
        if so_far.view is not None and not self._view.done():
            self._view.set_result(so_far.view)
        if self._hear is not None and not self.whole.cancelled():
            self._hear(self._text)

    async def first(self) -> StudentReply:
        """How sure the student is; a short answer may be whole by then.

        Raises:
            StudentFailedError: the student failed on it, or hangs.
            StudentBusyError: it has waited in vain.
        """
        self._start()
        both: set[asyncio.Future[Any]] = {self._view, self.whole}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._view.done():
            return self._view.result()
        reply = self.whole.result()
        return reply if isinstance(reply, TooLong) else reply.at(self._moment)

    async def listen(self, hear: Hear | None) -> StudentReply:
        """The whole answer, told as it grows; errors as of `first`."""
        self._start()
        self._hear = hear
        if hear is not None and self._text:
            hear(self._text)
        return await asyncio.shield(self.whole)

    def drop(self) -> None:
        """Nobody wants it: it is computed no further. One that is whole stays."""
        self.whole.cancel()
        self._view.cancel()

    def _start(self) -> None:
        if not self._begun:
            self._begun = True
            self._begin(self)


def _noted(whole: asyncio.Future[StudentReply]) -> None:
    if not whole.cancelled():
        whole.exception()  # who waits for it is told; nobody may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An answer that may be had, and what the student makes of it so far."""

    talk: Talk
    view: Opinion


@runtime_checkable
class Talks(Protocol):
    """Runs students that say how sure they are before their answer is whole."""

    async def begin(
        self, slot: Slot, value: TaskInput, moment: Moment, ticket: Ticket | None = None, *, tokens: int = 1
    ) -> Begun | TooLong:
        """What the pinned student makes of one redacted question at a moment. The talk is the caller's to drop.

        Raises:
            StudentFailedError: the student failed on it, or hangs.
            StudentBusyError: it has waited in vain.
        """
