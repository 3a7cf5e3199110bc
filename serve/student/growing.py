"""A device's answers that take many passes: questions join between two steps, and leave as soon as they are done.

What is said of a forward pass in `serve.student.executor` holds for a step: one that hangs is everybody's, and a
failure is found by asking each question by itself. An answer that nobody waits for any more is dropped at the next
step, and nothing more is computed for it.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from serve.student.executor import Executor, StudentFailedError, deliver
from serve.student.line import Hears, Job, Load, StudentReply, Ticket, TooLong
from serve.student.slot import Slot
from serve.student.talk import Begun, Talk
from store.event import TaskInput
from store.policy import Moment
from store.student.loaded import Foretells, Growing, Grows, Opinion, SoFar

_READ_TOKENS: Final = 4_096  # of new questions in one step, so that those that grow already go on


@dataclass(slots=True, eq=False)
class _Batch:
    """One version's answers."""

    slot: Slot
    growing: Growing
    jobs: dict[Hashable, Job] = field(default_factory=dict)


class GrowingExecutor(Executor):
    """Satisfies `serve.request.parts.Forward` for students that answer token by token."""

    def __init__(
        self,
        *,
        max_batch: int,
        max_tokens: int,
        wait_s: float,
        timeout_s: float,
        line_wait_s: float,
        observe: Callable[[int, int, float], None],
        name: str = "",
    ) -> None:
        """Prepare the threads; as an `Executor`, of which a pass is a step here."""
        super().__init__(
            max_batch=max_batch,
            max_tokens=max_tokens,
            wait_s=wait_s,
            timeout_s=timeout_s,
            line_wait_s=line_wait_s,
            observe=observe,
            name=name,
        )
        self._rows = max_batch
        self._batches: list[_Batch] = []
        self._spent_s = 0.0  # since the last answer was done

    async def begin(
        self, slot: Slot, value: TaskInput, moment: Moment, ticket: Ticket | None = None, *, tokens: int = 1
    ) -> Begun | TooLong:
        """See `serve.student.talk.Talks`."""
        place = ticket or Ticket(tokens=tokens)

        def grow(talk: Talk) -> None:
            if moment == "prompt":
                place.coming += tokens  # it comes again
            self._put(slot, value, place, tokens, talk.whole, hears=talk)

        talk = Talk(moment, grow)
        try:
            if moment == "prompt":
                seen: asyncio.Future[StudentReply] = asyncio.get_running_loop().create_future()
                self._put(slot, value, place, tokens, seen, expects=True)
                view = await seen
            else:
                view = await talk.first()
        except BaseException:
            talk.drop()
            raise
        finally:
            place.tokens -= tokens
        return view if isinstance(view, TooLong) else Begun(talk=talk, view=view)

    def _turn(self) -> bool:
        """Take in what there is room for, and go one step; False when told to stop and nothing grows."""
        with self._wake:
            room = self._rows - sum(len(batch.jobs) for batch in self._batches)
            while not self._line and not self._closing and not self._batches:
                self._wake.wait()
            fresh = self._line.take(Load(questions=room, tokens=_READ_TOKENS)) if room and self._line else []
            self._running = [*fresh, *(job for batch in self._batches for job in batch.jobs.values())]
            self._passes += 1
        if not self._running:
            return not self._closing
        started_s = time.monotonic()
        done = self._join(fresh) + self._step()
        seconds = time.monotonic() - started_s
        with self._wake:
            self._running, self._stuck_s = [], 0.0
            self._spent_s += min(seconds, self._timeout_s)
            if done:
                self.pace.took(self._spent_s, questions=len(done), tokens=sum(job.tokens for job in done))
                self._spent_s = 0.0
        if done:
            self._observe(len(done), sum(job.tokens for job in done), seconds)
        return True

    def _join(self, fresh: Sequence[Job]) -> list[Job]:
        """Begin with questions; those that are answered at once."""
        done: list[Job] = []
        for slot in dict.fromkeys(job.slot for job in fresh):
            jobs = [job for job in fresh if job.slot is slot]
            try:
                long = [slot.student.too_long(job.value) for job in jobs]
                cut = [job for job, over in zip(jobs, long, strict=True) if over]
                deliver(cut, [TooLong() for _ in cut])
                done += cut
                jobs = [job for job, over in zip(jobs, long, strict=True) if not over]
                slot.ready()
                done += _foretold(slot, [job for job in jobs if job.expects])
                jobs = [job for job in jobs if not job.expects]
                batch = self._of(slot)
                batch.jobs |= zip(batch.growing.add([job.value for job in jobs]), jobs, strict=True)
            except Exception as error:  # noqa: BLE001 - whatever a student raises, the thread serves on
                done += self._alone(slot, jobs, error)
        return done

    def _step(self) -> list[Job]:
        """One step of every version's answers; the questions that are answered with it."""
        done: list[Job] = []
        for batch in list(self._batches):
            for name in [name for name, job in batch.jobs.items() if job.future.done()]:
                batch.growing.drop(name)
                del batch.jobs[name]
            try:
                batch.slot.ready()
                said = batch.growing.step() if batch.jobs else ()
            except Exception as error:  # noqa: BLE001 - as above
                done += self._alone(batch.slot, [], error)
                continue
            found: list[tuple[Job, Opinion]] = [(batch.jobs.pop(name), opinion) for name, opinion in said]
            for name, job in batch.jobs.items():
                if job.hears is not None:
                    _tell(job, job.hears, batch.growing.so_far(name, viewed=job.hears.viewed))
            deliver([job for job, _ in found], [opinion for _, opinion in found])
            done += (job for job, _ in found)
            if not batch.jobs:
                self._batches.remove(batch)
        return done

    def _of(self, slot: Slot) -> _Batch:
        found = next((batch for batch in self._batches if batch.slot is slot), None)
        if found is None:
            student = slot.student
            if not isinstance(student, Grows):
                message = f"{type(student).__name__} does not answer token by token"
                raise TypeError(message)
            found = _Batch(slot=slot, growing=student.growing())
            self._batches.append(found)
        return found

    def _alone(self, slot: Slot, fresh: Sequence[Job], error: Exception) -> list[Job]:
        """A version's answers came to nothing together: each by itself, while that takes no longer than it may."""
        batch = next((one for one in self._batches if one.slot is slot), None)
        jobs = [*fresh, *(batch.jobs.values() if batch is not None else ())]
        if batch is not None:
            self._batches.remove(batch)
        if not jobs:
            return []
        outcomes: list[StudentReply | StudentFailedError]
        if len(jobs) == 1:
            self._log_failure(slot, 1)
            outcomes = [StudentFailedError(f"{type(error).__name__} in the answer of {slot.version}")]
        else:
            rest = [job for job in jobs if not job.expects]
            outcomes = self._outcomes(rest, give_up_s=time.monotonic() + self._timeout_s) if rest else []
            asking = [job for job in jobs if job.expects]
            outcomes += (StudentFailedError(f"{type(error).__name__} in a look of {slot.version}") for _ in asking)
            jobs = [*rest, *asking]
        deliver(jobs, outcomes)
        return jobs


def _foretold(slot: Slot, jobs: Sequence[Job]) -> list[Job]:
    """Say how sure the student is of questions, before it answers any."""
    student = slot.student
    if jobs and isinstance(student, Foretells):
        deliver(jobs, list(student.expect([job.value for job in jobs])))
    return list(jobs)


def _tell(job: Job, hears: Hears, so_far: SoFar) -> None:
    """How far an answer has come, to whoever listens on its loop."""
    with suppress(RuntimeError):  # the loop is closed: nobody listens any more
        job.loop.call_soon_threadsafe(hears.heard, so_far)
