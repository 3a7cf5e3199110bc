"""Who is let in: a request is admitted or refused at once, whole, by how long it would have to wait.

What may wait for the student is bounded in seconds, by what a token has taken of late: a burst is let in, and what
could only be answered late is told so before anything is computed. Waiting for the teacher is bounded by the turns that
it gives. Nobody who is refused here was paid for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal, Protocol

from serve.student.line import Ticket

Shed = Literal["student_line", "teacher_turns", "in_flight", "waited_in_vain"]

_OPINION_S: Final = 0.3  # so long waits for the student who wants the teacher's answer
_UNKNOWN_BATCHES: Final = 8  # that are let in before it is known how long one takes
_ASSUMED_CALL_S: Final = 1.0  # before the teacher has answered once
_MOST_OPEN: Final = 1_024  # texts with one teacher, whatever it is believed to take
_TURNS_SHARE: Final = 0.5  # of the teacher's time-out that waiting for a turn may take
_REMEMBER: Final = 0.9  # of what calls took before, with each new one


class OverloadedError(Exception):
    """The gateway is busy. Come back after `retry_after_s`, or add replicas."""

    def __init__(self, wait_s: float, *, reason: Shed) -> None:
        """Say what is full, and for how long."""
        super().__init__(_MESSAGES[reason])
        self.reason = reason
        self.retry_after_s = max(1, ceil(wait_s))


class ReadingPace(Protocol):
    """How fast the student reads."""

    @property
    def turn(self) -> int:
        """Tokens of one request that go before the next one has its turn."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass that is as full as can be."""

    @property
    def token_s(self) -> float:
        """What one token has taken of late; 0 before the first."""


@dataclass(slots=True, kw_only=True)
class StudentLine:
    """Requests that a device's students have still to read, in tokens."""

    pace: ReadingPace
    wait_s: float  # a request that would wait longer for the others is refused
    _tickets: set[Ticket] = field(default_factory=set)

    @property
    def tokens(self) -> int:
        """Tokens admitted and not yet read."""
        return sum(ticket.tokens for ticket in self._tickets)

    def wait_of_s(self, tokens: int) -> float:
        """How long the others would keep the last token of a new request waiting."""
        return self._ahead(tokens) * self.pace.token_s

    def enter(self, tokens: int, *, wait_s: float | None = None) -> Ticket:
        """Let a request in; `leave` when it is answered. An idle student takes one of any length.

        Args:
            tokens: that the student would read for it.
            wait_s: it would wait no longer than this, where that is less than anybody may.

        Raises:
            OverloadedError: it would wait for too long.
        """
        before = self._ahead(tokens)
        longest_s = self.wait_s if wait_s is None else min(wait_s, self.wait_s)
        if before and (late_s := before * self.pace.token_s) > longest_s:
            raise OverloadedError(late_s, reason="student_line")
        if before > _UNKNOWN_BATCHES * self.pace.batch_tokens and self.pace.token_s == 0.0:
            raise OverloadedError(self.wait_s, reason="student_line")
        ticket = Ticket(tokens=tokens)
        self._tickets.add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Whatever was not read will not be."""
        self._tickets.discard(ticket)

    def _ahead(self, tokens: int) -> int:
        self._tickets = {ticket for ticket in self._tickets if ticket.tokens > 0}
        turn = self.pace.turn
        most = ceil(tokens / turn) * turn  # of each other request, until the last of this one has had its turn
        return sum(min(ticket.tokens, most) for ticket in self._tickets)


@dataclass(slots=True, kw_only=True)
class TeacherTurns:
    """Texts that are with one lane's teacher or wait for a turn there."""

    concurrency: int
    timeout_s: float
    asked: int = 0  # calls, and those who wait for a turn
    promised: int = 0  # texts of admitted requests that only the teacher can answer
    _call_s: float = _ASSUMED_CALL_S

    def took(self, seconds: float) -> None:
        """A call was answered."""
        self._call_s = _REMEMBER * self._call_s + (1 - _REMEMBER) * seconds

    @property
    def wait_s(self) -> float:
        """How long one more would wait for its turn."""
        return max(0, max(self.asked, self.promised) - self.concurrency + 1) / self.concurrency * self._call_s

    @property
    def busy(self) -> bool:
        """Whether one more would wait for too long."""
        return max(self.asked, self.promised) >= _MOST_OPEN or self.wait_s > _TURNS_SHARE * self.timeout_s

    @contextmanager
    def promise(self, texts: int) -> Iterator[None]:
        """Let a request in that only the teacher can answer.

        Raises:
            OverloadedError: it would wait for too long.
        """
        if self.busy:
            raise OverloadedError(self.wait_s, reason="teacher_turns")
        self.promised += texts
        try:
            yield
        finally:
            self.promised -= texts


@dataclass(slots=True, kw_only=True)
class Admission:
    """The gateway's door, for all lanes."""

    max_in_flight: int
    in_flight: int = 0  # questions

    @contextmanager
    def admit(
        self, questions: int, tokens: int, turns: TeacherTurns, line: StudentLine | None, *, teacher: bool
    ) -> Iterator[Ticket | None]:
        """Hold a request's place until it is answered; yields its ticket for the student.

        Args:
            questions: of the request.
            tokens: that a student would read for all of them.
            turns: of its lane's teacher.
            line: before its lane's student; None: there is none.
            teacher: the client wants the teacher's answer; the student's opinion is then asked if it has time.

        Raises:
            OverloadedError: the request would wait for too long.
        """
        if self.in_flight + questions > self.max_in_flight and self.in_flight:
            raise OverloadedError(0.0 if line is None else line.wait_of_s(tokens), reason="in_flight")
        ticket: Ticket | None = None
        if line is not None:
            try:
                ticket = line.enter(tokens, wait_s=_OPINION_S if teacher else None)
            except OverloadedError:
                if not teacher:
                    raise
        self.in_flight += questions
        try:
            if line is not None and not teacher:
                yield ticket
            else:
                with turns.promise(questions):
                    yield ticket
        finally:
            self.in_flight -= questions
            if ticket is not None and line is not None:
                line.leave(ticket)


_MESSAGES: Final[dict[Shed, str]] = {
    "student_line": "more texts wait than the student can read in time: send fewer at once, or add replicas",
    "teacher_turns": "more texts wait for the teacher than it can answer in time: raise teacher.concurrency",
    "in_flight": "too many requests are being answered: send fewer at once, or add replicas",
    "waited_in_vain": "the student was too busy to read this text in time: send fewer at once, or add replicas",
}
