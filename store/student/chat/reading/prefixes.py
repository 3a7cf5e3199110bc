"""What many prompts begin with (an application's instructions, mostly): read once, its keys and values kept."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch

from store.student.chat.stack import KeyValues, Stack
from store.student.chat.template import shared_prefix

_SHORTEST_PREFIX: Final = 16  # tokens that are worth keeping
_PREFIX_BYTES: Final = 64 << 20  # of keys and values, for all prefixes of a decoder together
_RECENT: Final = 16  # prompts with which a new one is compared


class Prefixes:
    """Keys and values of what prompts begin with, the least recently used ones forgotten first.

    Safe for several threads.
    """

    def __init__(self, stack: Stack, *, max_bytes: int = _PREFIX_BYTES) -> None:
        """Know nothing yet.

        Args:
            stack: reads them; the decoder itself is not held, so that it can go.
            max_bytes: of memory, for all of them; a longer one serves its own batch and is not kept.
        """
        self.read_tokens = 0  # so far: what was not known
        self._stack = stack
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, ...], KeyValues] = OrderedDict()
        self._recent: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._lock = threading.Lock()

    def groups(self, rows: Sequence[Sequence[int]]) -> list[tuple[int, KeyValues | None, list[int]]]:
        """Rows that begin alike: the prefix's length, its keys and values (None: no prefix), and the rows' numbers."""
        with self._lock:
            known, recent = list(self._kept), list(self._recent)
            for row in rows:
                self._recent[tuple(row)] = None
                self._recent.move_to_end(tuple(row))
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        found: dict[tuple[int, ...], list[int]] = {}
        fresh: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            fitting = [one for one in known if len(one) < len(row) and tuple(row[: len(one)]) == one]
            if fitting:
                found.setdefault(max(fitting, key=len), []).append(i)
            else:
                fresh.setdefault(tuple(row[:_SHORTEST_PREFIX]), []).append(i)
        for head, index in fresh.items():
            alike = [rows[i] for i in index]
            shared = shared_prefix([*alike, *(one for one in recent if one[: len(head)] == head)])
            prefix = tuple(alike[0][:shared]) if shared >= _SHORTEST_PREFIX else ()
            found.setdefault(prefix, []).extend(index)
        return [(len(prefix), self._values(prefix) if prefix else None, index) for prefix, index in found.items()]

    def _values(self, prefix: tuple[int, ...]) -> KeyValues:
        with self._lock:
            kept = self._kept.get(prefix)
            if kept is not None:
                self._kept.move_to_end(prefix)
                return kept
        device = self._stack.device
        hidden = self._stack.embed(torch.tensor([prefix], device=device))
        _, values = self._stack.run(hidden, torch.arange(len(prefix), device=device)[None])
        with self._lock:
            self.read_tokens += len(prefix)
            self._kept[prefix] = values
            while self._kept and sum(map(_bytes, self._kept.values())) > self._max_bytes:
                self._kept.popitem(last=False)
        return values


def _bytes(values: KeyValues) -> int:
    return sum(one.numel() * one.element_size() for pair in values.layers.values() for one in pair)
