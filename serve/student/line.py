"""The line before the student: requests take turns in it, so that a long list does not hold up all that come after.

A batch takes a few texts of one request, then of the next, and begins again with what is left. What nobody waits for
any more is left out when its turn comes, so that it is never computed.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from math import ceil

from serve.student.slot import Opinion, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLong:
    """The text does not fit the student."""


Outcome = Opinion | TooLong


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One request's place before the student: how many of its texts the student has still to read."""

    texts: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One text, and who waits for what the student makes of it."""

    slot: Slot
    text: str
    ticket: Ticket
    expires_s: float  # when nobody waits any longer, on the batcher's clock
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome]


@dataclass(slots=True, eq=False)
class Line:
    """Texts that wait, by request. Guarded by its owner's lock."""

    turn: int  # texts of one request that go before the next one has its turn
    _jobs: dict[Ticket, deque[Job]] = field(default_factory=dict)
    _order: deque[Ticket] = field(default_factory=deque)
    _count: int = 0

    def __len__(self) -> int:
        """How many texts wait, those included that nobody waits for any more."""
        return self._count

    def put(self, job: Job) -> None:
        """At the end of its request, or of the line."""
        if job.ticket not in self._jobs:
            self._jobs[job.ticket] = deque()
            self._order.append(job.ticket)
        self._jobs[job.ticket].append(job)
        self._count += 1

    def take(self, limit: int) -> list[Job]:
        """The next texts that somebody waits for, at most `limit`."""
        taken: list[Job] = []
        while self._order and len(taken) < limit:
            ticket = self._order.popleft()
            jobs = self._jobs[ticket]
            room = min(self.turn, limit - len(taken))
            while jobs and room:
                job = jobs.popleft()
                self._count -= 1
                if not job.future.done():
                    taken.append(job)
                    room -= 1
            if jobs:
                self._order.append(ticket)
            else:
                del self._jobs[ticket]
        return taken

    def remove(self, now_s: float) -> list[Job]:
        """Take out the texts that have waited for too long."""
        late = [job for jobs in self._jobs.values() for job in jobs if job.expires_s <= now_s]
        if late:
            kept = [job for jobs in self._jobs.values() for job in jobs if job.expires_s > now_s]
            self._jobs, self._order, self._count = {}, deque(), 0
            for job in kept:
                self.put(job)
        return late

    def clear(self) -> list[Job]:
        """Take out all."""
        return self.take(self._count)


def ahead(waiting: int, texts: int, turn: int) -> int:
    """How many of the `waiting` texts of one request come before the last of a new request's."""
    return min(waiting, ceil(texts / turn) * turn)
