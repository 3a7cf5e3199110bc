"""Ask the teacher some older questions again, within the budget: does it still say what it said under the old prompt?

What it says is paid for, and so becomes an event like any other answer. A text is asked as it is kept: redacted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from random import Random
from typing import Final, assert_never
from uuid import uuid4

import redis

from ops.exits import RefusedError
from ops.open_log import ensure_topics, open_appender
from ops.rulings.sample import AskedAgain, Quote, SampledQuestion
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.lanes import lane_ledger, lane_settings
from serve.escalation import Question, Seen, build_event
from serve.tasks.tasks import TASKS as FACES
from serve.teacher.ask.tasks import asking_of
from serve.teacher.budget import Budget, Spend
from serve.teacher.client import Answered, Invalid, Reply, Teacher, Unavailable
from serve.teacher.ledger import Ledger
from store.answers.rulings import Sample
from store.event import TeacherAnswer, encode, new_event_id, wall_clock_s
from store.money.books import Books
from store.money.deeds import call_of
from store.money.tally import Tally
from store.policy import Decision
from store.tasks.rules import TaskRules
from store.tasks.tasks import TASKS
from stream.log import Appender, topic_of
from trainer.judge.intervals import wilson

_ACK_S: Final = 30.0
_PATIENCE_S: Final = 30.0  # with a Redis that does not grant a call, nor refuse it
_AGAIN_S: Final = 0.1
_UNSEEN: Final = Seen(version=None, policy=None, outcome=None)  # no student is asked
_WANTED: Final = Decision(route="teacher", reason="forced", propensity=1.0)
_UNPAID: Final = "the budget of the last 24 hours allows no more calls"


def quote(section: LaneSection, found: Sequence[SampledQuestion], of: int) -> Quote:
    """The most that asking these again can cost.

    Raises:
        SettingsError: the teacher's prompt or key is missing.
    """
    teacher = _teacher(section)
    bound_usd = sum(teacher.cost_bound_usd(one.value) for one in found)
    return Quote(questions=tuple(found), of=of, usd_at_most=bound_usd)


def ask_again(
    site: Site, client: redis.Redis, section: LaneSection, found: Sequence[SampledQuestion], *, seen: Callable[[], None]
) -> AskedAgain:
    """Ask, count each call in the lane's budget and its books, and publish what was said.

    Args:
        site: where the events go.
        client: of its Redis.
        section: the lane.
        found: of `questions`.
        seen: called once a question.

    Raises:
        RefusedError: not one was answered; the message says why.
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
        SettingsError: the teacher's prompt or key is missing.
    """
    ensure_topics(site, client)
    settings, tally = lane_settings(section), Tally(lambda: uuid4().hex)
    rules, key = TASKS[section.task](section.terms()), site.secret.redaction_key(section.lane)
    with closing(open_appender(site, client)) as appender:
        try:
            replies = asyncio.run(
                _ask_all(
                    section,
                    found,
                    ledger=lane_ledger(client, settings),
                    tally=tally,
                    publish=lambda question, answer: _publish(section, rules, key, appender, question, answer),
                    seen=seen,
                )
            )
        finally:
            tally.flush(Books(client).write, section.lane)
    return _judged(rules, found, replies)


async def _ask_all(
    section: LaneSection,
    found: Sequence[SampledQuestion],
    *,
    ledger: Ledger,
    tally: Tally,
    publish: Callable[[SampledQuestion, TeacherAnswer], str],
    seen: Callable[[], None],
) -> list[tuple[Reply, str]]:
    """Each question's reply, and what was said, as the task's rules spell it; "" where nothing was."""
    rng = Random()  # noqa: S311 - names of leases
    teacher = _teacher(section)
    budget = Budget(
        lane_settings(section).budget,
        ledger,
        now=wall_clock_s,
        monotonic=time.monotonic,
        new_id=lambda: new_event_id(wall_clock_s(), rng),
    )

    async def one(question: SampledQuestion) -> tuple[Reply, str]:
        bound_usd = teacher.cost_bound_usd(question.value)
        if (why := await _leased(budget, bound_usd)) is not None:
            return Unavailable(detail=why, billed=False), ""
        spend = budget.take("escalation", bound_usd)
        reply = await _paid(teacher, budget, tally, spend, question, bound_usd)
        said = await asyncio.to_thread(publish, question, reply.answer) if isinstance(reply, Answered) else ""
        seen()
        return reply, said

    turns = asyncio.Semaphore(section.teacher.concurrency)

    async def in_turn(question: SampledQuestion) -> tuple[Reply, str]:
        async with turns:
            return await one(question)

    try:
        return list(await asyncio.gather(*map(in_turn, found)))
    finally:
        await budget.close()
        await teacher.close()


async def _leased(budget: Budget, bound_usd: float) -> str | None:
    """Lease a call, and wait for a Redis that is slow; None once it may be taken, else why it may not."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        await budget.prepare("escalation", bound_usd)
        if budget.allows("escalation", bound_usd):
            return None
        if budget.binds:
            return _UNPAID
        if time.monotonic() >= deadline_s:
            return f"Redis granted no call within {_PATIENCE_S:g} s"
        await asyncio.sleep(_AGAIN_S)


