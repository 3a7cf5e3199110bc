"""A lane that only has a budget, at the gateway: every answer says why, and what is bought is what the plan allows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from serve.escalation import Answer, Refusal
from serve.routing.budget import BudgetRouting
from serve.tasks.classify.face import LabelledAnswer
from store.errors import SettingsError
from store.event import ClassifyEscalation
from tests.serve.fakes import FakeLedger, FakeStudent, World, eventually
from tests.serve.test_gateway import question


class GradedStudent(FakeStudent):
    """Says `yes` with the probability that the text is, and shares the rest between the others."""

    def confidence(self, text: str) -> float:
        return float(text) if text[0].isdigit() else 1.0


def budget_world(folder: Path, *, calls: int = 100, audit_ratio: float = 0.0, **changes: Any) -> World:
    """A gateway whose lane has a budget for a tenth of its thousand questions a day."""
    return World(
        folder,
        ledger=FakeLedger(calls),
        audit_ratio=audit_ratio,
        changes={"policy": "budget", "rows_per_day": 1_000.0, **changes},
    )


def ask_all(world: World, texts: Sequence[str], *, forced: bool = False) -> list[Answer | Refusal]:
    """Ask one text after another, once the ledger has been read."""

    async def main() -> list[Answer | Refusal]:
        rng = Random(1)
        async with world.running() as (_, gateway):
            service = gateway.lanes[0].service
            await eventually(lambda: bool(world.beats))
            return [await service.answer(question(text, rng, forced=forced)) for text in texts]

    return asyncio.run(main())


def answers(found: Sequence[Answer | Refusal]) -> list[Answer]:
    assert all(isinstance(one, Answer) for one in found)
    return [one for one in found if isinstance(one, Answer)]


def graded(count: int) -> list[str]:
    rng = Random(1)
    return [f"{rng.uniform(0.4, 1.0):.6f}" for _ in range(count)]


def test_a_cold_lane_buys_every_answer(tmp_path: Path) -> None:
    world = budget_world(tmp_path)
    assert {(one.served_by, one.reason) for one in answers(ask_all(world, graded(30)))} == {("teacher", "cold")}
    assert [event.escalation.propensity for event in world.sink.events] == [1.0] * 30


def test_a_twentieth_of_the_questions_is_bought_outright_and_then_what_the_student_is_least_sure_of(
    tmp_path: Path,
) -> None:
    world = budget_world(tmp_path)
    world.serve(student=GradedStudent())
    texts = graded(400)
    found = answers(ask_all(world, texts))
    outright = sum(one.reason == "bought" for one in found)
    assert outright == pytest.approx(50, abs=5)  # of a thousand to come
    assert {one.reason for one in found[:outright]} == {"bought"}
    assert {one.reason for one in found[outright:]} == {"budget_margin", None}
    sure = {
        reason: [float(text) for text, one in zip(texts, found, strict=True) if one.reason == reason]
        for reason in ("budget_margin", None)
    }
    assert np.quantile(sure["budget_margin"], 0.9) < np.quantile(sure[None], 0.1)
    assert 40 <= len(world.sink.events) <= 90
    assert len(world.sink.events) == sum(one.served_by == "teacher" for one in found)


def test_what_the_student_answers_is_audited_with_its_propensity(tmp_path: Path) -> None:
    world = budget_world(tmp_path, calls=1_000, rows_per_day=10_000.0, audit_ratio=0.25)
    world.serve(student=GradedStudent())
    found = answers(ask_all(world, graded(400)))
    trusted = [one for one in found if one.served_by == "student"]
    audited = [one for one in trusted if one.reason == "audit"]
    assert {one.propensity for one in trusted} == {0.25}
    assert 0.15 < len(audited) / len(trusted) < 0.35
    events = [event for event in world.sink.events if event.escalation.reason == "audit"]
    assert [event.escalation.propensity for event in events] == [0.25] * len(audited)


def test_a_call_that_the_ledger_refuses_is_withheld_and_says_so(tmp_path: Path) -> None:
    world = budget_world(tmp_path, audit_ratio=1.0)
    world.serve(student=GradedStudent())
    world.ledger.left = 0
    (found,) = answers(ask_all(world, ["0.5"]))
    assert (found.served_by, found.reason, found.withheld, found.propensity) == ("student", "budget_margin", True, 0.0)
    assert world.sink.events == []


@pytest.mark.parametrize(("left", "first_day"), [(100, True), (60, False)])
def test_a_gateway_that_starts_on_a_budget_in_use_has_no_first_day(tmp_path: Path, left: int, first_day: bool) -> None:  # noqa: FBT001 - a column of the table
    world = budget_world(tmp_path)
    world.ledger.left = left

    async def main() -> None:
        async with world.running() as (_, gateway):
            await eventually(lambda: bool(world.beats))
            routing = gateway.lanes[0].service.routing
            assert isinstance(routing, BudgetRouting)
            assert (routing.horizon.allowance().exponent < 1.0) == first_day

    asyncio.run(main())


def test_a_cold_lane_without_a_budget_can_answer_nobody(tmp_path: Path) -> None:
    world = budget_world(tmp_path)
    world.ledger.left = 0
    (refused,) = ask_all(world, ["0.5"])
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (503, "budget_exhausted")


@pytest.mark.parametrize(("policy", "suspended"), [("promise", True), ("budget", False)])
def test_only_a_promise_is_suspended_when_the_budget_is_spent(tmp_path: Path, policy: str, suspended: bool) -> None:  # noqa: FBT001 - a column of the table
    world = budget_world(tmp_path, policy=policy)
    world.serve()
    world.ledger.left = 0

    async def main() -> None:
        async with world.running() as (_, gateway):
            await gateway.lanes[0].service.answer(question("unsure", Random(1)))
            assert gateway.lanes[0].service.budget.binds
            seen = len(world.beats)
            await eventually(lambda: len(world.beats) > seen + 1)

    asyncio.run(main())
    assert world.beats[-1].suspended == suspended
    assert world.metric("understudy_promise_suspended") == suspended


def test_a_lane_measured_by_balanced_accuracy_answers_and_reports_the_balanced_label(tmp_path: Path) -> None:
    found = {}
    for metric in ("accuracy", "balanced_accuracy"):
        world = budget_world(tmp_path, metric=metric)
        world.serve(student=GradedStudent())
        world.ledger.left = 0
        last = answers(ask_all(world, [*["0.95"] * 30, "0.6"]))[-1]
        assert isinstance(last, LabelledAnswer)
        found[metric] = last.label
    assert found == {"accuracy": "yes", "balanced_accuracy": "no"}


def test_an_event_of_a_budget_only_lane_carries_the_students_own_opinion(tmp_path: Path) -> None:
    world = budget_world(tmp_path)
    world.serve(student=GradedStudent())
    ask_all(world, ["0.5"])
    (event,) = world.sink.events
    assert isinstance(event, ClassifyEscalation)
    assert event.student is not None
    assert (event.student.version, event.student.output) == ("a", "yes")
    assert event.student.members == [[0.5, 0.25, 0.25]] * 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"metric": "balanced_accuracy"}, "lanes.metric"),
        ({"policy": "budget", "rows_per_day": 0.0}, "lanes.rows_per_day"),
        ({"policy": "budget", "rows_per_day": float("nan")}, "lanes.rows_per_day"),
    ],
)
def test_a_lane_is_valid_from_birth(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        World(tmp_path, changes=changes).parts()
