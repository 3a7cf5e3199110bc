"""Answers that grow together: who joins, who leaves, and what becomes of the rest when one fails."""

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve.student.executor import StudentFailedError
from serve.student.growing import GrowingExecutor
from serve.student.line import TooLong
from serve.student.slot import Slot
from store.event import ChatInput, Message, TaskInput
from store.student.loaded import Growing, Opinion, SoFar
from tests.serve.chat.fakes import FakeTalker
from tests.serve.fakes import eventually


class Grower(FakeTalker):
    """An answer takes as many steps as its question has words; `bad …` fails whatever it is asked with."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.steps = 0
        self.most = 0
        self.dropped: list[str] = []
        self.turn = threading.Semaphore(0)
        self.free = True  # steps need no turn

    def growing(self) -> Growing:
        return Answers(self)

    def talk(self, value: TaskInput) -> Any:
        assert isinstance(value, ChatInput)
        if value.messages[-1].content.startswith("bad"):
            message = "no number"
            raise ValueError(message)
        return super().talk(value)


class Answers:
    """Satisfies `Growing`."""

    def __init__(self, student: Grower) -> None:
        self._student = student
        self._left: dict[Hashable, tuple[TaskInput, int]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, inputs: Sequence[TaskInput]) -> Sequence[Hashable]:
        names = [object() for _ in inputs]
        for name, value in zip(names, inputs, strict=True):
            self._student.talk(value)
            assert isinstance(value, ChatInput)
            self._left[name] = (value, len(value.messages[-1].content.split()))
        return names

    def step(self) -> Sequence[tuple[Hashable, Opinion]]:
        if not self._student.free:
            self._student.turn.acquire(timeout=20)
        self._student.steps += 1
        self._student.most = max(self._student.most, len(self._left))
        done = []
        for name, (value, left) in list(self._left.items()):
            self._left[name] = (value, left - 1)
            if left <= 1:
                done.append((name, self._student.talk(value)))
                del self._left[name]
        return done

    def so_far(self, name: Hashable, *, viewed: bool) -> SoFar:
        raise AssertionError

    def drop(self, name: Hashable) -> None:
        value, _ = self._left.pop(name)
        assert isinstance(value, ChatInput)
        self._student.dropped.append(value.messages[-1].content)


def said(text: str) -> TaskInput:
    return ChatInput(messages=[Message(role="user", content=text)])


@asynccontextmanager
async def executor(*, max_batch: int = 8, timeout_s: float = 60.0) -> AsyncIterator[GrowingExecutor]:
    made = GrowingExecutor(
        max_batch=max_batch,
        max_tokens=1_000,
        wait_s=0.0,
        timeout_s=timeout_s,
        line_wait_s=60.0,
        observe=lambda *_: None,
    )
    made.start()
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)
        assert not made.alive()


def text_of(outcome: Any) -> str:
    assert isinstance(outcome, Opinion)
    return outcome.output


def test_answers_of_several_lengths_grow_together_and_each_gets_its_own() -> None:
    student = Grower()
    slot = Slot(version="a", student=student)
    texts = [" ".join(["word"] * length) for length in (1, 5, 2, 9, 3, 1, 4, 7, 6, 8, 2)]

    async def main() -> None:
        async with executor(max_batch=4) as made:
            found = await asyncio.gather(*(made.ask(slot, said(text)) for text in texts))
            assert [text_of(one) for one in found] == [f"you said: {text}" for text in texts]

    asyncio.run(main())
    assert student.most == 4
    assert student.steps < sum(len(text.split()) for text in texts)


def test_who_comes_later_joins_before_the_others_are_done() -> None:
    student = Grower()
    student.free = False
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with executor() as made:
            long = asyncio.create_task(made.ask(slot, said("a b c d e f")))
            student.turn.release(2)
            await eventually(lambda: student.steps == 2)
            short = asyncio.create_task(made.ask(slot, said("g")))
            await eventually(lambda: made.waiting == 1)
            while not short.done():
                student.turn.release()
                await asyncio.sleep(0.001)
            assert not long.done()
            student.free = True
            student.turn.release(20)
            assert text_of(await long) == "you said: a b c d e f"

    asyncio.run(main())


def test_an_answer_that_nobody_waits_for_any_more_is_dropped_at_the_next_step() -> None:
    student = Grower()
    student.free = False
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with executor() as made:
            left = asyncio.create_task(made.ask(slot, said("left a b c")))
            stays = asyncio.create_task(made.ask(slot, said("stays a b")))
            student.turn.release()
            await eventually(lambda: student.steps == 1)
            left.cancel()
            await asyncio.sleep(0)
            student.free = True
            student.turn.release(20)
            assert text_of(await stays) == "you said: stays a b"

    asyncio.run(main())
    assert student.dropped == ["left a b c"]


def test_one_question_that_fails_is_its_own_failure_alone() -> None:
    student = Grower()
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with executor() as made:
            asked = [made.ask(slot, said(text)) for text in ("one two", "bad thing", "three", "long one")]
            first, bad, third, long = await asyncio.gather(*asked, return_exceptions=True)
            assert text_of(first) == "you said: one two"
            assert isinstance(bad, StudentFailedError)
            assert text_of(third) == "you said: three"
            assert isinstance(long, TooLong)
            assert text_of(await made.ask(slot, said("again"))) == "you said: again"

    asyncio.run(main())


def test_versions_are_never_mixed() -> None:
    students = [Grower(stamp=stamp / 10) for stamp in range(2)]
    slots = [Slot(version=f"{index}", student=student) for index, student in enumerate(students)]

    async def main() -> None:
        async with executor() as made:
            found = await asyncio.gather(*(made.ask(slots[index % 2], said(f"a {index}")) for index in range(12)))
            for index, outcome in enumerate(found):
                assert isinstance(outcome, Opinion)
                assert outcome.novelty == pytest.approx((index % 2) / 10)

    asyncio.run(main())


def test_a_step_that_hangs_fails_everybody_and_those_after_it_are_answered() -> None:
    student = Grower()
    student.free = False
    slot = Slot(version="a", student=student)

    async def main() -> None:
        async with executor(timeout_s=0.2) as made:
            with pytest.raises(StudentFailedError):
                await made.ask(slot, said("a b"))
            assert made.hangs_s > 0
            student.free = True
            student.turn.release(5)
            await eventually(lambda: made.hangs_s == 0)
            assert text_of(await made.ask(slot, said("c"))) == "you said: c"

    asyncio.run(main())
