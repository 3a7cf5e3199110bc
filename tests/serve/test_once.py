"""Idempotency-Key: a request is answered once, paid once and counted once, whatever comes after it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from serve.front import kept as kept_module
from serve.front.kept import KeyClaim, RedisAnswers, Shared
from serve.front.once import Once
from serve.lifecycle import Gateway
from serve.tasks.classify import LabelledAnswer
from store.errors import StoreUnavailableError
from tests.ops.children import until
from tests.serve.client import ask, run
from tests.serve.fakes import LANE, World, eventually

REPLAYED = "idempotency-replayed"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@dataclass
class FakeShared:
    """What replicas share, in memory; may be taken down."""

    records: dict[str, tuple[str, str | None, bytes, bool]] = field(default_factory=dict)  # request, owner, answers
    down: bool = False

    def claim(self, name: str, request: str, owner: str, hold_s: float) -> KeyClaim:
        self._check()
        known, holder, answers, complete = self.records.get(name, (request, None, b"", False))
        if known != request:
            return KeyClaim(state="other")
        if complete:
            return KeyClaim(state="kept", answers=answers)
        if holder not in {None, owner}:
            return KeyClaim(state="busy", wait_s=hold_s)
        self.records[name] = (request, owner, answers, False)
        return KeyClaim(state="ours", answers=answers)

    def renew(self, name: str, owner: str, hold_s: float) -> None:
        self._check()

    def keep(self, name: str, request: str, owner: str, answers: bytes, *, complete: bool) -> bool:
        self._check()
        if name in self.records and self.records[name][1] != owner:
            return False
        self.records[name] = (request, None, answers, complete)
        return True

    def release(self, name: str, owner: str) -> None:
        self._check()
        request, holder, answers, _ = self.records.pop(name)
        if holder != owner or answers:
            self.records[name] = (request, None if holder == owner else holder, answers, False)

    def _check(self) -> None:
        if self.down:
            message = "down"
            raise StoreUnavailableError(message)


Together = Callable[[list[httpx.AsyncClient], list[Gateway]], Awaitable[Any]]


def together(worlds: list[World], step: Together) -> None:
    """Run replicas side by side."""

    async def main() -> None:
        async with worlds[0].running() as (one, first), worlds[1].running() as (other, second):
            await step([one, other], [first, second])

    asyncio.run(main())


def test_a_request_that_is_sent_again_gets_the_same_answer_and_nothing_is_paid_or_counted_twice(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        first = await ask(client, "unsure 1", Idempotency_Key="k")
        world.endpoint.answer = "maybe"
        second = await client.post(
            "/classify", json={"input": "unsure 1", "model": "intent"}, headers={"Idempotency-Key": "k"}
        )
        assert (first.status_code, second.status_code) == (200, 200)
        assert second.json() == first.json()
        assert REPLAYED not in first.headers
        assert second.headers[REPLAYED] == "true"
        assert second.headers["x-understudy-event"] == first.headers["x-understudy-event"]

    run(world, step)
    assert (len(world.endpoint.bodies), len(world.sink.events)) == (1, 1)
    assert world.metric("understudy_replayed_total") == 1
    assert world.metric("understudy_answers_total", served_by="teacher", reason="cold", degraded="no") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"input": "another"},
        {"input": ["unsure"]},
        {"user": "somebody"},
        {"input": " unsure"},
    ],
)
def test_the_same_key_with_another_body_is_422(world: World, other: dict[str, Any]) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        headers = {"Idempotency-Key": "k"}
        body = {"model": "intent", "input": "unsure"}
        assert (await client.post("/classify", json=body, headers=headers)).status_code == 200
        for _again in range(2):
            found = await client.post("/classify", json=body | other, headers=headers)
            assert (found.status_code, found.json()["error"]["code"]) == (422, "idempotency_key_reused")
        forced = await client.post("/classify", json=body, headers=headers | {"X-Understudy-Force": "teacher"})
        assert forced.status_code == 422

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_the_same_request_meanwhile_waits_for_the_first_and_another_body_does_not(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        first = asyncio.create_task(ask(client, "unsure", Idempotency_Key="k"))
        await eventually(lambda: len(world.endpoint.bodies) == 1)
        second = asyncio.create_task(ask(client, "unsure", Idempotency_Key="k"))
        assert (await ask(client, "other", Idempotency_Key="k")).status_code == 422
        world.endpoint.hold.set()
        answers = await asyncio.gather(first, second)
        assert answers[0].json() == answers[1].json()
        assert [REPLAYED in one.headers for one in answers] == [False, True]

    run(world, step)
    assert (len(world.endpoint.bodies), len(world.sink.events)) == (1, 1)


def test_only_so_many_wait_for_one_request(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        asked = [asyncio.create_task(ask(client, "unsure", Idempotency_Key="k")) for _number in range(40)]
        await eventually(lambda: sum(one.done() for one in asked) == 23)
        world.endpoint.hold.set()
        found = [one.status_code for one in await asyncio.gather(*asked)]
        assert (found.count(409), found.count(200)) == (23, 17)

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_a_refusal_is_not_kept(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.status = 503
        assert (await ask(client, "unsure", Idempotency_Key="k")).status_code == 503
        world.endpoint.status = 200
        found = await ask(client, "unsure", Idempotency_Key="k")
        assert (found.status_code, REPLAYED in found.headers) == (200, False)

    run(world, step)


def test_of_a_list_only_the_texts_without_an_answer_are_asked_again(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.answer = "nonsense"
        world.serve()
        await eventually(lambda: bool(world.swaps()))
        texts = ["sure", "long one", "sure too"]
        first = (await ask(client, texts, Idempotency_Key="k")).json()
        assert ["error" in one for one in first["data"]] == [False, True, False]
        world.endpoint.answer = "maybe"
        second = await ask(client, texts, Idempotency_Key="k")
        assert [one["label"] for one in second.json()["data"]] == ["yes", "maybe", "yes"]
        assert REPLAYED not in second.headers
        third = await ask(client, texts, Idempotency_Key="k")
        assert third.json() == second.json()
        assert third.headers[REPLAYED] == "true"

    run(world, step)
    assert len(world.endpoint.bodies) == 2


def test_replicas_share_answers_and_one_at_work_keeps_the_others_away(tmp_path: Path) -> None:
    shared = FakeShared()
    worlds = [World(tmp_path, answers=shared), World(tmp_path, answers=shared)]

    async def step(clients: list[httpx.AsyncClient], _: list[Gateway]) -> None:
        worlds[0].endpoint.hold = asyncio.Event()
        first = asyncio.create_task(ask(clients[0], "unsure", Idempotency_Key="k"))
        await eventually(lambda: len(worlds[0].endpoint.bodies) == 1)
        busy = await ask(clients[1], "unsure", Idempotency_Key="k")
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "idempotency_in_progress")
        assert int(busy.headers["retry-after"]) >= 1
        worlds[0].endpoint.hold.set()
        given, again = await first, await ask(clients[1], "unsure", Idempotency_Key="k")
        assert again.json() == given.json()
        assert again.headers[REPLAYED] == "true"
        assert "x-understudy-idempotency" not in given.headers
        assert (await ask(clients[1], "other", Idempotency_Key="k")).status_code == 422

    together(worlds, step)
    assert [len(one.endpoint.bodies) for one in worlds] == [1, 0]


def test_without_redis_a_replica_gives_its_own_answers_again_and_says_so(tmp_path: Path) -> None:
    shared = FakeShared(down=True)
    worlds = [World(tmp_path, answers=shared), World(tmp_path, answers=shared)]

    async def step(clients: list[httpx.AsyncClient], _: list[Gateway]) -> None:
        found = [await ask(client, "unsure", Idempotency_Key="k") for client in (*clients, *clients)]
        assert [one.status_code for one in found] == [200] * 4
        assert [REPLAYED in one.headers for one in found] == [False, False, True, True]
        assert found[0].headers["x-understudy-idempotency"] == "this-replica"

    together(worlds, step)
    assert [len(one.endpoint.bodies) for one in worlds] == [1, 1]


def test_a_request_whose_client_has_hung_up_leaves_its_answer(world: World) -> None:
    async def step(client: httpx.AsyncClient, _: Gateway) -> None:
        world.endpoint.hold = asyncio.Event()
        first = asyncio.create_task(ask(client, "unsure", Idempotency_Key="k"))
        await eventually(lambda: len(world.endpoint.bodies) == 1)
        first.cancel()
        world.endpoint.hold.set()
        again = await ask(client, "unsure", Idempotency_Key="k")
        assert (again.status_code, again.headers[REPLAYED]) == (200, "true")

    run(world, step)
    assert len(world.endpoint.bodies) == 1


def test_a_claim_keeps_others_away_until_it_is_given_back_or_expires(redis_client: redis.Redis) -> None:
    kept = RedisAnswers(redis_client, LANE)
    assert kept.claim("n", "r", "a", 60.0).state == "ours"
    assert kept.claim("n", "r", "a", 60.0).state == "ours"  # sent twice
    busy = kept.claim("n", "r", "b", 60.0)
    assert (busy.state, 0 < busy.wait_s <= 60.0) == ("busy", True)
    assert kept.claim("n", "other", "b", 60.0).state == "other"
    kept.release("n", "b")
    assert kept.claim("n", "r", "b", 60.0).state == "busy"
    kept.release("n", "a")
    assert kept.claim("n", "r", "b", 60.0).state == "ours"
    kept.claim("m", "r", "a", 0.001)
    until(lambda: kept.claim("m", "r", "b", 60.0).state == "ours")
    kept.claim("o", "r", "a", 1.0)
    kept.renew("o", "a", 600.0)
    assert kept.claim("o", "r", "b", 60.0).wait_s > 60.0


class AtATime(RedisAnswers):
    """The shared answers, in a Redis whose clock the test sets."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, LANE)
        clock, now = "redis.call('TIME')", "ARGV[#ARGV]"
        assert kept_module._SCRIPT.count(clock) == 1
        script = kept_module._SCRIPT.replace(clock, f"{{math.floor({now} / 1000), ({now} % 1000) * 1000}}")
        self._script = client.register_script(script)
        self.now_ms = 1_800_000_000_000

    def _run(self, name: str, *arguments: str | bytes | int) -> Any:
        return super()._run(name, *arguments, self.now_ms)


