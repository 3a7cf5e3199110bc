"""A cycle's referee: the lane's teacher as a judge, paid from the lane's budget. Imported in the cycle's process."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import SystemRandom
from time import monotonic
from uuid import uuid4

import openai

from ops.wiring.lanes import lane_ledger, lane_settings
from ops.wiring.office import Office
from serve.referee import Referee as Judge
from serve.settings import LaneSettings
from serve.teacher.ask.judge import AskForVerdict
from serve.teacher.budget import Budget
from serve.teacher.client import Teacher
from serve.teacher.ledger import Ledger
from store.buffer.connect import connect
from store.errors import StoreUnavailableError
from store.event import AgreementVerdict, wall_clock_s
from store.log.lazy import logger
from store.money.books import Books
from store.money.deeds import verdict_of
from store.money.tally import Tally, Write
from trainer.judge.referee import Disputed

_log = logger(__name__)
_ANSWER_S = 5.0


def open_referee(office: Office) -> "CycleReferee":
    """The referee of one cycle.

    Raises:
        SettingsError: the variable with the teacher's key is missing.
    """
    lane = lane_settings(office.section)
    return CycleReferee(lane, AskForVerdict(lane.teacher), redis_url=office.redis_url)


class CycleReferee:
    """Satisfies `trainer.judge.referee.Referee`. One cycle may make so many calls, then pairs stay unjudged."""

    def __init__(
        self,
        lane: LaneSettings,
        asking: AskForVerdict,
        *,
        redis_url: str = "",
        client: Callable[[], openai.AsyncOpenAI] | None = None,
        ledger: Ledger | None = None,
        write: Write | None = None,
    ) -> None:
        """Nobody is asked yet.

        Args:
            lane: whose teacher judges, and pays.
            asking: what the judge is asked.
            redis_url: where its budget is counted.
            client: makes the judge's client, one a batch; None: of the lane's settings.
            ledger: instead of the one in Redis.
            write: likewise, of the lane's books.
        """
        self.version = f"{lane.teacher.model}@{asking.prompt_version}"
        self.distance_limit = lane.terms.chat.distance_limit
        self._lane = lane
        self._redis_url = redis_url
        self._asking = asking
        self._client = client
        self._ledger = ledger
        self.calls = 0
        self.spent_usd = 0.0
        self._tally = Tally(lambda: uuid4().hex)
        self._write = write
        self.pairs_left = int(lane.terms.chat.judged_share * lane.budget.calls_per_day) // 2

    def judge(self, pairs: Sequence[Disputed], said: Callable[[int, AgreementVerdict], None]) -> None:
        """See `trainer.judge.referee.Referee`."""
        chosen = pairs[: self.pairs_left]
        self.pairs_left -= len(chosen)
        if not chosen:
            return
        try:
            if self._ledger is not None:
                self._ask(chosen, said, self._ledger, self._write)
                return
            with connect(self._redis_url, answer_s=_ANSWER_S) as client:
                self._ask(chosen, said, lane_ledger(client, self._lane), Books(client).write)
        except StoreUnavailableError:
            _log.warning("Redis does not answer, so nobody is judged", lane=str(self._lane.lane))

    def _ask(
        self,
        pairs: Sequence[Disputed],
        said: Callable[[int, AgreementVerdict], None],
        ledger: Ledger,
        write: Write | None,
    ) -> None:
        """Ask, and write down what it cost; what the books do not take is written with the next pairs."""
        try:
            asyncio.run(self._judge(pairs, said, ledger))
        finally:
            if write is not None:
                with suppress(StoreUnavailableError):
                    self._tally.flush(write, self._lane.lane)

    def _paid(self, usd: float, bounded: bool) -> None:  # noqa: FBT001 - as `Judge` calls it
        self.calls += 1
        self.spent_usd += usd
        self._tally.add(verdict_of(usd, bounded=bounded))

    async def _judge(
        self, pairs: Sequence[Disputed], said: Callable[[int, AgreementVerdict], None], ledger: Ledger
    ) -> None:
        lane = self._lane
        budget = Budget(
            lane.budget, ledger, now=wall_clock_s, monotonic=monotonic, new_id=lambda: f"cycle-{uuid4().hex}"
        )
        teacher = Teacher(
            lane.teacher,
            self._asking,
            monotonic=monotonic,
            client=None if self._client is None else self._client(),
            chance=SystemRandom().random,
        )
        judge = Judge(teacher, self._asking, budget, distance_limit=self.distance_limit, paid=self._paid)
        turns = asyncio.Semaphore(lane.teacher.concurrency)

        async def one(place: int, pair: Disputed) -> None:
            async with turns:
                verdict = await judge.verdict(pair.question, pair.dispute, pair.distance)
            if verdict is not None:
                said(place, verdict)

        try:
            await asyncio.gather(*(one(place, pair) for place, pair in enumerate(pairs)))
        finally:
            await budget.close()
            await teacher.close()
