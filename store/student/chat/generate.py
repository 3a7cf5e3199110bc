"""Greedy answers, a token a step for all rows of a batch; rows come and go between steps.

What many prompts begin with (an application's instructions, mostly) is read once, and its keys and values are kept for
the next ones.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from store.student.chat.decoder import Decoder
from store.student.chat.stack import KeyValues, Stack
from store.student.chat.template import shared_prefix

MAX_ROWS: Final = 32  # that `generate` has in hand at once
_SHORTEST_PREFIX: Final = 16  # tokens that are worth keeping
_PREFIX_BYTES: Final = 64 << 20  # of keys and values, for all prefixes of a decoder together
_RECENT: Final = 16  # prompts with which a new one is compared
_READ_TOKENS: Final = 4096  # in one pass over new prompts, padding included
_SLOT_STEP: Final = 64  # tokens by which a batch's room grows


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, and how far its answer may go."""

    ids: Sequence[int]
    limit: int  # tokens, the end included; at least 1
    stops: tuple[str, ...] = ()  # texts before which the answer ends


@dataclass(slots=True, eq=False)
class Generation:
    """One answer while it grows. Only its batch changes it."""

    asked: Asked
    ids: list[int] = field(default_factory=list)  # the end included, once it is there
    logprobs: list[float] = field(default_factory=list)  # of these, by a softmax in float32
    text: str = ""  # whole once it is done; before that only where it has stops
    finish_reason: Literal["stop", "length"] | None = None  # None: it still grows


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


_shared: "WeakKeyDictionary[Decoder, Prefixes]" = WeakKeyDictionary()
_sharing = threading.Lock()


def shared_prefixes(decoder: Decoder) -> Prefixes:
    """The process's one store of what a decoder's prompts begin with, for as long as the decoder is in use."""
    with _sharing:
        found = _shared.get(decoder)
        if found is None:
            found = _shared[decoder] = Prefixes(decoder.stack)
        return found


