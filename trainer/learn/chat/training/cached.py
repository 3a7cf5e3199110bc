"""What enters the trained layers: states of each row's tokens, computed once by the layers below and kept on disk.

Rows that begin alike (with a system prompt) share the states of that prefix, whose keys and values every row reads.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from store.student.chat.stack import NOWHERE, KeyValues, Stack
from store.student.chat.template import shared_prefix
from trainer.learn.aside import put, sweep
from trainer.learn.chat.training.losses import Heard

_SHARD_TOKENS: Final = 1 << 15
_BATCH_TOKENS: Final = 1 << 11
_STATES: Final = "states"
_ROWS: Final = "rows"
_KEPT_RATIO: Final = 4  # times the rows of a training, which may be a part of a cycle's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """One conversation with the answer to learn, in tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]  # with the token that ends it
    heard: Heard  # what the teacher said at each token of the answer
    weight: float

    @property
    def read(self) -> tuple[int, ...]:
        """What the layers read: all but the last token, which predicts nothing."""
        return (*self.prompt, *self.answer[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Lessons that begin with the same tokens."""

    prefix: tuple[int, ...]  # never a whole prompt: a token of each row's own predicts its answer
    places: tuple[int, ...]


def families(lessons: Sequence[Lesson], names: Sequence[str]) -> list[Family]:
    """Lessons grouped by what they begin with.

    Args:
        lessons: n of them.
        names: what each begins with, as a short text: the same for rows of one system prompt, say.
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    found = []
    for places in groups.values():
        prompts = [lessons[place].prompt for place in places]
        found.append(Family(prefix=prompts[0][: shared_prefix(prompts)], places=tuple(places)))
    return found


class LowerStates:
    """States below the first trained layer, by row; where that is the lowest layer, nothing is worth keeping."""

    def __init__(self, stack: Stack, *, first: int, base: str, folder: Path | None) -> None:
        """Keep them in a folder.

        Args:
            stack: of the base.
            first: the lowest layer that is trained.
            base: fingerprint of the base: another's states are of no use.
            folder: where to; None: in memory alone.
        """
        self._stack, self._first = stack, first
        self._folder = None if folder is None or first == 0 else folder / f"{base[:16]}-{first}"
        self._known: dict[str, Tensor] = {}
        self._read: dict[str, tuple[Path, int, int]] = {}

    def prefix(self, ids: tuple[int, ...]) -> Tensor:
        """[1, tokens, hidden] of what a family begins with."""
        return self._below(torch.tensor([ids], device=self._stack.device), self._positions([ids], 0), None)[0]

    def rows(self, family: Family, lessons: Sequence[Lesson]) -> list[Tensor]:
        """[own tokens, hidden] of each lesson of a family, computed where they are not known."""
        own = [lesson.read[len(family.prefix) :] for lesson in lessons]
        if self._first == 0:
            return [self._stack.embed(torch.tensor(ids, device=self._stack.device)) for ids in own]
        keys = [_key(lesson.read, len(family.prefix)) for lesson in lessons]
        return [self._states(key) for key in keys]

    def prepare(self, family: Family, lessons: Sequence[Lesson]) -> Iterator[int]:
        """Compute what is not known of a family's lessons, shard by shard; says how many rows are done."""
        if self._first == 0:
            return
        self._open()
        keys = [_key(lesson.read, len(family.prefix)) for lesson in lessons]
        new = {key: lesson for key, lesson in zip(keys, lessons, strict=True) if key not in self._known | self._read}
        order = sorted(new, key=lambda key: len(new[key].read))
        past = self._past(family.prefix)
        shard: dict[str, Tensor] = {}
        done = len(lessons) - len(new)
        for batch in _by_tokens(order, [len(new[key].read) - len(family.prefix) for key in order]):
            ids = [new[key].read[len(family.prefix) :] for key in batch]
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
            states, _ = self._below(padded.to(self._stack.device), self._positions(ids, len(family.prefix)), past)
            shard |= {key: states[at, : len(ids[at])].clone() for at, key in enumerate(batch)}
            done += len(batch)
            if sum(map(len, shard.values())) >= _SHARD_TOKENS:
                self._keep(shard)
                shard = {}
            yield done
        if shard:
            self._keep(shard)

    def forget(self, groups: Sequence[Family], lessons: Sequence[Lesson]) -> None:
        """Remove what holds no row of these groups, once most of what is kept is of no use to them."""
        wanted = {_key(lessons[place].read, len(group.prefix)) for group in groups for place in group.places}
        if len(self._read) <= _KEPT_RATIO * len(wanted):
            return
        holding = {path for key, (path, _, _) in self._read.items() if key in wanted}
        for path in {path for path, _, _ in self._read.values()} - holding:
            path.unlink(missing_ok=True)
        self._read = {key: at for key, at in self._read.items() if at[0] in holding}

    def _states(self, key: str) -> Tensor:
        if (found := self._known.get(key)) is not None:
            return found
        path, start, stop = self._read[key]
        with safe_open(path, framework="pt") as file:
            states: Tensor = file.get_slice(_STATES)[start:stop]
        return states.to(self._stack.device)

    def _past(self, prefix: tuple[int, ...]) -> KeyValues | None:
        if not prefix:
            return None
        ids = torch.tensor([prefix], device=self._stack.device)
        return self._below(ids, self._positions([prefix], 0), None)[1]

    def _below(self, ids: Tensor, positions: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        with torch.no_grad():
            return self._stack.run(self._stack.embed(ids), positions, stop=self._first, past=past)

    def _positions(self, rows: Sequence[tuple[int, ...]], start: int) -> Tensor:
        return positions_of([len(row) for row in rows], start).to(self._stack.device)

    def _open(self) -> None:
        """Find what earlier runs have kept; what they kept of another base, or of other layers, is of no use."""
        if self._folder is None or self._read:
            return
        for other in self._folder.parent.glob("*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        sweep(self._folder)
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    lengths: dict[str, int] = json.loads(file.metadata()[_ROWS])
                    shape = file.get_slice(_STATES).get_shape()
            except (OSError, SafetensorError, KeyError, TypeError, ValueError):
                path.unlink(missing_ok=True)
                continue
            if shape != [sum(lengths.values()), self._stack.hidden_size]:
                path.unlink(missing_ok=True)
                continue
            start = 0
            for key, length in lengths.items():
                self._read[key] = (path, start, start + length)
                start += length

    def _keep(self, shard: dict[str, Tensor]) -> None:
        """Write a shard, whole or not at all."""
        if self._folder is None:
            self._known |= shard
            return
        lengths = {key: len(states) for key, states in shard.items()}
        data = safetensors.torch.save(
            {_STATES: torch.cat(list(shard.values())).cpu()}, {_ROWS: json.dumps(lengths, separators=(",", ":"))}
        )
        path = self._folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        put(path, data)
        start = 0
        for key, length in lengths.items():
            self._read[key] = (path, start, start + length)
            start += length


def positions_of(lengths: Sequence[int], start: int) -> Tensor:
    """[rows, longest] positions from `start` on; padding is nowhere."""
    places = torch.arange(max(lengths)).expand(len(lengths), -1)
    return torch.where(places < torch.tensor(lengths)[:, None], places + start, NOWHERE)


def _key(ids: Sequence[int], prefix: int) -> str:
    return hashlib.sha256(json.dumps([prefix, *ids], separators=(",", ":")).encode()).hexdigest()[:32]


def _by_tokens(keys: Sequence[str], lengths: Sequence[int]) -> Iterator[list[str]]:
    """Batches of like lengths, ascending, of a bounded number of padded tokens."""
    batch: list[str] = []
    for key, length in zip(keys, lengths, strict=True):
        if batch and (len(batch) + 1) * length > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch
