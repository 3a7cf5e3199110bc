"""Laws of the way of one question: propensities are real, and what was paid for is kept."""

import asyncio
import math
from pathlib import Path
from random import Random

import pytest

from serve.escalation import Answer, Question
from serve.settings import BudgetSettings, GatewaySettings
from store.event import TextInput, new_event_id
from tests.serve.fakes import World, eventually
from tests.serve.ledgers import NOBODY


def question(text: str, rng: Random, *, forced: bool = False) -> Question:
    return Question(
        value=TextInput(text=text),
        redacted=TextInput(text=text),
        item_id="0" * 32,
        event_id=new_event_id(1.8e9, rng),
        at_s=1.8e9,
        subject=None,
        forced=forced,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sum_of_inverse_propensities_over_events_is_the_number_of_requests(tmp_path: Path, seed: int) -> None:
    """3,000 requests, a third of them unsure: 1/p over events estimates all, within five standard deviations."""
    world, ratio, count = World(tmp_path, audit_ratio=0.1, seed=seed), 0.1, 3_000
    world.serve()
    rng = Random(seed)
    texts = ["unsure" if rng.random() < 0.3 else "sure" for _ in range(count)]

    async def main() -> list[Answer]:
        found = []
        async with world.running() as (_, gateway):
            service = gateway.lanes[0].service
            for start in range(0, count, 200):
                batch = [service.answer(question(text, rng)) for text in texts[start : start + 200]]
                found += await asyncio.gather(*batch)
                await eventually(lambda: service.audits.waiting == 0)
        return [answer for answer in found if isinstance(answer, Answer)]

    answers = asyncio.run(main())
    assert len(answers) == count
    sure = texts.count("sure")
    assert sum(event.escalation.reason == "low_confidence" for event in world.sink.events) == count - sure
    estimate = sum(1 / event.escalation.propensity for event in world.sink.events)
    deviation = (sure * (1 - ratio) / ratio) ** 0.5
    assert abs(estimate - count) < 5 * deviation
    assert len({event.id for event in world.sink.events}) == len(world.sink.events)


def test_an_audit_that_cannot_be_paid_or_queued_has_propensity_zero(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0)
    world.serve()
    world.ledger.left = 0

    async def main() -> None:
        async with world.running() as (_, gateway):
            found = await gateway.lanes[0].service.answer(question("sure", Random(1)))
            assert isinstance(found, Answer)
            assert (found.served_by, found.reason, found.propensity, found.event_id) == ("student", None, 0.0, None)

    asyncio.run(main())
    assert world.sink.events == []


def test_while_no_audit_can_be_paid_none_is_claimed_of_the_answers_that_were_not_drawn(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=0.5)
    world.serve()

    async def main() -> None:
        async with world.running() as (_, gateway):
            service, rng = gateway.lanes[0].service, Random(1)
            before = [await service.answer(question("sure", rng)) for _ in range(20)]
            world.ledger.left = 0
            service.budget._leases.clear()
            service.budget._ask_at_s["audit"] = math.inf  # the last one was refused just now
            after = [await service.answer(question("sure", rng)) for _ in range(20)]
            for found, propensities in ((before, {0.5}), (after, {0.0})):
                answers = [answer for answer in found if isinstance(answer, Answer)]
                assert {answer.propensity for answer in answers} == propensities
                assert {answer.reason for answer in answers} == ({None, "audit"} if 0.5 in propensities else {None})

    asyncio.run(main())


@pytest.mark.parametrize(("status", "billed"), [(500, True), (503, False)])
def test_a_call_without_an_answer_costs_its_bound_if_it_may_have_been_billed(
    tmp_path: Path, status: int, *, billed: bool
) -> None:
    limits = BudgetSettings(calls_per_day=1000, usd_per_day=1.0, audit_reserve_ratio=0.0)
    world = World(tmp_path, changes={"budget": limits})
    world.serve()
    world.endpoint.status = status
    bounds_usd: list[float] = []

    async def main() -> None:
        async with world.running() as (_, gateway):
            service = gateway.lanes[0].service
            bounds_usd.append(service.teacher.cost_bound_usd(TextInput(text="unsure")))
            await service.answer(question("unsure", Random(1)))

    asyncio.run(main())
    found = world.ledger.used(NOBODY)
    assert bounds_usd[0] > 0.0
    assert found.used_calls == int(billed)
    assert found.used_usd_micro == (math.ceil(bounds_usd[0] * 1e6) if billed else 0)


def test_a_call_that_was_answered_costs_what_it_cost(tmp_path: Path) -> None:
    limits = BudgetSettings(calls_per_day=1000, usd_per_day=1.0, audit_reserve_ratio=0.0)
    world = World(tmp_path, changes={"budget": limits})
    world.serve()
    bounds_usd: list[float] = []

    async def main() -> None:
        async with world.running() as (_, gateway):
            service = gateway.lanes[0].service
            bounds_usd.append(service.teacher.cost_bound_usd(TextInput(text="unsure")))
            await service.answer(question("unsure", Random(1)))

    asyncio.run(main())
    cost_usd = world.metric("understudy_teacher_usd_total")
    found = world.ledger.used(NOBODY)
    assert found.used_calls == 1
    assert found.used_usd_micro == math.ceil(cost_usd * 1e6) < bounds_usd[0] * 1e6


def test_a_full_audit_queue_draws_no_audit(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0)
    world.serve()

    async def main() -> None:
        world.endpoint.hold = asyncio.Event()
        async with world.running() as (_, gateway):
            service, rng = gateway.lanes[0].service, Random(1)
            found = [await service.answer(question("sure", rng)) for _ in range(256 + 4 + 10)]
            drawn = [answer for answer in found if isinstance(answer, Answer) and answer.reason == "audit"]
            assert 256 <= len(drawn) <= 260
            assert isinstance(found[-1], Answer)
            assert found[-1].propensity == 0.0
            world.endpoint.hold.set()

    asyncio.run(main())
    assert 256 <= len(world.sink.events) <= 260  # each one that was drawn was asked before the end


def test_questions_that_waited_for_one_lease_draw_no_more_audits_than_there_is_room_for(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0, changes={"audit_queue": 2, "audit_workers": 1})
    world.serve()

    async def main() -> None:
        world.endpoint.hold = asyncio.Event()
        async with world.running() as (_, gateway):
            service, rng = gateway.lanes[0].service, Random(1)
            found = await asyncio.gather(*(service.answer(question("sure", rng)) for _ in range(12)))
            answers = [answer for answer in found if isinstance(answer, Answer)]
            assert [answer.served_by for answer in answers] == ["student"] * 12
            drawn = [answer for answer in answers if answer.reason == "audit"]
            assert 1 <= len(drawn) <= 3  # one is being asked, two wait
            assert all(answer.propensity == (1.0 if answer in drawn else 0.0) for answer in answers)
            world.endpoint.hold.set()

    asyncio.run(main())


def test_while_the_circuit_is_open_no_audit_is_drawn(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0)
    world.serve()
    world.endpoint.status = 500

    async def main() -> None:
        async with world.running() as (_, gateway):
            service, rng = gateway.lanes[0].service, Random(1)
            for _ in range(5):
                await service.answer(question("unsure", rng))
            found = await service.answer(question("sure", rng))
            assert isinstance(found, Answer)
            assert (found.served_by, found.reason, found.propensity) == ("student", None, 0.0)

    asyncio.run(main())


def test_background_audits_survive_the_shutdown(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0)
    world.serve()

    async def main() -> None:
        world.endpoint.hold = asyncio.Event()
        async with world.running() as (_, gateway):
            rng = Random(1)
            await asyncio.gather(*(gateway.lanes[0].service.answer(question("sure", rng)) for _ in range(15)))
            assert world.sink.events == []
            asyncio.get_running_loop().call_later(0.1, world.endpoint.hold.set)

    asyncio.run(main())
    assert len(world.sink.events) == 15
    assert world.sink.closed
    assert world.ledger.left == 1_000_000 - 15  # the rest of each lease was given back


def test_a_paid_answer_survives_a_client_that_hangs_up_and_a_shutdown(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def main() -> None:
        world.endpoint.hold = asyncio.Event()
        async with world.running() as (_, gateway):
            asked = asyncio.create_task(gateway.lanes[0].service.answer(question("hello", Random(1))))
            await eventually(lambda: world.endpoint.running == 1)
            asked.cancel()
            asyncio.get_running_loop().call_later(0.1, world.endpoint.hold.set)

    asyncio.run(main())
    assert len(world.sink.events) == 1


def test_a_shutdown_ends_within_its_grace_when_the_teacher_hangs(tmp_path: Path) -> None:
    world = World(tmp_path, audit_ratio=1.0, settings=GatewaySettings(grace_s=0.3))
    world.serve()

    async def main() -> None:
        world.endpoint.hold = asyncio.Event()
        async with world.running() as (_, gateway):
            service = gateway.lanes[0].service
            await service.answer(question("sure", Random(1)))
            escalated = asyncio.create_task(service.answer(question("unsure", Random(1))))
            await eventually(lambda: world.endpoint.running == 2)
        with pytest.raises(asyncio.CancelledError):
            await escalated

    async def bounded() -> None:
        async with asyncio.timeout(3):
            await main()

    asyncio.run(bounded())
    assert world.sink.events == []
    assert world.ledger.left < 1_000_000  # cut off, perhaps billed: it counts


def test_the_same_event_id_is_always_drawn_alike(tmp_path: Path) -> None:
    """A request that is sent again under its Idempotency-Key is audited again or again not."""
    world = World(tmp_path, audit_ratio=0.5)
    world.serve()

    async def main() -> None:
        async with world.running() as (_, gateway):
            for seed in range(20):
                twice = [await gateway.lanes[0].service.answer(question("sure", Random(seed))) for _ in range(2)]
                assert isinstance(twice[0], Answer)
                assert isinstance(twice[1], Answer)
                assert twice[0].reason == twice[1].reason

    asyncio.run(main())
    assert 0 < len(world.sink.events) < 40
