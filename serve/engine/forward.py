"""Versions that answer elsewhere, as a gateway asks them: no thread of ours computes, so none is held."""

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from serve.engine.vllm import EngineBusyError, EngineError
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import StudentReply, Ticket, TooLong
from serve.student.pace import ReadingPace
from serve.student.slot import Slot
from store.event import TaskInput
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

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:
        """See `Forward`."""
        student = slot.student
        if not isinstance(student, Elsewhere):
            message = f"{type(student).__name__} answers nowhere else"
            raise TypeError(message)
        self.waiting += 1
        try:
            opinion = await student.reply(value)
        except EngineBusyError as error:
            raise StudentBusyError(_BUSY_S) from error
        except (EngineError, ValueError) as error:
            message = f"the engine of {slot.version}: {error}"
            raise StudentFailedError(message) from error
        finally:
            self.waiting -= 1
            if ticket is not None:
                ticket.tokens -= tokens
        return TooLong() if opinion is None else opinion
