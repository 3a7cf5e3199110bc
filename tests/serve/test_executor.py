"""A device's forward thread: it batches, never mixes versions, and survives whatever a student does."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from serve.student.executor import Executor, StudentBusyError, StudentFailedError
from serve.student.line import Ticket, TooLong
from serve.student.slot import Slot
from store.event import TaskInput, TextInput
from store.student.loaded import LabelOpinion, Opinion
from tests.serve.fakes import FakeStudent, eventually, text_of

PATIENT_S = 500.0  # a forward pass that was held up makes the next ones no smaller


@asynccontextmanager
async def batcher(
    *, max_batch: int = 8, max_tokens: int = 1_000, timeout_s: float = 5.0, line_wait_s: float = 0.0
) -> AsyncIterator[Executor]:
    made = Executor(
        max_batch=max_batch,
        max_tokens=max_tokens,
        wait_s=0.01,
        timeout_s=timeout_s,
        line_wait_s=line_wait_s,
        observe=lambda *_: None,
    )
    made.start()
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)
        assert not made.alive()


def text(said: str) -> TaskInput:
    return TextInput(text=said)


def test_texts_that_arrive_together_share_forward_passes_of_bounded_size() -> None:
    student = FakeStudent()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            asked = [asyncio.create_task(made.ask(slot, text(f"sure {index}"))) for index in range(33)]
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
            found = await asyncio.gather(*(made.ask(slots[which], text(said)) for said, which in texts))
        for (said, which), outcome in zip(texts, found, strict=True):
            assert isinstance(outcome, Opinion)
            assert outcome.novelty == pytest.approx(which / 10)
            assert outcome.confidence == pytest.approx(0.5 if said == "unsure" else 0.95)

    asyncio.run(main())
    assert [sum(student.batches) for student in students] == [20, 20, 20]


def test_a_text_that_is_too_long_does_not_disturb_its_batch() -> None:
    slot = Slot(version="a", student=FakeStudent())

    async def main() -> None:
        async with batcher() as made:
            found = await asyncio.gather(*(made.ask(slot, text(said)) for said in ("sure", "long", "unsure", "long")))
            assert [isinstance(outcome, TooLong) for outcome in found] == [False, True, False, True]
            assert [getattr(found[index], "confidence", None) for index in (0, 2)] == pytest.approx([0.95, 0.5])

    asyncio.run(main())


def test_a_student_that_fails_fails_its_own_texts_and_no_others() -> None:
    broken, sound = FakeStudent(), FakeStudent()
    broken.failure = RuntimeError("no")

    async def main() -> None:
        async with batcher() as made:
            asked = [
                made.ask(Slot(version="a", student=broken), text("sure")),
                made.ask(Slot(version="b", student=sound), text("sure")),
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
                await made.ask(slot, text("sure"))
            assert student.gate is not None
            student.gate.set()
            await eventually(lambda: made.hangs_s == 0.0)
            assert isinstance(await made.ask(slot, text("sure")), Opinion)

    asyncio.run(main())


def test_an_opinion_too_many_is_a_failed_student() -> None:
    student = FakeStudent()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            original = student.look
            student.look = lambda inputs: original([*inputs, text("one more")])  # type: ignore[method-assign]
            with pytest.raises(StudentFailedError):
                await made.ask(slot, text("sure"))

    asyncio.run(main())


def test_an_idle_thread_keeps_no_version_alive() -> None:
    async def main() -> None:
        async with batcher() as made:
            slot = Slot(version="a", student=FakeStudent())
            student = weakref.ref(slot.student)
            await made.ask(slot, text("sure"))
            del slot
            async with asyncio.timeout(5):
                while student() is not None:
                    gc.collect()
                    await asyncio.sleep(0.01)

    asyncio.run(main())


class Touchy(FakeStudent):
    """Cannot read a text that is `bad …`."""

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        if any(text_of(value).startswith("bad") for value in inputs):
            message = "no such word"
            raise ValueError(message)
        return super().look(inputs)


def test_a_text_that_the_student_fails_on_fails_alone() -> None:
    student = Touchy()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            texts = ["sure", "bad", "unsure", "sure", "bad too", "sure", "long", "sure"]
            asked = [asyncio.create_task(made.ask(slot, text(said))) for said in texts]
            await asyncio.sleep(0)
            assert student.gate is not None
            student.gate.set()
            for said, outcome in zip(texts, await asyncio.gather(*asked, return_exceptions=True), strict=True):
                wanted = StudentFailedError if said.startswith("bad") else TooLong if said == "long" else Opinion
                assert isinstance(outcome, wanted)

    asyncio.run(main())


def test_what_nobody_waits_for_any_more_is_never_computed() -> None:
    student = FakeStudent()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher() as made:
            first = asyncio.create_task(made.ask(slot, text("sure")))
            await eventually(lambda: made.waiting == 0 and bool(made._running))
            left = [asyncio.create_task(made.ask(slot, text("sure"))) for _ in range(20)]
            kept = asyncio.create_task(made.ask(slot, text("sure")))
            await eventually(lambda: made.waiting == 21)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            assert student.gate is not None
            student.gate.set()
            await asyncio.gather(first, kept)

    asyncio.run(main())
    assert sum(student.batches) == 2


def test_while_a_student_hangs_nobody_waits_for_the_time_out_again() -> None:
    student = FakeStudent()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)
    looks: list[int] = []

    async def main() -> None:
        async with batcher(timeout_s=1.0) as made:
            look = made._look

            def counted(watched: int, passed_s: float) -> int:
                looks.append(1)
                return look(watched, passed_s)

            made._look = counted  # type: ignore[method-assign]
            with pytest.raises(StudentFailedError):
                await made.ask(slot, text("sure"))
            waited = len(looks)
            assert made.hangs_s >= 1.0
            for _ in range(3):
                before = len(looks)
                with pytest.raises(StudentFailedError):
                    await made.ask(slot, text("sure"))
                assert len(looks) - before < waited / 2
            assert student.gate is not None
            student.gate.set()
            await eventually(lambda: made.hangs_s == 0.0)
            assert isinstance(await made.ask(slot, text("sure")), Opinion)

    asyncio.run(main())


def asked_of_a_slow_student(texts: int, line_wait_s: float) -> tuple[FakeStudent, list[object]]:
    """A student, and what becomes of texts that take it two hundredths of a second each, and come at once."""

    class Slow(FakeStudent):
        def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
            time.sleep(0.02 * len(inputs))
            return super().look(inputs)

    student = Slow()
    slot = Slot(version="a", student=student)

    async def main() -> list[object]:
        async with batcher(timeout_s=0.3, line_wait_s=line_wait_s) as made:
            made.pace.expect(0.02, tokens=1)
            asked = [made.ask(slot, text("sure")) for _ in range(texts)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    return student, asyncio.run(main())


def test_who_waits_in_vain_behind_others_is_told_that_the_student_is_busy_not_that_it_failed() -> None:
    student, found = asked_of_a_slow_student(100, line_wait_s=0.0)
    answered = sum(isinstance(outcome, Opinion) for outcome in found)
    busy = sum(isinstance(outcome, StudentBusyError) for outcome in found)
    assert answered + busy == 100
    assert answered > 0
    assert busy > 0
    assert sum(student.batches) == answered  # who was told so was not computed afterwards


def test_who_was_let_in_for_a_long_wait_is_not_told_so_before_it_is_over() -> None:
    _, found = asked_of_a_slow_student(40, line_wait_s=300.0)
    assert [type(outcome) for outcome in found if not isinstance(outcome, Opinion)] == []


def test_a_long_list_does_not_hold_up_who_comes_after_it() -> None:
    class Recording(FakeStudent):
        def __init__(self) -> None:
            super().__init__()
            self.read: list[str] = []

        def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
            found = super().look(inputs)
            self.read += map(text_of, inputs)
            return found

    student = Recording()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher(timeout_s=PATIENT_S) as made:
            first = asyncio.create_task(made.ask(slot, text("sure first")))
            await eventually(lambda: bool(made._running))
            listed = Ticket(tokens=40)
            asked = [asyncio.create_task(made.ask(slot, text(f"sure {index}"), listed)) for index in range(40)]
            asked.append(asyncio.create_task(made.ask(slot, text("sure alone"), Ticket(tokens=1))))
            await eventually(lambda: made.waiting == 41)
            assert student.gate is not None
            student.gate.set()
            await asyncio.gather(first, *asked)
            assert listed.tokens == 0

    asyncio.run(main())
    assert student.read.index("sure alone") == 1 + 4  # after half a batch of the list
    in_order = [text for text in student.read if text not in {"sure first", "sure alone"}]
    assert in_order == [f"sure {index}" for index in range(40)]


def test_what_goes_into_one_pass_is_bounded_by_its_tokens_and_one_question_goes_whatever_it_has() -> None:
    class Measuring(FakeStudent):
        def __init__(self) -> None:
            super().__init__()
            self.passes: list[list[str]] = []

        def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
            self.passes.append([text_of(value) for value in inputs])
            return super().look(inputs)

    student = Measuring()
    student.gate = threading.Event()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with batcher(max_tokens=10, timeout_s=PATIENT_S) as made:
            first = asyncio.create_task(made.ask(slot, text("sure first")))
            await eventually(lambda: bool(made._running))
            sizes = [4, 4, 4, 25, 1]
            asked = [
                asyncio.create_task(made.ask(slot, text(f"sure {size}"), Ticket(tokens=size), tokens=size))
                for size in sizes
            ]
            await eventually(lambda: made.waiting == len(sizes))
            assert student.gate is not None
            student.gate.set()
            await asyncio.gather(first, *asked)

    asyncio.run(main())
    assert student.passes[1:] == [["sure 4", "sure 4"], ["sure 4"], ["sure 25"], ["sure 1"]]
