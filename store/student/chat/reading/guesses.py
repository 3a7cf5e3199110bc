"""How an answer probably goes on: as earlier ones did after the same few tokens.

A guess costs no answer anything but time: all its tokens are checked in one pass, and what the decoder would not have
said itself is dropped (speculative decoding, Leviathan et al. 2023; from earlier texts: He et al. 2023, REST). Answers
in a fixed form, tool calls and other JSON, are mostly guessed; free text hardly is, and then nothing is tried.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

_CONTEXT: Final = 3  # tokens after which something comes again
_MOST: Final = 4096  # contexts that are known
_BEGIN: Final = -1  # before an answer's first token

LONGEST_GUESS: Final = 5  # tokens


class Guesses:
    """What came last after each few tokens of earlier answers. Safe for several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], tuple[int, ...]] = OrderedDict()
        self._latest: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def learn(self, ids: Sequence[int]) -> None:
        """Take in an answer that is done."""
        padded = (*[_BEGIN] * _CONTEXT, *ids)
        with self._lock:
            for place in range(len(ids)):
                context, after = padded[place : place + _CONTEXT], tuple(ids[place : place + LONGEST_GUESS])
                self._known[context] = _shared(self._latest.get(context, ()), after)
                self._known.move_to_end(context)
                self._latest[context] = after
            while len(self._known) > _MOST:
                del self._latest[self._known.popitem(last=False)[0]]

    def after(self, ids: Sequence[int]) -> tuple[int, ...]:
        """What the last two answers both went on with, after the last tokens of this one; mostly nothing."""
        context = (*[_BEGIN] * _CONTEXT, *ids[-_CONTEXT:])[-_CONTEXT:]
        return self._known.get(context, ())


def _shared(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return tuple(one[:count])