@pytest.mark.parametrize(
    ("later_ms", "state", "wait_s"),
    [
        (0, "busy", 600.0),
        (1_000, "busy", 599.0),
        (599_999, "busy", 0.001),
        (600_000, "ours", 0.0),
        (700_000, "ours", 0.0),
    ],
)
def test_a_claim_is_held_to_its_last_millisecond_and_no_longer(
    redis_client: redis.Redis, later_ms: int, state: str, wait_s: float
) -> None:
    shared = AtATime(redis_client)
    assert shared.claim("n", "r", "a", 600.0).state == "ours"
    shared.now_ms += later_ms
    found = shared.claim("n", "r", "b", 600.0)
    assert found.state == state
    assert found.wait_s == pytest.approx(wait_s)
    assert shared.claim("n", "another request", "b", 600.0).state == "other"


def test_a_claim_that_is_renewed_is_held_from_then_on(redis_client: redis.Redis) -> None:
    shared = AtATime(redis_client)
    shared.claim("n", "r", "a", 600.0)
    shared.now_ms += 500_000
    shared.renew("n", "b", 600.0)  # it is not its own
    assert shared.claim("n", "r", "b", 600.0).wait_s == pytest.approx(100.0)
    shared.renew("n", "a", 600.0)
    assert shared.claim("n", "r", "b", 600.0).wait_s == pytest.approx(600.0)


