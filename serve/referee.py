"""Whether two texts of different words say the same: a distance that may only reject, then the teacher as a judge.

The judge reads both answers in both orders. Only where it says twice that they are the same do they agree; where it
contradicts itself they do not, and that is counted. Each call is paid from the lane's budget, as an audit is.
"""

from collections.abc import Callable
from typing import Final, Literal, Protocol, cast

from serve.request.parts import Teaches
from serve.teacher.ask.judge import JudgeAnswer, Said
from serve.teacher.budget import Budget
from serve.teacher.client import Answered, Invalid, Reply, Unavailable
from store.event import AgreementVerdict, TaskInput
from store.tasks.rules import Dispute

Kind = Literal["agreed", "different", "inconsistent", "distance", "unjudged"]
"""What came of a dispute; `unjudged`: there was no answer, or no money for one."""

_TURNED: Final[dict[Said, Said]] = {"same": "same", "first": "second", "second": "first"}


class Pairs(Protocol):
    """Puts a question and two answers into what the judge is asked."""

    def pair(self, question: TaskInput, first: str, second: str) -> TaskInput:
        """The question with two answers, in the order in which the judge reads them."""


class Referee:
    """One lane's. Used from one event loop."""

    def __init__(
        self,
        teacher: Teaches,
        pairs: Pairs,
        budget: Budget,
        *,
        distance_limit: float,
        paid: Callable[[float, bool], None] = lambda _usd, _bounded: None,
        judged: Callable[[Kind], None] = lambda _kind: None,
    ) -> None:
        """Put the parts together; whoever made them closes them.

        Args:
            teacher: asks the judge.
            pairs: what it is asked.
            budget: the lane's.
            distance_limit: two texts that are farther apart differ.
            paid: told what a call cost, and whether that is only the most that it can have.
            judged: told what came of each dispute.
        """
        self.teacher = teacher
        self._pairs = pairs
        self._budget = budget
        self._limit = distance_limit
        self._paid = paid
        self._judged = judged

    async def verdict(self, question: TaskInput, dispute: Dispute, distance: float | None) -> AgreementVerdict | None:
        """Whether two answers say the same; None: nobody could be asked, and they count as different.

        Args:
            question: what they are answers to.
            dispute: the answers.
            distance: between them; None: nobody measured it.
        """
        verdict, kind = await self._verdict(question, dispute, distance)
        self._judged(kind)
        return verdict

    async def _verdict(
        self, question: TaskInput, dispute: Dispute, distance: float | None
    ) -> tuple[AgreementVerdict | None, Kind]:
        if distance is not None and distance > self._limit:
            return AgreementVerdict(agreed=False, by="distance"), "distance"
        one = await self._ask(self._pairs.pair(question, dispute.teacher, dispute.student))
        other = None if one is None else await self._ask(self._pairs.pair(question, dispute.student, dispute.teacher))
        if one is None or other is None:
            return None, "unjudged"
        consistent = one.said == _TURNED[other.said]
        agreed = consistent and one.said == "same"
        verdict = AgreementVerdict(
            agreed=agreed,
            by="judge",
            consistent=consistent,
            model=one.model,
            calls=2,
            cost_usd=one.cost_usd + other.cost_usd,
        )
        return verdict, "agreed" if agreed else "different" if consistent else "inconsistent"

    async def _ask(self, pair: TaskInput) -> JudgeAnswer | None:
        """One call, if the budget has one; a call that is cut off midway counts in full."""
        bound_usd = self.teacher.cost_bound_usd(pair)
        if not self.teacher.available:
            return None
        await self._budget.prepare("audit", bound_usd)
        if not self._budget.allows("audit", bound_usd):
            return None
        spend = self._budget.take("audit", bound_usd)
        cost_usd: float | None = bound_usd
        bounded = True
        try:
            reply = await self.teacher.ask(pair)
            cost_usd, bounded = _cost(reply, bound_usd)
        finally:
            self._budget.settle(spend, cost_usd)
            if cost_usd is not None:
                self._paid(cost_usd, bounded)
        return cast("JudgeAnswer", reply.answer) if isinstance(reply, Answered) else None


def _cost(reply: Reply, bound_usd: float) -> tuple[float | None, bool]:
    """What a call cost, None where it was surely not billed, and whether that is only its bound."""
    match reply:
        case Answered(answer=answer):
            return answer.cost_usd, not answer.usage.prompt_tokens
        case Invalid(cost_usd=cost_usd, usage=usage):
            return cost_usd, not usage.prompt_tokens
        case Unavailable(billed=billed):
            return (bound_usd if billed else None), billed