class _Slots:
    """The batch's own keys and values: token t of a row lies in slot t. Satisfies `store.student.chat.stack.Cache`."""

    def __init__(self) -> None:
        self.rows = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # [room for rows, heads, room for tokens, size] each
        self._used = 0  # slots that the longest row has used
        self._at: Tensor = torch.empty(0)

    def reserve(self, rows: int, tokens: int, like: KeyValues | None = None) -> None:
        """Have room for so many rows of so many tokens, of keys and values like these."""
        if like is not None and not self._layers:
            self._layers = {layer: (keys[:0], values[:0]) for layer, (keys, values) in like.layers.items()}
        for layer, pair in self._layers.items():
            room_rows, heads, room_tokens, size = pair[0].shape
            if room_rows >= rows and room_tokens >= tokens:
                continue
            shape = (max(rows, room_rows), heads, max(-(-tokens // _SLOT_STEP) * _SLOT_STEP, room_tokens), size)
            fresh = (pair[0].new_zeros(shape), pair[1].new_zeros(shape))
            for new, old in zip(fresh, pair, strict=True):
                new[: self.rows, :, : self._used] = old[: self.rows, :, : self._used]
            self._layers[layer] = fresh

    def append(self, prefix: KeyValues | None, read: KeyValues, longest: int) -> None:
        """Rows behind the others: their prefix, and what was read after it."""
        first, count = self.rows, read.positions.shape[0]
        begin = 0 if prefix is None else prefix.positions.shape[1]
        for layer, pair in read.layers.items():
            for which, room in enumerate(self._layers[layer]):
                if prefix is not None:
                    room[first : first + count, :, :begin] = prefix.layers[layer][which]
                room[first : first + count, :, begin : begin + pair[which].shape[2]] = pair[which]
        self.rows += count
        self._used = max(self._used, longest)

    def remove(self, row: int) -> None:
        """Let the last row take a row's place."""
        self.rows -= 1
        if row != self.rows:
            for pair in self._layers.values():
                for room in pair:
                    room[row] = room[self.rows].clone()

    def places(self, positions: Tensor) -> Tensor:
        """See `Cache`; each row adds one token."""
        self._at = positions[:, 0]
        self._used = int(self._at.max()) + 1
        return torch.arange(self._used, device=positions.device).expand(positions.shape[0], -1)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **_: Any) -> tuple[Tensor, Tensor]:
        """See `Cache`."""
        room_keys, room_values = self._layers[layer_idx]
        rows = torch.arange(keys.shape[0], device=keys.device)
        room_keys[rows, :, self._at] = keys[:, :, 0]
        room_values[rows, :, self._at] = values[:, :, 0]
        return room_keys[: self.rows, :, : self._used], room_values[: self.rows, :, : self._used]


class Batch:
    """Answers that grow together. For one thread."""

    def __init__(self, decoder: Decoder, prefixes: Prefixes | None = None) -> None:
        """Hold nothing yet.

        Args:
            decoder: answers.
            prefixes: of this decoder; None: those that all its batches share.
        """
        self._prefixes = shared_prefixes(decoder) if prefixes is None else prefixes
        self._decoder = decoder
        self._slots = _Slots()
        self.growing: list[Generation] = []  # in the order of the slots' rows; for reading

    def __len__(self) -> int:
        """How many answers still grow."""
        return len(self.growing)

    def add(self, asked: Sequence[Asked]) -> list[Generation]:
        """Read prompts: their answers, each with its first token, in the order of the prompts; some may be done.

        Raises:
            ValueError: a prompt is empty or its limit under 1, or what the decoder says is no number.
        """
        if any(not one.ids or one.limit < 1 for one in asked):
            message = "a prompt without tokens, or an answer without room"
            raise ValueError(message)
        made = [Generation(one) for one in asked]
        with torch.inference_mode():
            for length, prefix, index in self._prefixes.groups([one.ids for one in asked]):
                for some in _by_size(index, [len(one.ids) - length for one in asked]):
                    self._read([made[i] for i in some], length, prefix)
        for one in [one for one in made if one.finish_reason is not None]:
            self.drop(one)
        return made

    def step(self) -> list[Generation]:
        """Add a token to every answer; those that are done with it, which leave the batch.

        Raises:
            ValueError: what the decoder says is no number.
        """
        if not self.growing:
            return []
        stack = self._decoder.stack
        with torch.inference_mode():
            ids = torch.tensor([[one.ids[-1]] for one in self.growing], device=stack.device)
            places = [[len(one.asked.ids) + len(one.ids) - 1] for one in self.growing]
            positions = torch.tensor(places, device=stack.device)
            self._slots.reserve(len(self), max(map(max, places)) + 1)
            states = stack.through(stack.embed(ids), positions, self._slots)
            self._say(self.growing, stack.logits(states[:, 0]))
        done = [one for one in self.growing if one.finish_reason is not None]
        for one in done:
            self.drop(one)
        return done

    def drop(self, generation: Generation) -> None:
        """Let an answer go, done or not; one that is not here any more is none."""
        if generation in self.growing:
            row = self.growing.index(generation)
            with torch.inference_mode():
                self._slots.remove(row)
            last = self.growing.pop()
            if last is not generation:
                self.growing[row] = last

    def _read(self, made: list[Generation], length: int, prefix: KeyValues | None) -> None:
        """Prompts with one prefix, which is known: keys and values of the rest, and each answer's first token."""
        stack, decoder = self._decoder.stack, self._decoder
        rests = [one.asked.ids[length:] for one in made]
        ids, positions = decoder.pad(rests, first=length)
        states, read = stack.run(stack.embed(ids), positions, past=prefix)
        last = torch.tensor([len(rest) - 1 for rest in rests], device=stack.device)
        self._say(made, stack.logits(states[torch.arange(len(made), device=stack.device), last]))
        longest = length + max(map(len, rests))
        self._slots.reserve(len(self) + len(made), longest, read)
        self._slots.append(prefix, read, longest)
        self.growing += made

    def _say(self, growing: Sequence[Generation], scores: Tensor) -> None:
        """The likeliest token of each row of [rows, vocabulary], put behind its answer."""
        best = scores.argmax(dim=-1)
        logprobs = scores.gather(1, best[:, None])[:, 0] - scores.logsumexp(dim=-1)
        for one, token, logprob in zip(growing, best.tolist(), logprobs.tolist(), strict=True):
            if not isfinite(logprob):
                message = "the student says what is no number"
                raise ValueError(message)
            one.ids.append(token)
            one.logprobs.append(logprob)
            self._finish(one)

    def _finish(self, one: Generation) -> None:
        """See whether an answer is done."""
        template = self._decoder.template
        if one.ids[-1] in template.ends:
            one.finish_reason, one.text = "stop", template.text_of(one.ids[:-1])
        elif one.asked.stops:
            one.text = template.text_of(one.ids)
            found = [place for stop in one.asked.stops if (place := one.text.find(stop)) >= 0]
            if found:
                one.finish_reason, one.text = "stop", one.text[: min(found)]
        if one.finish_reason is None and len(one.ids) >= one.asked.limit:
            one.finish_reason, one.text = "length", template.text_of(one.ids)


def generate(decoder: Decoder, asked: Sequence[Asked]) -> list[Generation]:
    """The whole answers, in the order of the prompts.

    Raises:
        ValueError: as of `Batch`.
    """
    batch = Batch(decoder)
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i].ids))  # memory runs out at once or not at all
    made: dict[int, Generation] = {}
    while order or len(batch):
        room = MAX_ROWS - len(batch)
        now, order = order[:room], order[room:]
        made |= zip(now, batch.add([asked[i] for i in now]), strict=True)
        batch.step()
    return [made[i] for i in range(len(asked))]


def _by_size(index: Iterable[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in passes of like lengths, longest first."""
    order = sorted(index, key=lambda i: -lengths[i])
    while order:
        count = max(1, _READ_TOKENS // lengths[order[0]])
        yield order[:count]
        order = order[count:]


def _bytes(values: KeyValues) -> int:
    return sum(one.numel() * one.element_size() for pair in values.layers.values() for one in pair)
