"""What a lane's way of a question is made of, as small protocols: the sink, the student's thread, and the teacher."""

from collections.abc import Callable
from typing import Protocol

from serve.student.line import StudentReply, Ticket
from serve.student.slot import Slot
from serve.teacher.client import Reply
from store.event import Escalation, TaskInput


class EventSink(Protocol):
    """Where accepted escalations go."""

    @property
    def healthy(self) -> bool:
        """Whether events go straight to the log; else they are kept here until it is back."""

    async def start(self) -> None:
        """Begin."""

    async def publish(self, event: Escalation, item_id: str, *, traceparent: str | None = None) -> None:
        """Return once the event is in the log or fsynced in the spool.

        Raises:
            LogError: it is in neither and will not be: dropped.
        """

    async def close(self) -> None:
        """Write what is in flight, within a bound, and stop."""


class Forward(Protocol):
    """Runs the student."""

    @property
    def turn(self) -> int:
        """Tokens of one request that go before the next one has its turn."""

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:
        """The pinned student's opinion of one redacted question of the ticket's request.

        Raises:
            StudentFailedError: the student failed on it, or hangs.
            StudentBusyError: it has waited in vain.
        """


class Teaches(Protocol):
    """Answers what the student does not."""

    @property
    def available(self) -> bool:
        """Whether a call may be tried now."""

    def cost_bound_usd(self, value: TaskInput) -> float:
        """The most that asking this can cost."""

    async def ask(
        self, value: TaskInput, wanted: Callable[[], bool] = ..., hear: Callable[[bytes], None] | None = None
    ) -> Reply:
        """The answer, or why there is none; what is not wanted any more when its turn comes is not asked.

        Where `hear` is there, an answer may come as a stream, of which it is told piece by piece.
        """

    def stop_asking(self) -> None:
        """Send nothing any more; what was sent goes on."""

    async def close(self) -> None:
        """Let go of connections."""
