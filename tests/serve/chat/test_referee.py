"""Audits of free text: who says that two answers say the same, what it costs, and what when nobody does."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from serve.lifecycle import Gateway
from store.event import AgreementVerdict, ChatEscalation, decode, encode
from store.tasks.chat import ChatRules, ChatTerms
from store.tasks.tasks import LaneTerms
from tests.serve.chat.fakes import KEY, FakeTalker, FakeTalkingTeacher, chat_world, listening, whole
from tests.serve.fakes import FakeLedger, World, eventually

RULES = ChatRules()
Judge = Callable[[str, str], str]
STUDENT, TEACHER = "you said: hello", "the teacher says so"


class FarTalker(FakeTalker):
    """Its texts are as far from any other as it is told."""

    far = 0.1

    def distance(self, first: str, second: str) -> float:
        assert (first, second) == (TEACHER, STUDENT)
        return self.far


class JudgingTeacher(FakeTalkingTeacher):
    """Answers, and judges as it is told to."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge
        self.read: list[tuple[str, str]] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        prompt = body["messages"][-1]["content"]
        if not prompt.startswith("Below is a conversation"):
            return await super().__call__(request)
        assert set(body) == {"model", "messages", "temperature"}
        shown = json.loads(prompt[prompt.index('{"conversation"') :])
        self.read.append((shown["first"], shown["second"]))
        said = self.judge(shown["first"], shown["second"])
        if said == "down":
            return whole(503, {"error": {"message": "no"}})
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 1}
        return whole(200, {"id": "j", "choices": [choice], "usage": usage})


def audited(
    folder: Path,
    judge: Judge,
    *,
    question: str = "hello",
    student: FakeTalker | None = None,
    calls: int = 100,
    referee: Any = "teacher",
    says: str = TEACHER,
) -> tuple[ChatEscalation, World, JudgingTeacher]:
    """One question whose answer by the student is audited: the event of it."""
    teacher = JudgingTeacher(judge)
    teacher.message = {"role": "assistant", "content": says}
    terms = LaneTerms(chat=ChatTerms(referee=referee, distance_limit=0.7))
    world = chat_world(folder, terms=terms, audit_ratio=1.0)
    world.ledger = FakeLedger(calls)
    world.endpoint = teacher
    world.serve(student=student or FarTalker())

    async def main() -> None:
        async with listening(world) as (client, gateway, _):
            assert isinstance(gateway, Gateway)
            found = await client.chat.completions.create(
                model="intent", messages=[{"role": "user", "content": question}]
            )
            assert (found.choices[0].message.content or "").startswith("you said: ")
            await eventually(lambda: bool(world.sink.events))

    asyncio.run(main())
    (event,) = world.sink.events
    assert isinstance(event, ChatEscalation)
    assert decode(encode(event)) == event
    assert event.escalation.reason == "audit"
    return event, world, teacher


def verdict_of(event: ChatEscalation) -> AgreementVerdict | None:
    assert event.student is not None
    return event.student.verdict


def counted(world: World, kind: str) -> float:
    return world.metric("understudy_verdicts_total", kind=kind)


@pytest.mark.parametrize(
    ("judge", "found", "kind"),
    [
        (lambda _first, _second: "Same.", (True, True), "agreed"),
        (lambda first, _: "first" if first == TEACHER else "second", (False, True), "different"),
        (lambda _first, _second: "first", (False, False), "inconsistent"),
        (lambda first, _: "same" if first == TEACHER else "first", (False, False), "inconsistent"),
    ],
    ids=["the same", "one is better", "biased to the first place", "inconsistent"],
)
def test_the_judge_reads_both_orders_and_only_what_it_says_twice_counts(
    tmp_path: Path, judge: Judge, found: tuple[bool, bool], kind: str
) -> None:
    event, world, teacher = audited(tmp_path, judge)
    assert teacher.read == [(TEACHER, STUDENT), (STUDENT, TEACHER)]
    verdict = verdict_of(event)
    assert verdict is not None
    assert (verdict.agreed, verdict.consistent, verdict.by, verdict.model) == (*found, "judge", "big")
    assert verdict.calls == 2
    assert verdict.cost_usd == pytest.approx(2 * 102e-6)
    assert RULES.agreed(event) is found[0]
    assert counted(world, kind) == 1
    assert world.ledger.left == 100 - 3  # the audit and both orders


@pytest.mark.parametrize("judge", [lambda *_: "down", lambda *_: "I would say both"], ids=["down", "off the point"])
def test_without_a_judge_the_audit_is_published_and_counts_as_no_agreement(tmp_path: Path, judge: Judge) -> None:
    event, world, teacher = audited(tmp_path, judge)
    assert verdict_of(event) is None
    assert RULES.agreed(event) is False
    assert len(teacher.read) == 1
    assert counted(world, "unjudged") == 1


def test_a_budget_that_ends_midway_leaves_the_pair_unjudged_and_what_was_asked_is_paid(tmp_path: Path) -> None:
    event, world, teacher = audited(tmp_path, lambda *_: "same", calls=2)
    assert verdict_of(event) is None
    assert len(teacher.read) == 1
    assert counted(world, "unjudged") == 1
    assert world.ledger.left == 0


def test_texts_that_are_far_apart_differ_and_nobody_is_asked(tmp_path: Path) -> None:
    student = FarTalker()
    student.far = 0.71
    event, world, teacher = audited(tmp_path, lambda *_: "same", student=student)
    assert verdict_of(event) == AgreementVerdict(agreed=False, by="distance")
    assert RULES.agreed(event) is False
    assert teacher.read == []
    assert counted(world, "distance") == 1


@pytest.mark.parametrize("says", [STUDENT + "  ", '{"a": 1}'])
def test_where_rules_tell_nobody_is_asked(tmp_path: Path, says: str) -> None:
    event, _, teacher = audited(tmp_path, lambda *_: "same", says=says)
    assert verdict_of(event) is None
    assert RULES.agreed(event) is says.startswith(STUDENT)
    assert teacher.read == []


def test_a_lane_without_a_referee_asks_nobody(tmp_path: Path) -> None:
    event, _, teacher = audited(tmp_path, lambda *_: "same", referee="off")
    assert verdict_of(event) is None
    assert teacher.read == []


def test_personal_data_stands_in_both_answers_as_the_client_wrote_it(tmp_path: Path) -> None:
    card = "4111 1111 1111 1111"
    says = f"paid by {card}"
    event, _, teacher = audited(tmp_path, lambda *_: "same", question=card, student=FakeTalker(), says=says)
    assert teacher.read[0] == (says, f"you said: {card}")
    assert event.student is not None
    assert "4111" not in event.student.output
    assert RULES.agreed(RULES.normal(event, KEY)) is True


def test_an_escalation_is_published_unjudged_its_client_waits_for_it(tmp_path: Path) -> None:
    teacher = JudgingTeacher(lambda *_: "same")
    world = chat_world(tmp_path, terms=LaneTerms(chat=ChatTerms(referee="teacher")))
    world.endpoint = teacher
    world.serve(student=FakeTalker())

    async def main() -> None:
        async with listening(world) as (client, _, _):
            await client.chat.completions.create(model="intent", messages=[{"role": "user", "content": "unsure"}])

    asyncio.run(main())
    (event,) = world.sink.events
    assert event.student is not None
    assert event.student.verdict is None
    assert teacher.read == []