def test_answers_are_kept_for_a_day_and_given_to_everybody(redis_client: redis.Redis) -> None:
    kept = RedisAnswers(redis_client, LANE)
    kept.claim("n", "r", "a", 60.0)
    assert not kept.keep("n", "r", "b", b"late", complete=True)
    assert kept.keep("n", "r", "a", b"answers", complete=True)
    assert kept.keep("n", "r", "a", b"answers", complete=True)  # sent twice
    assert not kept.keep("n", "r", "b", b"late", complete=True)
    found = kept.claim("n", "r", "b", 60.0)
    assert (found.state, found.answers) == ("kept", b"answers")
    assert 86_000 < redis_client.ttl(f"{{{LANE.use_case}}}:{LANE.tenant}:once:n") <= 86_400
    assert redis_client.llen(f"{{{LANE.use_case}}}:{LANE.tenant}:once:order") == 1


def test_some_answers_are_kept_for_who_asks_for_the_others(redis_client: redis.Redis) -> None:
    kept = RedisAnswers(redis_client, LANE)
    kept.claim("n", "r", "a", 60.0)
    kept.keep("n", "r", "a", b"some", complete=False)
    found = kept.claim("n", "r", "b", 60.0)
    assert (found.state, found.answers) == ("ours", b"some")
    kept.release("n", "b")
    assert kept.claim("n", "r", "c", 60.0).answers == b"some"