async def _paid(
    teacher: Teacher, budget: Budget, tally: Tally, spend: Spend, question: SampledQuestion, bound_usd: float
) -> Reply:
    """Ask, and settle what it cost; a call that is cancelled midway counts in full: it may have been billed."""
    try:
        reply = await teacher.ask(question.value)
    except BaseException:
        budget.settle(spend, bound_usd)
        tally.add(call_of(bound_usd, bounded=True))
        raise
    usd = _cost_usd(reply, bound_usd)
    budget.settle(spend, usd)
    if usd is not None:
        tally.add(call_of(usd, bounded=not _tokens(reply)))
    return reply


def _tokens(reply: Reply) -> int | None:
    """Of the prompt, as the endpoint counted them."""
    match reply:
        case Answered(answer=answer):
            return answer.usage.prompt_tokens
        case Invalid(usage=usage):
            return usage.prompt_tokens
        case Unavailable():
            return None
        case _:
            assert_never(reply)


def _cost_usd(reply: Reply, bound_usd: float) -> float | None:
    """What a reply cost, at most; None where it was surely not billed."""
    match reply:
        case Answered(answer=answer):
            return answer.cost_usd
        case Invalid(cost_usd=cost_usd):
            return cost_usd
        case Unavailable(billed=billed):
            return bound_usd if billed else None
        case _:
            assert_never(reply)


def _publish(
    section: LaneSection,
    rules: TaskRules,
    key: bytes,
    appender: Appender,
    question: SampledQuestion,
    answer: TeacherAnswer,
) -> str:
    """Give a paid answer to the log, and wait until it has it; what was said, as an item will count it."""
    now_s = wall_clock_s()
    asked = Question(
        value=question.value,
        redacted=question.value,
        item_id=question.item_id,
        event_id=new_event_id(now_s, Random()),  # noqa: S311 - an id
        at_s=now_s,
        subject=None,
        forced=True,
    )
    kind = FACES[section.task].event_type
    event = build_event(kind, section.lane, asked, _UNSEEN, _WANTED, answer, eligible=section.training_permitted)
    where = question.item_id.encode()
    appender.append(topic_of(section.use_case), key=where, value=encode(event)).result(_ACK_S)
    return rules.said(rules.normal(event, key))


def _judged(rules: TaskRules, found: Sequence[SampledQuestion], replies: Sequence[tuple[Reply, str]]) -> AskedAgain:
    """How many answers are as before: those with which the teacher, by the lane's rules, does not contradict itself."""
    answered = [
        (question.said, said)
        for question, (reply, said) in zip(found, replies, strict=True)
        if isinstance(reply, Answered)
    ]
    unanswered = tuple(dict.fromkeys(reply.detail for reply, _ in replies if not isinstance(reply, Answered)))
    if not answered:
        message = f"the teacher answered none of {len(found)} questions: {'; '.join(unanswered) or 'there is none'}"
        raise RefusedError(message)
    differing = [(before, now) for before, now in answered if rules.conflicted({before: 1, now: 1})]
    agreed = len(answered) - len(differing)
    low, high = wilson(agreed, len(answered))
    return AskedAgain(
        sample=Sample(asked=len(answered), agreed=agreed, low=low, high=high),
        differing=tuple(differing) if rules.most_said is None else (),
        unanswered=unanswered,
        usd=sum(_cost_usd(reply, 0.0) or 0.0 for reply, _ in replies),
    )


def _teacher(section: LaneSection) -> Teacher:
    settings = lane_settings(section)
    return Teacher(settings.teacher, asking_of(settings), monotonic=time.monotonic)
