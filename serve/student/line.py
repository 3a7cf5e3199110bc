"""The line before the student: requests take turns in it, so that a long list does not hold up all that come after.

A batch takes a few questions of one request, then of the next, and begins again with what is left. What nobody waits
for any more is left out when its turn comes, so that it is never computed.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from serve.student.slot import Slot
from store.event import TaskInput
from store.student.loaded import Opinion, SoFar


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """The question does not fit the student."""


StudentReply = Opinion | TooLong


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One request's place before the student."""

    tokens: int  # about how many the student has still to read for it
    coming: int = field(init=False)  # of these, those of questions that are not in the line yet

    def __post_init__(self) -> None:
        """Nothing is in the line yet."""
        self.coming = self.tokens


class Hears(Protocol):
    """Is told of an answer while it grows, on its loop."""

    @property
    def viewed(self) -> bool:
        """Whether its first tokens were looked at."""

    def heard(self, so_far: SoFar) -> None:
        """The answer has grown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One question, and who waits for what the student makes of it."""

    slot: Slot
    value: TaskInput
    tokens: int
    ticket: Ticket
    expires_s: float  # when nobody waits any longer, on the executor's clock
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[StudentReply]
    hears: "Hears | None" = None  # who is told of the answer while it grows
    expects: bool = False  # it asks how sure the student is, by the question alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So much goes into one forward pass: so many questions, and of these as many as have so many tokens together."""

    questions: int
    tokens: float

    @property
    def half(self) -> "Load":
        """What one request may have of it while others wait."""
        return Load(questions=max(1, self.questions // 2), tokens=self.tokens / 2)


@dataclass(slots=True, eq=False)
class Line:
    """Questions that wait, by request. Guarded by its owner's lock."""

    _jobs: dict[Ticket, deque[Job]] = field(default_factory=dict)
    _order: deque[Ticket] = field(default_factory=deque)
    _count: int = 0
    _tokens: int = 0

    def __len__(self) -> int:
        """How many questions wait, those included that nobody waits for any more."""
        return self._count

    @property
    def tokens(self) -> int:
        """Of all questions that wait."""
        return self._tokens

    def fills(self, load: Load) -> bool:
        """Whether a forward pass would be full."""
        return self._count >= load.questions or self._tokens >= load.tokens

    def complete(self) -> bool:
        """Whether nothing more of the requests that wait here is on its way."""
        return all(ticket.coming <= 0 for ticket in self._jobs)

    def put(self, job: Job) -> None:
        """At the end of its request, or of the line."""
        if job.ticket not in self._jobs:
            self._jobs[job.ticket] = deque()
            self._order.append(job.ticket)
        self._jobs[job.ticket].append(job)
        job.ticket.coming -= job.tokens
        self._count += 1
        self._tokens += job.tokens

    def take(self, load: Load) -> list[Job]:
        """The next questions that somebody waits for: one at least, and no more than the load."""
        taken: list[Job] = []
        tokens, full = 0, False
        while self._order and not full:
            ticket = self._order.popleft()
            jobs = self._jobs[ticket]
            turn = load.half
            room, start = min(turn.questions, load.questions - len(taken)), tokens
            while jobs and room:
                job = jobs[0]
                if not job.future.done():
                    full = bool(taken) and tokens + job.tokens > load.tokens
                    if full or (tokens > start and tokens + job.tokens - start > turn.tokens):
                        break
                    taken.append(job)
                    tokens += job.tokens
                    room -= 1
                self._drop_first(jobs)
            full = full or len(taken) >= load.questions
            if not jobs:
                del self._jobs[ticket]
            elif full and tokens == start:  # it had no turn: the next pass begins with it
                self._order.appendleft(ticket)
            else:
                self._order.append(ticket)
        return taken

    def remove(self, now_s: float) -> list[Job]:
        """Take out the questions that have waited for too long."""
        late = [job for jobs in self._jobs.values() for job in jobs if job.expires_s <= now_s]
        if late:
            kept = [job for jobs in self._jobs.values() for job in jobs if job.expires_s > now_s]
            self.clear()
            for job in kept:
                job.ticket.coming += job.tokens  # it comes again
                self.put(job)
        return late

    def clear(self) -> list[Job]:
        """Take out all."""
        waiting = [job for jobs in self._jobs.values() for job in jobs if not job.future.done()]
        self._jobs, self._order, self._count, self._tokens = {}, deque(), 0, 0
        return waiting

    def _drop_first(self, jobs: deque[Job]) -> None:
        job = jobs.popleft()
        self._tokens -= job.tokens
        self._count -= 1