def test_over_the_bound_the_oldest_are_forgotten(redis_client: redis.Redis) -> None:
    kept = RedisAnswers(redis_client, LANE, most_bytes=5_000)
    for number in range(20):
        kept.claim(str(number), "r", "a", 60.0)
        kept.keep(str(number), "r", "a", b"x" * 700, complete=True)
    states = [kept.claim(str(number), "r", "b", 60.0).state for number in range(20)]
    assert states == ["ours"] * 15 + ["kept"] * 5


def test_answers_that_were_kept_in_parts_are_as_old_as_the_last_and_count_once(redis_client: redis.Redis) -> None:
    kept, prefix = RedisAnswers(redis_client, LANE, most_bytes=5_000), f"{{{LANE.use_case}}}:{LANE.tenant}:once"

    def keep(name: str, *, complete: bool) -> None:
        assert kept.claim(name, "r", "a", 60.0).state == "ours"
        assert kept.keep(name, "r", "a", b"x" * 700, complete=complete)

    keep("parts", complete=False)
    one = int(redis_client.get(f"{prefix}:bytes") or 0)
    keep("other", complete=True)
    keep("parts", complete=False)
    keep("parts", complete=True)
    assert redis_client.llen(f"{prefix}:order") == 2
    assert int(redis_client.get(f"{prefix}:bytes") or 0) == 2 * one
    for number in range(4):
        keep(str(number), complete=True)
    assert [kept.claim(name, "r", "b", 60.0).state for name in ("other", "parts", "0")] == ["ours", "kept", "kept"]


def test_neither_key_nor_text_is_stored_nor_what_was_answered(redis_client: redis.Redis, tmp_path: Path) -> None:
    world = World(tmp_path, answers=RedisAnswers(redis_client, LANE))
    run(world, lambda client, _: ask(client, "a secret text", Idempotency_Key="the-clients-key"))
    (name,) = [name for name in redis_client.keys("*once*") if redis_client.type(name) == b"hash"]
    fields: Any = redis_client.hgetall(name)
    stored = repr((redis_client.keys("*once*"), fields))
    assert len(fields[b"answers"]) > 100, "they are there"
    assert not any(word in stored for word in ("label", "served_by", "teacher", "secret"))
    assert "clients-key" not in stored


def test_a_damaged_answer_is_no_answer(redis_client: redis.Redis, tmp_path: Path) -> None:
    first, second = (World(tmp_path, answers=RedisAnswers(redis_client, LANE)) for _ in range(2))
    run(first, lambda client, _: ask(client, "unsure", Idempotency_Key="k"))
    (name,) = [name for name in redis_client.keys("*once*") if redis_client.type(name) == b"hash"]
    value: Any = redis_client.hget(name, "answers")
    redis_client.hset(name, "answers", value[:-1] + bytes([value[-1] ^ 1]))
    run(second, lambda client, _: ask(client, "unsure", Idempotency_Key="k"))
    assert len(second.endpoint.bodies) == 1


def test_a_store_that_does_not_answer_is_left_alone_for_a_while() -> None:
    asked: list[str] = []

    class Hanging(FakeShared):
        def claim(self, name: str, request: str, owner: str, hold_s: float) -> KeyClaim:
            asked.append(name)
            raise StoreUnavailableError

    async def main() -> None:
        shared: Shared = Hanging()
        once = Once(shared, b"k" * 32, answer_type=LabelledAnswer, new_id=lambda: "id", monotonic=lambda: 0.0)
        assert await once._ask(lambda one: one.claim("a", "r", "o", 1.0)) is None
        assert await once._ask(lambda one: one.claim("b", "r", "o", 1.0)) is None
        await once.close()

    asyncio.run(main())
    assert asked == ["a"]
