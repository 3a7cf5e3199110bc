"""Texts are made canonical, redacted and named away from the event loop, each request's in its turn.

Two threads: one for what is short, so that nobody's question waits behind another's megabytes, and one for the rest,
where a long request gives way after every few texts. One call holds the interpreter for milliseconds at most.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from store.errors import TooLaboriousError
from store.event import TextInput, canonical_text
from store.secrets import item_id
from store.tasks.classify import ClassifyRules

_SHORT_CHARS: Final = 4_000  # of all texts of a request
_TURN_CHARS: Final = 20_000  # of a long request, before another has its turn; one text at least
_MAX_WAITING_CHARS: Final = 8_000_000
_PATIENCE_S: Final = 10.0


class IntakeBusyError(Exception):
    """More waits to be redacted than can be in a reasonable time. Try again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A text as the student reads it and the event carries it, and its name."""

    redacted: TextInput  # canonical
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Laborious:
    """The first text of a request that would take too long to redact."""

    place: int
    why: str


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

    async def read(
        self, texts: Sequence[str], *, redact: Callable[[str], str], lane_key: bytes
    ) -> list[Named] | Laborious:
        """The texts, redacted and named, in their order.

        Args:
            texts: of one request.
            redact: the lane's redaction.
            lane_key: the key of the lane's item ids.

        Raises:
            IntakeBusyError: too much waits, or this took too long.
        """
        chars = sum(map(len, texts))
        if self.waiting_chars and self.waiting_chars + chars > self._max_waiting_chars:
            raise IntakeBusyError
        thread = self._short if chars <= _SHORT_CHARS else self._long
        loop = asyncio.get_running_loop()
        named: list[Named] = []
        self.waiting_chars += chars
        try:
            async with asyncio.timeout(self._patience_s):
                for turn in _turns(texts):
                    found = await loop.run_in_executor(thread, _named, turn, redact, lane_key)
                    if isinstance(found, Laborious):
                        return Laborious(place=len(named) + found.place, why=found.why)
                    named += found
        except TimeoutError as error:
            raise IntakeBusyError from error
        finally:
            self.waiting_chars -= chars
        return named

    def close(self) -> None:
        """Drop what waits; a turn that has begun ends."""
        self._short.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)


def _turns(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in slices that are done without a break."""
    first, chars = 0, 0
    for place, text in enumerate(texts):
        if place > first and chars + len(text) > _TURN_CHARS:
            yield texts[first:place]
            first, chars = place, 0
        chars += len(text)
    yield texts[first:]


def _named(texts: Sequence[str], redact: Callable[[str], str], lane_key: bytes) -> list[Named] | Laborious:
    named: list[Named] = []
    for text in texts:
        try:
            redacted = TextInput(text=redact(canonical_text(text)))
        except TooLaboriousError as error:
            return Laborious(place=len(named), why=str(error))
        named.append(Named(redacted=redacted, item_id=item_id(lane_key, ClassifyRules(), redacted)))
    return named
