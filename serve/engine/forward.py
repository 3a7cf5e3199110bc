"""Versions that answer elsewhere, as a gateway asks them: no thread of ours computes, so none is held."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from serve.engine.vllm import EngineBusyError, EngineError
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import Hears, StudentReply, Ticket, TooLong
from serve.student.pace import ReadingPace
from serve.student.slot import Slot
from serve.student.talk import Begun, Talk
from store.event import TaskInput
from store.policy import Moment
from store.student.loaded import Opinion

_BUSY_S: Final = 1.0


@runtime_checkable
class Elsewhere(Protocol):
    """A student whose answers come from servers."""

    async def reply(self, value: TaskInput) -> Opinion | None:
        """Its opinion of one redacted question; None: it cannot read it.

        Raises:
            EngineError: no server could answer.
            ValueError: what one said is no number.
        """

    def too_long(self, value: TaskInput) -> bool:
        """Whether it cannot read a question."""

    def expect(self, inputs: Sequence[TaskInput]) -> Sequence[Opinion]:
        """See `store.student.loaded.Foretells`; blocks while this process computes."""

    async def speak(self, value: TaskInput, moment: Moment, hears: Hears) -> Opinion | None:
        """As `reply`, told while it comes; cancelled, it ends what the servers do for it."""


class RemoteForward:
    """Satisfies `serve.request.parts.Forward`, and stands where an `Executor` does."""

    def __init__(
        self,
        *,
        max_batch: int,
        max_tokens: int,
        wait_s: float,  # noqa: ARG002 - servers gather by themselves
        timeout_s: float,
        line_wait_s: float,  # noqa: ARG002
        observe: Callable[[int, int, float], None],  # noqa: ARG002 - no pass of theirs is seen here
        name: str = "",  # noqa: ARG002
    ) -> None:
        """Take what an `Executor` takes."""
        self.pace = ReadingPace(max_batch=max_batch, max_tokens=max_tokens, timeout_s=timeout_s)
        self.waiting = 0  # questions that are with the servers
        self.hangs_s = 0.0

    def start(self) -> None:
        """Nothing runs here."""

    def alive(self) -> bool:
        """See `Executor`."""
        return True

    def close(self) -> None:
        """See `Executor`."""

    @property
    def turn(self) -> int:
        """See `Executor`."""
        return self.pace.turn

    async def begin(
        self, slot: Slot, value: TaskInput, moment: Moment, ticket: Ticket | None = None, *, tokens: int = 1
    ) -> Begun | TooLong:
        """See `serve.student.talk.Talks`."""
        student = _elsewhere(slot)
        tasks: list[asyncio.Task[None]] = []

        async def speak(talk: Talk) -> None:
            self.waiting += 1
            try:
                found = await self._reply(slot, student.speak(value, moment, talk))
            except (StudentBusyError, StudentFailedError) as error:
                if not talk.whole.done():
                    talk.whole.set_exception(error)
            else:
                if not talk.whole.done():
                    talk.whole.set_result(found)
            finally:
                self.waiting -= 1

        def start(talk: Talk) -> None:
            tasks.append(asyncio.create_task(speak(talk)))
            talk.whole.add_done_callback(lambda whole: tasks[0].cancel() if whole.cancelled() else None)

        talk = Talk(moment, start)
        try:
            if moment == "prompt":
                view = await self._reply(slot, asyncio.to_thread(_expected, student, value))
            else:
                view = await talk.first()
        except BaseException:
            talk.drop()
            raise
        finally:
            if ticket is not None:
                ticket.tokens -= tokens
        return view if isinstance(view, TooLong) else Begun(talk=talk, view=view)

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:
        """See `Forward`."""
        self.waiting += 1
        try:
            return await self._reply(slot, _elsewhere(slot).reply(value))
        finally:
            self.waiting -= 1
            if ticket is not None:
                ticket.tokens -= tokens

    async def _reply(self, slot: Slot, coming: Awaitable[Opinion | None]) -> StudentReply:
        try:
            opinion = await coming
        except EngineBusyError as error:
            raise StudentBusyError(_BUSY_S) from error
        except (EngineError, ValueError) as error:
            message = f"the engine of {slot.version}: {error}"
            raise StudentFailedError(message) from error
        return TooLong() if opinion is None else opinion


def _elsewhere(slot: Slot) -> Elsewhere:
    student = slot.student
    if not isinstance(student, Elsewhere):
        message = f"{type(student).__name__} answers nowhere else"
        raise TypeError(message)
    return student


def _expected(student: Elsewhere, value: TaskInput) -> Opinion | None:
    return None if student.too_long(value) else student.expect([value])[0]
