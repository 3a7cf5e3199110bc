"""Slots: pins, drains, and what a swap keeps."""

import asyncio
import contextlib

from serve.student.slot import Slot, Slots
from tests.serve.fakes import FakeStudent


def slot(version: str) -> Slot:
    return Slot(version=version, student=FakeStudent())


def test_a_request_keeps_the_version_that_it_pinned() -> None:
    slots, old, new = Slots(), slot("a"), slot("b")
    slots.publish(old)
    with slots.pinned() as held:
        slots.publish(new)
        assert held is old
        assert (old.pins, slots.version) == (1, "b")
    assert old.pins == 0


def test_a_cold_lane_pins_nothing() -> None:
    with Slots().pinned() as held:
        assert held is None


def test_publishing_hands_back_the_slot_that_nobody_needs() -> None:
    slots, made = Slots(), {version: slot(version) for version in "abc"}
    assert slots.publish(made["a"])[1] is None
    assert slots.publish(made["b"])[1] is None
    assert slots.publish(made["c"])[1] is made["a"]
    assert slots.publish(made["b"])[1] is None  # back: c stays warm
    assert (slots.version, slots.warm("c"), slots.warm("a")) == ("b", made["c"], None)


def test_a_drain_ends_with_the_last_request_or_at_its_deadline() -> None:
    async def main() -> None:
        slots, old = Slots(), slot("a")
        slots.publish(old)
        assert await old.drained(0.01)
        with slots.pinned(), slots.pinned():
            assert not await old.drained(0.01)
            waiting = asyncio.create_task(old.drained(5.0))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting

    asyncio.run(main())


def test_a_drain_goes_on_while_one_request_of_several_is_left() -> None:
    async def main() -> None:
        slots, old = Slots(), slot("a")
        slots.publish(old)
        with slots.pinned():
            with slots.pinned():
                pass  # one that was idle before: what it set must not count below
            with slots.pinned():
                waiting = asyncio.create_task(old.drained(60.0))
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert old.pins == 1
            assert not waiting.done()
        assert await waiting

    asyncio.run(main())


def test_a_drain_after_an_idle_moment_waits_for_the_request_that_came_since() -> None:
    async def main() -> None:
        slots, old = Slots(), slot("a")
        slots.publish(old)
        with slots.pinned():
            first = asyncio.create_task(old.drained(60.0))
            await asyncio.sleep(0)
        assert await first
        with slots.pinned():
            assert not await old.drained(0.001)

    asyncio.run(main())


def test_a_request_that_fails_lets_its_slot_go() -> None:
    slots, old = Slots(), slot("a")
    slots.publish(old)
    with contextlib.suppress(RuntimeError), slots.pinned():
        raise RuntimeError
    assert old.pins == 0
