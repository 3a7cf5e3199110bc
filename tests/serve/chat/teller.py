"""A student that answers a word a step, and says before how sure it is; steps may need a turn."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from store.event import ChatInput, TaskInput
from store.policy import EarlyPolicy, Moment
from store.student.loaded import ChatOpinion, EarlyView, Growing, Opinion, SoFar
from tests.serve.chat.fakes import FakeTalker
from tests.serve.fakes import POLICY

MOMENTS: tuple[Moment, ...] = ("prompt", "first_tokens")
DECIDING = 2  # words
SURE = EarlyPolicy(threshold=0.8, coverage_ratio=0.5, rows=100, lower=0.95)
EARLY = structs.replace(POLICY, early={"prompt": SURE, "first_tokens": SURE})


class Teller(FakeTalker):
    """Sure at each moment but where the last message begins with `unsure`; `breaks` fails after three words."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**{"policy": EARLY, **rest})
        self.moments: Sequence[Moment] = MOMENTS
        self.steps = 0
        self.expected = 0
        self.begun = 0
        self.dropped: list[str] = []
        self.turn = threading.Semaphore(0)
        self.free = True  # steps need no turn
        self.hurt = False  # it fails whatever it is to answer

    def talk(self, value: TaskInput) -> ChatOpinion:
        assert isinstance(value, ChatInput)
        found = super().talk(value)
        early = {moment: EarlyView(confidence=found.confidence, signals=[]) for moment in self.moments}
        return replace(found, early=early, confidence=0.1)  # at the end it is never sure

    def expect(self, inputs: Sequence[TaskInput]) -> Sequence[Opinion]:
        self.expected += len(inputs)
        return [self.talk(value).at("prompt") for value in inputs]

    def growing(self) -> Growing:
        return Words(self)


class Words:
    """Satisfies `Growing`."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._said: dict[Hashable, tuple[ChatInput, int]] = {}

    def __len__(self) -> int:
        return len(self._said)

    def add(self, inputs: Sequence[TaskInput]) -> Sequence[Hashable]:
        names = [object() for _ in inputs]
        for name, value in zip(names, inputs, strict=True):
            assert isinstance(value, ChatInput)
            if self._teller.hurt:
                message = "no number"
                raise ValueError(message)
            self._teller.begun += 1
            self._said[name] = (value, 0)
        return names

    def step(self) -> Sequence[tuple[Hashable, Opinion]]:
        if not self._teller.free:
            self._teller.turn.acquire(timeout=20)
        self._teller.steps += 1
        done = []
        for name, (value, said) in list(self._said.items()):
            whole = self._teller.talk(value)
            self._said[name] = (value, said + 1)
            if value.messages[-1].content.startswith("breaks") and said == 3:
                self._teller.failure = ValueError("no number")
                raise self._teller.failure
            if said + 1 >= len(whole.output.split(" ")):
                done.append((name, whole))
                del self._said[name]
        return done

    def so_far(self, name: Hashable, *, viewed: bool) -> SoFar:
        value, said = self._said[name]
        whole = self._teller.talk(value)
        view = None if viewed or said < DECIDING else whole.at("first_tokens")
        return SoFar(text=" ".join(whole.output.split(" ")[:said]), view=view)

    def drop(self, name: Hashable) -> None:
        value, _ = self._said.pop(name)
        self._teller.dropped.append(value.messages[-1].content)
