"""What the gateway writes into the lanes' books: each question, each call, and what it cost; once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry

from serve.lifecycle import Gateway
from store.errors import StoreUnavailableError
from store.event import Lane
from store.money.books import Books
from store.money.deeds import Deeds
from store.money.tally import DeedBatch
from tests.serve.client import ask, run
from tests.serve.fakes import LANE, World, eventually, text_input

CALL_NANO = 24_000  # 20 tokens in at 1 $ and 2 out at 2 $ for a million


@pytest.fixture
def world(tmp_path: Path, redis_client: redis.Redis) -> World:
    made = World(tmp_path, books=Books(redis_client).write, tally_path=tmp_path / "tally.json")
    made.serve()
    return made


def ever(client: redis.Redis) -> Deeds:
    return Books(client).read(LANE).ever


def test_who_answered_and_what_it_cost(world: World, redis_client: redis.Redis) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "sure")
        await ask(client, "unsure")
        for _again in range(2):  # the second is given again
            await client.post(
                "/classify", json={"input": ["unsure 1", "sure 1"], "model": "intent"}, headers={"Idempotency-Key": "k"}
            )

    run(world, step)
    found = ever(redis_client)
    assert found == Deeds(
        student=2, teacher=2, cached=2, calls=2, calls_nano_usd=2 * CALL_NANO, chars=len("sureunsureunsure 1sure 1")
    )


def test_an_audit_is_a_call_of_its_own_kind(world: World, redis_client: redis.Redis) -> None:
    world.audit_ratio = 1.0

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        await ask(client, "sure")
        await eventually(lambda: len(world.sink.events) == 1)

    run(world, step)
    found = ever(redis_client)
    assert (found.student, found.teacher, found.calls, found.audits, found.audits_nano_usd) == (1, 0, 0, 1, CALL_NANO)


def test_an_unreadable_answer_is_paid_and_where_only_the_teacher_could_answer_nobody_has(
    world: World, redis_client: redis.Redis
) -> None:
    world.registry.move(None)
    world.endpoint.answer = "perhaps"

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        assert (await ask(client, "cold")).status_code == 502

    run(world, step)
    found = ever(redis_client)
    assert (found.teacher, found.unanswered, found.calls, found.calls_nano_usd, found.bounded) == (
        0,
        1,
        1,
        CALL_NANO,
        0,
    )


def test_what_the_endpoint_does_not_price_counts_at_its_bound_and_is_said_to(
    world: World, redis_client: redis.Redis
) -> None:
    world.endpoint.usage = None
    bounds = list[float]()

    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        bounds.append(gateway.lanes[0].teacher.cost_bound_usd(text_input("unsure")))
        await ask(client, "unsure")
        world.endpoint.status = 500  # it may have been billed
        await ask(client, "unsure")
        world.endpoint.status = 429  # surely not
        await ask(client, "unsure")

    run(world, step)
    found = ever(redis_client)
    assert (found.calls, found.bounded) == (2, 2)
    assert found.calls_nano_usd == found.bounded_nano_usd == 2 * round(bounds[0] * 1e9)
    assert (found.student, found.teacher) == (2, 1)  # the student answered where the teacher failed


def test_what_a_busy_gateway_turns_away_is_neither_a_call_nor_an_answer(
    world: World, redis_client: redis.Redis
) -> None:
    async def step(client: httpx.AsyncClient, gateway: Gateway) -> None:
        gateway.lanes[0].service.count_shed("waited_in_vain")
        await ask(client, "sure")

    run(world, step)
    assert ever(redis_client) == Deeds(student=1, refused=1, chars=4)


def _failing(books: Books, fails: Callable[[], bool]) -> Callable[[Lane, DeedBatch], None]:
    def write(lane: Lane, batch: DeedBatch) -> None:
        books.write(lane, batch)  # it arrives
        if fails():
            message = "timed out"
            raise StoreUnavailableError(message)

    return write


def test_a_redis_that_takes_a_batch_and_does_not_say_so_counts_nothing_twice(
    world: World, redis_client: redis.Redis
) -> None:
    state = {"fails": 5}

    def fails() -> bool:
        state["fails"] -= 1
        return state["fails"] >= 0

    world.books = _failing(Books(redis_client), fails)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        for _again in range(10):
            await ask(client, "sure")
            await asyncio.sleep(0)
        await eventually(lambda: ever(redis_client).student == 10)

    run(world, step)
    assert ever(redis_client).student == 10


def test_what_was_done_without_redis_is_written_by_the_next_process(world: World, redis_client: redis.Redis) -> None:
    books = Books(redis_client)

    def away(_lane: Lane, _batch: DeedBatch) -> None:
        message = "Connection refused"
        raise StoreUnavailableError(message)

    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "sure")

    world.books = away
    run(world, step)
    assert ever(redis_client) == Deeds()
    world.books = books.write
    for _restart in range(2):
        world.prometheus = CollectorRegistry()
        run(world, step)
    assert ever(redis_client).student == 3
    assert not (world.directory / "tally.json").exists()


def test_while_the_gateway_runs_the_books_are_at_most_a_beat_behind(world: World, redis_client: redis.Redis) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        await ask(client, "sure")
        await eventually(lambda: ever(redis_client).student == 1)

    run(world, step)
