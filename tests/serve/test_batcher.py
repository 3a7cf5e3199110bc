"""The forward thread: it batches, never mixes versions, and survives whatever a student does."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serve.student.batcher import Batcher, StudentFailedError
from serve.student.line import TooLong
from serve.student.slot import Opinion, Slot
from tests.serve.fakes import FakeStudent


@asynccontextmanager
async def batcher(*, max_batch: int = 8, timeout_s: float = 5.0) -> AsyncIterator[Batcher]:
    made = Batcher(max_batch=max_batch, wait_s=0.01, timeout_s=timeout_s, observe=lambda _, __: None)
    made.start()
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)
        assert not made.alive()


def test_texts_that_arrive_together_share_forward_passes_of_bounded_size() -> None:
    student = FakeStudent()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            asked = [asyncio.create_task(made.ask(slot, f"sure {index}")) for index in range(33)]
            await asyncio.sleep(0)
            assert student.gate is not None
            student.gate.set()
            assert all(isinstance(outcome, Opinion) for outcome in await asyncio.gather(*asked))

    asyncio.run(main())
    assert sum(student.batches) == 33
    assert max(student.batches) == 8
    assert len(student.batches) <= 6


def test_a_batch_never_mixes_versions_and_each_text_gets_its_own_answer() -> None:
    students = [FakeStudent(stamp=stamp / 10) for stamp in range(3)]
    slots = [Slot(version=f"{index}", student=student) for index, student in enumerate(students)]

    async def main() -> None:
        async with batcher(max_batch=16) as made:
            texts = [("unsure" if index % 2 else "sure", index % 3) for index in range(60)]
            found = await asyncio.gather(*(made.ask(slots[which], text) for text, which in texts))
        for (text, which), outcome in zip(texts, found, strict=True):
            assert isinstance(outcome, Opinion)
            assert outcome.novelty == pytest.approx(which / 10)
            assert outcome.confidence == pytest.approx(0.5 if text == "unsure" else 0.95)

    asyncio.run(main())
    assert [sum(student.batches) for student in students] == [20, 20, 20]


def test_a_text_that_is_too_long_does_not_disturb_its_batch() -> None:
    slot = Slot(version="a", student=FakeStudent())

    async def main() -> None:
        async with batcher() as made:
            found = await asyncio.gather(*(made.ask(slot, text) for text in ("sure", "long", "unsure", "long")))
            assert [isinstance(outcome, TooLong) for outcome in found] == [False, True, False, True]
            assert [getattr(found[index], "confidence", None) for index in (0, 2)] == pytest.approx([0.95, 0.5])

    asyncio.run(main())


def test_a_student_that_fails_fails_its_own_texts_and_no_others() -> None:
    broken, sound = FakeStudent(), FakeStudent()
    broken.failure = RuntimeError("no")

    async def main() -> None:
        async with batcher() as made:
            asked = [
                made.ask(Slot(version="a", student=broken), "sure"),
                made.ask(Slot(version="b", student=sound), "sure"),
            ]
            failed, answered = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(failed, StudentFailedError)
            assert isinstance(answered, Opinion)

    asyncio.run(main())


def test_a_forward_pass_that_takes_too_long_counts_as_failed_and_the_thread_goes_on() -> None:
    student = FakeStudent()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher(timeout_s=0.2) as made:
            with pytest.raises(StudentFailedError, match=r"within 0\.2 s"):
                await made.ask(slot, "sure")
            assert student.gate is not None
            student.gate.set()
            assert isinstance(await made.ask(slot, "sure"), Opinion)

    asyncio.run(main())


def test_wrong_shapes_are_a_failed_student() -> None:
    student = FakeStudent()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            original = student.predict
            student.predict = lambda texts: original([*texts, "one more"])  # type: ignore[method-assign]
            with pytest.raises(StudentFailedError):
                await made.ask(slot, "sure")

    asyncio.run(main())


def test_an_idle_thread_keeps_no_version_alive() -> None:
    async def main() -> None:
        async with batcher() as made:
            slot = Slot(version="a", student=FakeStudent())
            student = weakref.ref(slot.student)
            await made.ask(slot, "sure")
            del slot
            async with asyncio.timeout(5):
                while student() is not None:
                    gc.collect()
                    await asyncio.sleep(0.01)

    asyncio.run(main())
