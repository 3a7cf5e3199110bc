"""Asks the serving version's student: for its whole answer, or how sure it is before there is one."""

from collections.abc import Callable
from math import ceil

from serve.escalation import Question, Seen
from serve.request.parts import Forward
from serve.routing.routing import Routing
from serve.settings import LaneSettings
from serve.student.executor import StudentBusyError, StudentFailedError
from serve.student.line import StudentReply, TooLong
from serve.student.slot import Slot, Slots
from serve.student.talk import Talks
from serve.tasks.face import Heed, Matter
from serve.tracing.calls import opinion_said, student_span
from store.policy import Moment
from store.student.loaded import Foretells, Opinion, Selects


class StudentAsking:
    """One lane's student, as its questions find it."""

    def __init__(
        self,
        settings: LaneSettings,
        slots: Slots,
        forward: Callable[[Slot], Forward],
        *,
        matter: Matter,
        heed: Heed,
        routing: Routing,
    ) -> None:
        """Put the parts together.

        Args:
            settings: of the lane.
            slots: the versions.
            forward: what runs a slot's student.
            matter: what the lane's questions are made of.
            heed: what the lane makes of an opinion; None: it is no answer.
            routing: is told each opinion.
        """
        self.heed = heed
        self._settings = settings
        self._slots = slots
        self._forward = forward
        self._portions = matter.portions
        self._routing = routing

    async def see(self, question: Question) -> Seen:
        """What the serving version makes of a question; it is pinned for the length of the forward pass.

        Raises:
            StudentBusyError: it has waited in vain.
        """
        with self._slots.pinned() as slot:
            if slot is None:
                return Seen(version=None, policy=None, outcome=None)
            student = slot.student
            if isinstance(student, Selects) and not student.supports(question.redacted):
                return Seen(version=slot.version, policy=student.policy, outcome=None, unsupported=True)
            if (moment := self._moment(slot, question)) is not None:
                with student_span(self._settings, slot.version) as one:
                    seen = await self._foretold(slot, question, moment)
                    one.note(opinion_said(seen.outcome))
                return seen
            outcome: StudentReply | None = None
            if not question.forced or question.ticket is not None:  # else its line is long, and no opinion is needed
                with student_span(self._settings, slot.version) as one:
                    outcome = await self._look(slot, question)
                    one.note(opinion_said(outcome))
            if isinstance(outcome, Opinion) and (outcome := self.heed(outcome, question.value)) is not None:
                self._routing.see(outcome, slot.version)
            return Seen(version=slot.version, policy=slot.student.policy, outcome=outcome)

    def _moment(self, slot: Slot, question: Question) -> Moment | None:
        """When it is decided who answers, where that is before the answer is whole."""
        student, moment = slot.student, question.moment
        if moment == "end" or question.forced or question.unsupported:
            return None
        return moment if isinstance(student, Foretells) and moment in student.moments else None

    async def _foretold(self, slot: Slot, question: Question, moment: Moment) -> Seen:
        """How sure the student is, before its answer is whole; the slot stays pinned for as long as it may be asked."""
        forward, policy = self._forward(slot), slot.student.policy
        then = None if policy is None else policy.at(moment)
        if not isinstance(forward, Talks):
            message = f"{type(forward).__name__} cannot begin an answer"
            raise TypeError(message)
        try:
            begun = await forward.begin(slot, question.redacted, moment, question.ticket, tokens=question.tokens)
        except StudentFailedError:
            return Seen(version=slot.version, policy=then, outcome=None)
        if isinstance(begun, TooLong):
            return Seen(version=slot.version, policy=then, outcome=begun)
        slot.pins += 1
        begun.talk.whole.add_done_callback(lambda _: slot.unpin())
        self._routing.see(begun.view, slot.version)
        return Seen(version=slot.version, policy=then, outcome=begun.view, talk=begun.talk)

    async def _look(self, slot: Slot, question: Question) -> StudentReply | None:
        """What the student makes of a question; None where it fails, or the teacher is forced and it is busy.

        What is longer than a turn is read portion by portion, so that it does not hold up what comes after it.
        """
        forward = self._forward(slot)
        count = ceil(question.tokens / forward.turn)
        portions = self._portions(question.redacted, count) if count > 1 else ()
        each = question.tokens // (len(portions) + 1) or 1
        try:
            for portion in portions:
                if isinstance(await forward.ask(slot, portion, question.ticket, tokens=each), TooLong):
                    return TooLong()
            return await forward.ask(slot, question.redacted, question.ticket, tokens=each)
        except StudentFailedError:
            return None
        except StudentBusyError:
            if not question.forced:
                raise
            return None
