"""Greedy answers, all of a batch a token or more a step; rows come and go between steps."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from store.student.chat.decoder import Decoder
from store.student.chat.reading.guesses import Guesses
from store.student.chat.reading.prefixes import Prefixes
from store.student.chat.reading.slots import Slots
from store.student.chat.stack import KeyValues

MAX_ROWS: Final = 32  # that `generate` has in hand at once
_READ_TOKENS: Final = 4096  # in one pass over new prompts, padding included


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


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a decoder's answers were helped by so far."""

    prefixes: Prefixes
    guesses: Guesses = field(default_factory=Guesses)


_shared: "WeakKeyDictionary[Decoder, Known]" = WeakKeyDictionary()
_sharing = threading.Lock()


def shared_known(decoder: Decoder) -> Known:
    """What all batches of a decoder share in this process, for as long as the decoder is in use."""
    with _sharing:
        found = _shared.get(decoder)
        if found is None:
            found = _shared[decoder] = Known(Prefixes(decoder.stack))
        return found


class Batch:
    """Answers that grow together. For one thread."""

    def __init__(self, decoder: Decoder, known: Known | None = None) -> None:
        """Hold nothing yet.

        Args:
            decoder: answers.
            known: of this decoder; None: what all its batches share.
        """
        self._known = shared_known(decoder) if known is None else known
        self._decoder = decoder
        self._slots = Slots()
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
            for length, prefix, index in self._known.prefixes.groups([one.ids for one in asked]):
                for some in _by_size(index, [len(one.ids) - length for one in asked]):
                    self._read([made[i] for i in some], length, prefix)
        for one in [one for one in made if one.finish_reason is not None]:
            self.drop(one)
        return made

    def step(self) -> list[Generation]:
        """Add a token or more to every answer; those that are done with it, which leave the batch.

        Raises:
            ValueError: what the decoder says is no number.
        """
        if not self.growing:
            return []
        stack, last = self._decoder.stack, [len(one.asked.ids) + len(one.ids) - 1 for one in self.growing]
        guesses = self._guesses(self._decoder.longest - max(last) - 1)
        width = 1 + len(guesses[0])
        with torch.inference_mode():
            tokens = [[one.ids[-1], *guess] for one, guess in zip(self.growing, guesses, strict=True)]
            ids = torch.tensor(tokens, device=stack.device)
            positions = torch.tensor(last, device=stack.device)[:, None] + torch.arange(width, device=stack.device)
            self._slots.reserve(len(self), max(last) + width)
            states = stack.through(stack.embed(ids), positions, self._slots)
            self._say(self.growing, stack.logits(states), guesses)
        done = [one for one in self.growing if one.finish_reason is not None]
        for one in done:
            self.drop(one)
        return done

    def _guesses(self, most: int) -> list[list[int]]:
        """How each answer may go on: as many tokens for each, of which those without a guess are any."""
        found = [self._known.guesses.after(one.ids) for one in self.growing]
        width = max(0, min(most, max(map(len, found))))
        return [[*guess, *[0] * width][:width] for guess in found]

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
        states = states[torch.arange(len(made), device=stack.device), last]
        self._say(made, stack.logits(states[:, None]), [[] for _ in made])
        longest = length + max(map(len, rests))
        self._slots.reserve(len(self) + len(made), longest, read)
        self._slots.append(prefix, read, longest)
        self.growing += made

    def _say(self, growing: Sequence[Generation], scores: Tensor, guesses: Sequence[Sequence[int]]) -> None:
        """The likeliest tokens by [rows, tokens, vocabulary], put behind each answer as far as its guess was right."""
        best = scores.argmax(dim=-1)
        logprobs = scores.gather(2, best[..., None])[..., 0] - scores.logsumexp(dim=-1)
        for one, tokens, said, guess in zip(growing, best.tolist(), logprobs.tolist(), guesses, strict=True):
            for token, logprob, guessed in zip(tokens, said, [*guess, None], strict=True):
                if not isfinite(logprob):
                    message = "the student says what is no number"
                    raise ValueError(message)
                one.ids.append(token)
                one.logprobs.append(logprob)
                self._finish(one)
                if token != guessed or one.finish_reason is not None:
                    break

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
        if one.finish_reason is not None:
            self._known.guesses.learn(one.ids)


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
