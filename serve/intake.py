"""Questions are redacted and named away from the event loop, each request's in its turn.

Two threads: one for what is short, so that nobody's question waits behind another's megabytes, and one for the rest,
where a long request gives way after every few texts, be they a list of questions or one question's documents. One call
holds the interpreter for milliseconds at most.
"""

import asyncio
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from serve.tasks.face import Matter
from store.errors import TooLaboriousError
from store.event import TaskInput
from store.redact import Redact
from store.secrets import item_id
from store.tasks.rules import TaskRules

_SHORT_CHARS: Final = 4_000  # of all texts of a request
_TURN_CHARS: Final = 20_000  # of a long request, before another has its turn; one text at least
_MAX_WAITING_CHARS: Final = 8_000_000
_PATIENCE_S: Final = 10.0


class IntakeBusyError(Exception):
    """More waits to be redacted than can be in a reasonable time. Try again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A question as the student reads it and the event carries it, and its name."""

    redacted: TaskInput
    item_id: str
    tokens: int  # about how many the student reads for it
    noted: Mapping[str, str]  # what its tokens of personal data stand for


@dataclass(frozen=True, slots=True, kw_only=True)
class Laborious:
    """The first text of a request that would take too long to redact."""

    place: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a lane's questions are redacted, named and weighed."""

    matter: Matter
    rules: TaskRules
    redact: Redact
    lane_key: bytes  # of its item ids
    tokens: Callable[[TaskInput], int]  # of its student


class Intake:
    """The threads that redact, and how much waits for them."""

    def __init__(self, *, patience_s: float = _PATIENCE_S, max_waiting_chars: int = _MAX_WAITING_CHARS) -> None:
        """Prepare; a thread starts with the first text for it.

        Args:
            patience_s: how long one request may take, waiting included.
            max_waiting_chars: of all requests together.
        """
        self._patience_s = patience_s
        self._max_waiting_chars = max_waiting_chars
        self._short = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redact-short")
        self._long = ThreadPoolExecutor(max_workers=1, thread_name_prefix="redact-long")
        self.waiting_chars = 0

    async def read(self, values: Sequence[TaskInput], naming: Naming) -> list[Named] | Laborious:
        """The questions of one request, redacted and named, in their order; of texts the place is counted through all.

        Raises:
            IntakeBusyError: too much waits, or this took too long.
        """
        work = _Work(values, naming)
        if self.waiting_chars and self.waiting_chars + work.chars > self._max_waiting_chars:
            raise IntakeBusyError
        thread = self._short if work.chars <= _SHORT_CHARS else self._long
        loop = asyncio.get_running_loop()
        self.waiting_chars += work.chars
        try:
            async with asyncio.timeout(self._patience_s):
                for first, last in _turns(work.texts):
                    if (stopped := await loop.run_in_executor(thread, work.turn, first, last)) is not None:
                        return stopped
        except TimeoutError as error:
            raise IntakeBusyError from error
        finally:
            self.waiting_chars -= work.chars
        return work.named

    def close(self) -> None:
        """Drop what waits; a turn that has begun ends."""
        self._short.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)


class _Work:
    """One request's texts, and how far it has come; one turn at a time."""

    def __init__(self, values: Sequence[TaskInput], naming: Naming) -> None:
        self._values = values
        self._naming = naming
        pieces = [naming.rules.texts(value) for value in values]
        self.texts = [text for piece in pieces for text in piece]
        self.chars = sum(map(len, self.texts))
        self._ends = list(accumulate(map(len, pieces)))  # of each question's texts
        self._redacted: list[tuple[str, Mapping[str, str]]] = []
        self.named: list[Named] = []

    def turn(self, first: int, last: int) -> Laborious | None:
        """Redact some texts, and name the questions that are complete with them."""
        for place in range(first, last):
            try:
                self._redacted.append(self._naming.redact(self.texts[place]))
            except TooLaboriousError as error:
                return Laborious(place=place, why=str(error))
        while len(self.named) < len(self._ends) and self._ends[len(self.named)] <= last:
            self.named.append(self._name(len(self.named)))
        return None

    def _name(self, index: int) -> Named:
        naming, start = self._naming, self._ends[index - 1] if index else 0
        texts = self._redacted[start : self._ends[index]]
        redacted = naming.matter.of_texts(self._values[index], [text for text, _ in texts])
        return Named(
            redacted=redacted,
            item_id=item_id(naming.lane_key, naming.rules, redacted),
            tokens=max(1, naming.tokens(redacted)),
            noted=dict(ChainMap(*(dict(noted) for _, noted in texts))),
        )


def _turns(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The texts in stretches that are done without a break."""
    first, chars = 0, 0
    for place, text in enumerate(texts):
        if place > first and chars + len(text) > _TURN_CHARS:
            yield first, place
            first, chars = place, 0
        chars += len(text)
    yield first, len(texts)
