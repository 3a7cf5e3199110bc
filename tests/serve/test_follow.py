"""Following the moves: swaps, refusals, rollbacks, and requests that never notice."""

import asyncio
import gc
import json
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from serve.lifecycle import Gateway
from serve.metrics import ServeMetrics
from serve.settings import GatewaySettings
from serve.student.follow import Follow, SwapRecord
from serve.student.slot import Slots
from store.errors import BadSignatureError, CorruptVersionError
from store.event import TextInput
from tests.serve.fakes import BROKEN, LABELS, LANE, FakeRegistry, FakeStudent, World, eventually


class Lab:
    """A follower without a gateway around it, stepped by hand."""

    def __init__(self, tmp_path: Path, drain_s: float = 60.0) -> None:
        self.world = World(tmp_path)
        self.registry: FakeRegistry = self.world.registry
        self.slots = Slots()
        self.swaps: list[SwapRecord] = []
        self.now_s = 0.0
        self.follow = Follow(
            LANE,
            self.slots,
            self.registry.versions(),
            GatewaySettings(retry_s=30.0, drain_s=drain_s),
            sample=TextInput(text="a text to warm up with"),
            metrics=ServeMetrics.create(self.world.prometheus),
            record=self.swaps.append,
            now=lambda: 1e9,
            monotonic=lambda: self.now_s,
        )

    def add(self, *versions: str, **student: Any) -> None:
        for version in versions:
            self.registry.students[version] = FakeStudent(**student)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_promotion_loads_verifies_and_publishes_and_keeps_the_old_one_warm(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b")
        lab.registry.move("a")
        await lab.follow.step()
        lab.registry.move("b", "a")
        await lab.follow.step()

    asyncio.run(main())
    assert lab.slots.version == "b"
    assert lab.slots.spare is not None
    assert lab.slots.spare.version == "a"
    assert [(swap.before, swap.after, swap.failed) for swap in lab.swaps] == [(None, "a", False), ("a", "b", False)]
    assert all(swap.publish_s is not None and swap.publish_s < 0.001 for swap in lab.swaps)


def test_a_rollback_is_a_pointer_move_that_loads_nothing(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b")
        lab.registry.move("a")
        await lab.follow.step()
        lab.registry.move("b", "a")
        await lab.follow.step()
        lab.registry.students.clear()
        lab.registry.move("a", pinned=True)
        await lab.follow.step()

    asyncio.run(main())
    assert lab.slots.version == "a"
    assert lab.registry.loads == {"a": 1, "b": 1}
    assert lab.slots.warm("b") is not None  # and forward again as quickly


def test_after_a_restart_the_previous_version_is_warm_again(lab: Lab) -> None:
    lab.add("a", "b")
    lab.registry.move("b", "a")
    asyncio.run(lab.follow.step())
    assert lab.slots.version == "b"
    assert lab.slots.warm("a") is not None


@pytest.mark.parametrize(
    "failure",
    [
        CorruptVersionError("one byte differs"),
        BadSignatureError("nobody's"),
        OSError("disk"),
        RuntimeError("torch"),
    ],
)
def test_a_version_that_cannot_be_loaded_changes_nothing_and_is_written_down(lab: Lab, failure: Exception) -> None:
    async def main() -> None:
        lab.add("a")
        lab.registry.students["b"] = failure
        lab.registry.move("a")
        await lab.follow.step()
        lab.registry.move("b", "a")
        await lab.follow.step()

    asyncio.run(main())
    assert lab.slots.version == "a"
    swap = lab.swaps[-1]
    assert (swap.before, swap.after, swap.failed, swap.publish_s) == ("a", "b", True, None)
    assert swap.error is not None
    assert str(failure) in swap.error
    assert lab.world.metric("understudy_swaps_total", outcome="failed") == 1


def test_a_failed_version_is_tried_again_after_a_while_or_when_the_standing_changes(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a")
        lab.registry.students["b"] = OSError("disk")
        lab.registry.move("a")
        await lab.follow.step()
        lab.registry.move("b", "a")
        for now_s, loads in ((0.0, 1), (29.0, 1), (30.0, 2), (89.0, 2), (90.0, 3)):
            lab.now_s = now_s
            await lab.follow.step()
            assert lab.registry.loads["b"] == loads
        lab.registry.move("b", None)
        lab.add("b")
        await lab.follow.step()

    asyncio.run(main())
    assert lab.slots.version == "b"


def test_a_version_that_computes_something_else_is_refused(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b", "c")
        for version, deviation in (("b", 0.03), ("c", float("nan"))):
            student = lab.registry.students[version]
            assert isinstance(student, FakeStudent)
            student.deviation = deviation
        lab.registry.move("a")
        await lab.follow.step()
        for version in ("b", "c"):
            lab.registry.move(version, "a")
            await lab.follow.step()

    asyncio.run(main())
    assert lab.slots.version == "a"
    assert [swap.failed for swap in lab.swaps] == [False, True, True]


def test_a_version_is_refused_before_it_is_read_when_memory_is_short(lab: Lab) -> None:
    lab.add("a")
    lab.registry.move("a")
    lab.registry.available_bytes = 256 << 20
    asyncio.run(lab.follow.step())
    assert lab.slots.version is None
    assert lab.registry.loads == {}
    assert lab.swaps[0].error is not None
    assert "memory" in lab.swaps[0].error


@pytest.mark.parametrize(
    ("deviation", "serves"),
    [(0.0, True), (0.02, True), (0.0201, False), (0.1, False), (float("inf"), False), (-0.0, True)],
)
def test_a_version_may_deviate_by_its_tolerance_and_by_no_more(lab: Lab, deviation: float, *, serves: bool) -> None:
    lab.add("a")
    student = lab.registry.students["a"]
    assert isinstance(student, FakeStudent)
    assert student.golden_tolerance == 0.02
    student.deviation = deviation
    lab.registry.move("a")
    asyncio.run(lab.follow.step())
    assert (lab.slots.version == "a") == serves


@pytest.mark.parametrize(("spare_bytes", "loads"), [(1_500, True), (1_499, False)])
def test_loading_takes_half_as_much_again_as_the_files_and_leaves_the_reserve(
    lab: Lab, spare_bytes: int, *, loads: bool
) -> None:
    lab.add("a")
    lab.registry.move("a")
    lab.registry.size_bytes = 1_000
    lab.registry.available_bytes = (256 << 20) + spare_bytes
    asyncio.run(lab.follow.step())
    assert (lab.slots.version == "a") == loads
    assert (lab.registry.loads["a"] == 1) == loads


def test_a_version_is_warm_before_it_serves_with_one_text_and_with_a_whole_batch(lab: Lab) -> None:
    lab.add("a")
    lab.registry.move("a")
    asyncio.run(lab.follow.step())
    student = lab.registry.students["a"]
    assert isinstance(student, FakeStudent)
    assert student.batches == [1, GatewaySettings().max_batch]
    assert lab.slots.current is not None
    assert lab.slots.current.token_s > 0.0


def test_tries_of_a_version_that_fails_come_no_farther_apart_than_ten_times_the_first(lab: Lab) -> None:
    lab.registry.students["a"] = OSError("disk")
    lab.registry.move("a")

    async def main() -> None:
        due_s = 0.0
        for tries, wait_s in enumerate((30.0, 60.0, 120.0, 240.0, 300.0, 300.0), start=1):
            lab.now_s = due_s
            await lab.follow.step()
            assert lab.registry.loads["a"] == tries
            lab.now_s = due_s + wait_s - 0.5
            await lab.follow.step()
            assert lab.registry.loads["a"] == tries
            due_s += wait_s

    asyncio.run(main())


def test_a_version_with_requests_on_it_is_kept_until_its_drain_is_over(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b", "c")
        for champion, previous in (("a", None), ("b", "a")):
            lab.registry.move(champion, previous)
            await lab.follow.step()
        old = lab.slots.warm("a")
        assert old is not None
        old.pins += 2
        lab.registry.move("c", "b")
        await lab.follow.step()
        old.unpin()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(lab.follow._retiring) == 1  # one request is on it still
        old.unpin()
        await eventually(lambda: not lab.follow._retiring)

    asyncio.run(main())


def test_a_permuted_label_map_is_refused_and_a_longer_one_is_not(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a")
        lab.add("permuted", labels=("no", "yes", "maybe"))
        lab.add("shorter", labels=LABELS[:2])
        lab.add("longer", labels=(*LABELS, "never"))
        lab.registry.move("a")
        await lab.follow.step()
        for version in ("permuted", "shorter"):
            lab.registry.move(version, "a")
            await lab.follow.step()
            assert lab.slots.version == "a"
        lab.registry.move("longer", "a")
        await lab.follow.step()
        assert lab.slots.version == "longer"
        lab.registry.move("a", pinned=True)  # a rollback declares the removal
        await lab.follow.step()
        assert lab.slots.version == "a"

    asyncio.run(main())


def test_a_broken_chain_stops_nothing_that_serves(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b")
        lab.registry.move("a")
        await lab.follow.step()
        lab.registry.move("b", "a")
        lab.registry.failure = BROKEN
        await lab.follow.step()
        assert lab.slots.version == "a"
        assert lab.world.metric("understudy_registry_refused") == 1
        lab.registry.failure = None
        await lab.follow.step()
        assert lab.slots.version == "b"
        assert lab.world.metric("understudy_registry_refused") == 0

    asyncio.run(main())


def test_where_the_champion_cannot_be_restored_the_one_before_it_serves(lab: Lab) -> None:
    lab.add("a")
    lab.registry.students["b"] = CorruptVersionError("one byte differs")
    lab.registry.move("b", "a")
    assert not lab.follow.settled
    asyncio.run(lab.follow.step())
    assert lab.slots.version == "a"
    assert lab.follow.settled


def test_a_replaced_version_is_freed_once_its_last_request_is_done(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b", "c")
        lab.registry.move("a")
        await lab.follow.step()
        student = weakref.ref(lab.registry.students.pop("a"))
        with lab.slots.pinned() as held:
            assert held is not None
            lab.registry.move("b", "a")
            await lab.follow.step()
            lab.registry.move("c", "b")
            await lab.follow.step()
            await asyncio.sleep(0.02)
            gc.collect()
            assert student() is not None
            assert len(lab.follow._retiring) == 1  # it waits, and will free the version in a thread
            del held
        async with asyncio.timeout(60):
            while student() is not None:
                gc.collect()
                await asyncio.sleep(0.005)

    asyncio.run(main())


def test_swaps_under_load_fail_no_request_and_mix_no_versions(tmp_path: Path) -> None:
    """Each version stamps its answers: what a response says it is must be what computed it."""
    world = World(tmp_path, settings=GatewaySettings(follow_s=0.001, batch_wait_s=0.001, max_batch=16))
    swaps, answers = 200, 0
    for number in range(swaps):
        world.registry.students[f"v{number}"] = Stamped(number)
    world.registry.move("v0")

    async def client_loop(client: Any, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            response = await client.post("/classify", json={"model": "intent", "input": ["sure", "sure too"]})
            assert response.status_code == 200
            for datum in response.json()["data"]:
                assert datum["served_by"] == "student"
                assert datum["version"] == f"v{round((datum['probs'][0] - 0.9) * 10_000)}"
                count += 1
        return count

    async def main() -> None:
        nonlocal answers
        async with world.running() as (client, gateway):
            stop = asyncio.Event()
            load = [asyncio.create_task(client_loop(client, stop)) for _ in range(8)]
            for number in range(1, swaps):
                await swap(world, gateway, number)
            stop.set()
            answers = sum(await asyncio.gather(*load))

    asyncio.run(main())
    done = world.swaps()
    assert len(done) == swaps
    assert not any(swap["failed"] for swap in done)
    assert [swap["to"] for swap in done] == [f"v{number}" for number in range(swaps)]
    assert sorted(swap["publish_s"] for swap in done)[len(done) // 2] < 0.001
    assert answers > swaps
    assert {"lane", "from", "to", "publish_s", "load_s", "failed", "error", "at_s"} == set(
        json.loads(json.dumps(done[0]))
    )


async def swap(world: World, gateway: Gateway, number: int) -> None:
    world.registry.move(f"v{number}", f"v{number - 1}")
    await eventually(lambda: gateway.lanes[0].service.slots.version == f"v{number}")


class Stamped(FakeStudent):
    """A student whose probabilities tell its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def confidence(self, text: str) -> float:
        return 0.9 + self.number / 10_000


def test_a_cold_gateway_prepares_for_its_first_version_once_and_one_that_serves_does_not(tmp_path: Path) -> None:
    cold, served = World(tmp_path), World(tmp_path)
    served.serve()

    async def main(world: World) -> None:
        async with world.running() as (_, gateway):
            if world is cold:
                await eventually(lambda: world.registry.prepared == 1)
                world.serve("b")  # it goes on, though what it prepared with is missing
            await eventually(lambda: gateway.lanes[0].service.slots.current is not None)

    for world in (cold, served):
        asyncio.run(main(world))
    assert (cold.registry.prepared, served.registry.prepared) == (1, 0)


class Held(FakeStudent):
    """Its load waits at the warm-up until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()


def test_a_rollback_does_not_wait_for_a_load_and_stops_it(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "b")
        for champion, previous in (("a", None), ("b", "a")):
            lab.registry.move(champion, previous)
            await lab.follow.step()
        held = Held()
        lab.registry.students["c"] = held
        lab.registry.move("c", "b")
        await lab.follow.look()
        await eventually(lambda: lab.registry.loads["c"] == 1)
        lab.registry.move("a", "b", pinned=True)  # while c is being loaded
        await lab.follow.look()
        assert lab.slots.version == "a"
        assert held.gate is not None
        held.gate.set()
        await eventually(lambda: lab.follow._catching_up is None)
        await lab.follow.step()
        assert lab.slots.version == "a"
        assert lab.slots.warm("c") is None
        assert held.batches == [1]  # it was stopped at its next step

    asyncio.run(main())
    assert [(swap.after, swap.failed) for swap in lab.swaps] == [("a", False), ("b", False), ("a", False)]


def test_a_newer_version_is_loaded_instead_of_the_one_that_is_being_loaded(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a", "c")
        lab.registry.move("a")
        await lab.follow.step()
        held = Held()
        lab.registry.students["b"] = held
        lab.registry.move("b", "a")
        await lab.follow.look()
        await eventually(lambda: lab.registry.loads["b"] == 1)
        lab.registry.move("c", "a")
        await lab.follow.look()
        assert lab.slots.version == "a"
        assert held.gate is not None
        held.gate.set()
        await eventually(lambda: lab.follow._catching_up is None)
        await lab.follow.step()
        assert lab.slots.version == "c"
        assert lab.slots.warm("a") is not None

    asyncio.run(main())
    assert [swap.after for swap in lab.swaps] == ["a", "c"]


def test_a_version_that_a_newer_move_makes_the_one_to_roll_back_to_is_kept_warm(lab: Lab) -> None:
    async def main() -> None:
        lab.add("a")
        lab.registry.move("a")
        await lab.follow.step()
        held = Held()
        lab.registry.students["b"] = held
        lab.registry.move("b", "a")
        await lab.follow.look()
        await eventually(lambda: lab.registry.loads["b"] == 1)
        lab.registry.move("a", "b", pinned=True)
        await lab.follow.look()
        assert held.gate is not None
        held.gate.set()
        await eventually(lambda: lab.follow._catching_up is None)
        assert lab.slots.version == "a"
        assert lab.slots.warm("b") is not None

    asyncio.run(main())
