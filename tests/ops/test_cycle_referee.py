"""The referee of a training cycle: the lane's teacher, asked in batches, paid from the lane's budget."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ops.wiring.referee import CycleReferee
from serve.settings import BudgetSettings, LaneSettings
from serve.teacher.ask.judge import AskForVerdict
from store.errors import StoreUnavailableError
from store.event import AgreementVerdict, ChatInput, Lane, Message
from store.money.deeds import Deeds, nano
from store.money.tally import DeedBatch
from store.tasks.chat import ChatTerms
from store.tasks.rules import Dispute
from store.tasks.tasks import LaneTerms
from tests.serve.chat.fakes import TALKER
from tests.serve.chat.test_referee import Judge, JudgingTeacher
from tests.serve.fakes import LANE, FakeLedger
from trainer.judge.referee import Disputed

SETTINGS = LaneSettings(
    lane=LANE,
    task="chat",
    terms=LaneTerms(chat=ChatTerms(referee="teacher", judged_share=0.5)),
    training_permitted=True,
    teacher=TALKER,
    budget=BudgetSettings(calls_per_day=100, audit_reserve_ratio=0.0),
)
QUESTION = ChatInput(messages=[Message(role="user", content="when?")])


def pairs(count: int) -> list[Disputed]:
    return [
        Disputed(question=QUESTION, parts=[], dispute=Dispute(f"teacher {number}", f"student {number}"), distance=0.1)
        for number in range(count)
    ]


class Desk:
    """A referee with everything around it."""

    def __init__(self, judge: Judge, *, calls: int = 100, settings: LaneSettings = SETTINGS) -> None:
        self.teacher = JudgingTeacher(judge)
        self.ledger = FakeLedger(calls)
        self.books: list[Deeds] = []
        self.closed = False
        self.referee = CycleReferee(
            settings,
            AskForVerdict(settings.teacher),
            client=self.teacher.client,
            ledger=self.ledger,
            write=self.write,
        )

    def write(self, lane: Lane, batch: DeedBatch) -> None:
        assert lane == LANE
        if self.closed:
            raise StoreUnavailableError
        self.books.append(batch.deeds)

    def judge(self, chosen: Sequence[Disputed]) -> dict[int, AgreementVerdict]:
        said = dict[int, AgreementVerdict]()
        self.referee.judge(chosen, lambda place, verdict: said.update({place: verdict}))
        return said


def test_each_pair_is_read_in_both_orders_and_every_call_is_paid_from_the_lanes_budget() -> None:
    desk = Desk(lambda first, second: "same" if "3" not in first + second else "first")
    said = desk.judge(pairs(5))
    assert {place: (one.agreed, one.consistent) for place, one in said.items()} == {
        **dict.fromkeys((0, 1, 2, 4), (True, True)),
        3: (False, False),
    }
    orders = [(f"teacher {number}", f"student {number}") for number in range(5)]
    assert sorted(desk.teacher.read) == sorted([*orders, *((second, first) for first, second in orders)])
    assert desk.ledger.left == 100 - 10


def test_a_budget_that_ends_midway_leaves_the_rest_unjudged_and_is_never_exceeded() -> None:
    desk = Desk(lambda *_: "same", calls=7)
    assert 0 < len(desk.judge(pairs(10))) <= 3
    assert desk.ledger.left == 0
    assert len(desk.teacher.read) == 7


def test_one_cycle_asks_no_more_than_its_share_of_a_day() -> None:
    desk = Desk(lambda *_: "same")
    assert len(desk.judge(pairs(20))) == 20
    assert sorted(desk.judge(pairs(20))) == [0, 1, 2, 3, 4]  # half of 100 calls are 25 pairs
    assert desk.judge(pairs(1)) == {}
    assert desk.ledger.left == 50


@pytest.mark.parametrize("judge", [lambda *_: "down", lambda *_: "well"])
def test_a_judge_that_is_down_or_says_something_else_judges_nothing(judge: Judge) -> None:
    assert Desk(judge).judge(pairs(3)) == {}


def test_while_redis_does_not_answer_nothing_is_spent() -> None:
    desk = Desk(lambda *_: "same")
    desk.ledger.down = True
    assert desk.judge(pairs(3)) == {}
    assert desk.teacher.read == []


def test_another_model_or_other_parameters_are_another_judge_and_the_form_of_answers_is_not() -> None:
    def version(**changes: Any) -> str:
        return Desk(lambda *_: "same", settings=replace(SETTINGS, teacher=replace(TALKER, **changes))).referee.version

    assert version() == version(parameters={"temperature": 0, "stop": ["x"]})
    assert len({version(), version(model="other"), version(parameters={"temperature": 1})}) == 3


def test_every_call_is_in_the_lanes_books_as_what_it_is() -> None:
    desk = Desk(lambda *_: "same")
    desk.closed = True
    desk.judge(pairs(2))
    assert desk.books == []
    desk.closed = False
    said = desk.judge(pairs(3))
    deeds = sum(desk.books, Deeds())
    assert (deeds.judged, deeds.calls, deeds.audits, deeds.bounded) == (10, 0, 0, 0), "those of before with them"
    each = next(iter(said.values())).cost_usd / 2
    assert each > 0
    assert deeds.judged_nano_usd == 10 * nano(each)
    assert desk.referee.calls == 10
    assert desk.referee.spent_usd == pytest.approx(10 * each)
    assert 100 - desk.ledger.left == 10


def test_a_judge_whose_answer_cannot_be_read_was_paid_all_the_same() -> None:
    desk = Desk(lambda *_: "well")
    assert desk.judge(pairs(3)) == {}
    (deeds,) = desk.books
    assert deeds.judged == desk.referee.calls == 3
    assert deeds.judged_nano_usd > 0
