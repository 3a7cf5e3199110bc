"""Gradients of one batch after the other: what its rows begin with once, and every row's tokens behind it."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from store.errors import UnderstudyError
from store.student.chat.stack import KeyValues
from trainer.launch.rank import OutOfMemoryError
from trainer.learn.chat.training.cached import Family, Lesson, LowerStates, positions_of
from trainer.learn.chat.training.crew import ALONE, Crew
from trainer.learn.chat.training.layers import TopLayers
from trainer.learn.chat.training.losses import ABSENT, Heard, answer_loss, shares


class TooLittleMemoryError(UnderstudyError):
    """One row at a time is too much. Train fewer layers, take a smaller decoder, or give it more memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one family."""

    group: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is computed at once: rows of one family, and what their tokens count."""

    group: int
    places: tuple[int, ...]
    text: Tensor  # [answer tokens] shares of the whole step
    distribution: Tensor  # likewise


class StepLoss(nn.Module):
    """The loss of a part, as a module: what wraps it knows when it begins and when its gradients are there."""

    def __init__(
        self, top: TopLayers, states: LowerStates, lessons: Sequence[Lesson], groups: Sequence[Family], weight: float
    ) -> None:
        """Hold what is trained.

        Args:
            top: the layers.
            states: what enters them.
            lessons: all of them.
            groups: of these.
            weight: of the distribution's loss beside the text's.
        """
        super().__init__()
        stack = top.stack
        self.trained = nn.ModuleList(stack.modules[top.first :])
        self.head = nn.ModuleList([stack.model.model.norm, stack.model.lm_head])
        self._top, self._states, self._lessons, self._groups, self._weight = top, states, lessons, groups, weight
        self._prefixes: dict[int, Tensor] = {}

    def forward(self, part: Part) -> Tensor:
        """A number in float32."""
        stack, device = self._top.stack, self._top.stack.device
        lessons, family = [self._lessons[place] for place in part.places], self._groups[part.group]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._top.autocast):
            hidden, positions, where = self._inputs(family, lessons)
            found, _ = stack.run(hidden, positions, start=self._top.first, past=self._past(part.group))
            asked = stack.norm(found[where]).to(stack.head.dtype)
        heard = together([lesson.heard for lesson in lessons])
        return answer_loss(
            asked,
            stack.head,
            Heard(ids=heard.ids.to(device), logprobs=heard.logprobs.to(device)),
            text=part.text.to(device),
            distribution=self._weight * part.distribution.to(device),
            softcap=stack.softcap,
        )

    def _past(self, group: int) -> KeyValues | None:
        """Keys and values of what the family begins with, from the trained layers as they are now."""
        prefix = self._groups[group].prefix
        if not prefix:
            return None
        device = self._top.stack.device
        if group not in self._prefixes:
            self._prefixes[group] = self._top.taken(self._states.prefix(prefix)).to(device)
        positions = positions_of([len(prefix)], 0).to(device)
        _, past = self._top.stack.run(self._prefixes[group], positions, start=self._top.first)
        return past

    def _inputs(self, family: Family, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """States [rows, tokens, hidden], positions [rows, tokens], and [rows, tokens] whether an answer follows.

        By lengths, never by ids: the token that ends an answer may be the one that pads.
        """
        known, start = self._states.rows(family, lessons), len(family.prefix)
        hidden = self._top.taken(nn.utils.rnn.pad_sequence(known, batch_first=True)).to(self._top.stack.device)
        positions = positions_of([len(one) for one in known], start).to(hidden.device)
        before = torch.tensor([len(lesson.prompt) - 1 for lesson in lessons], device=hidden.device)
        return hidden, positions, positions >= before[:, None]


class Gradients:
    """Leaves a batch's gradients in the parameters of all ranks."""

    def __init__(self, step: StepLoss, lessons: Sequence[Lesson], *, crew: Crew = ALONE) -> None:
        self._crew, self._lessons = crew, lessons
        self._step = crew.spread(step, list(step.trained))
        self.finite = True  # whether this rank's losses of the last batch were numbers

    def of(self, batch: Batch, parameters: Sequence[Tensor], rows: int) -> int:
        """Compute them; says how many rows at once memory has allowed.

        Raises:
            TooLittleMemoryError: not even one does.
            OutOfMemoryError: as many do not on this rank, which cannot go on without the others.
        """
        while True:
            try:
                self._all(batch, rows)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                longest = max(len(self._lessons[place].read) for place in batch.places)
                message = f"{rows} rows at once of up to {longest} tokens: that does not fit: {error}"
                if self._crew.size > 1:
                    raise OutOfMemoryError(message) from error
                if rows == 1:
                    raise TooLittleMemoryError(message) from error
            else:
                return rows
            rows //= 2
            for parameter in parameters:
                parameter.grad = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _all(self, batch: Batch, rows: int) -> None:
        losses = []
        parts = list(self._parts(batch, rows))
        for number, part in enumerate(parts):
            with self._crew.gathering(self._step, is_last=number + 1 == len(parts)):
                loss = self._crew.scale * self._step(part)
                loss.backward()
            losses.append(loss.detach())
        self.finite = bool(torch.stack(losses).isfinite().all())

    def _parts(self, batch: Batch, rows: int) -> list[Part]:
        """This rank's rows, so many at once; shares are of what all rows of the batch hold."""
        totals = [sum(float(one[kind].sum()) for one in map(self._weights, batch.places)) for kind in (0, 1)]
        own = self._crew.own(batch.places)
        parts = []
        for at in range(0, len(own), rows):
            some = own[at : at + rows]
            weights = [tuple(is_own * one for one in self._weights(place)) for place, is_own in some]
            text, distribution = shares(
                *(torch.cat([one[kind] for one in weights]) for kind in (0, 1)),
                text_total=totals[0],
                distribution_total=totals[1],
            )
            places = tuple(place for place, _ in some)
            parts.append(Part(group=batch.group, places=places, text=text, distribution=distribution))
        return parts

    def _weights(self, place: int) -> tuple[Tensor, Tensor]:
        """Weights of each token of an answer, as text and as a distribution."""
        lesson = self._lessons[place]
        known = torch.isfinite(lesson.heard.logprobs[:, 0])
        text = torch.full((len(lesson.answer),), lesson.weight)
        return text, torch.where(known, text, 0.0)


def together(heard: Sequence[Heard]) -> Heard:
    """One after the other, as wide as the widest."""
    width = max(one.ids.shape[1] for one in heard)

    def widened(one: Tensor, value: float) -> Tensor:
        return nn.functional.pad(one, (0, width - one.shape[1]), value=value)

    return Heard(
        ids=torch.cat([widened(one.ids, ABSENT) for one in heard]),
        logprobs=torch.cat([widened(one.logprobs, -torch.inf) for one in heard]),
    )


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory was the matter: torch has an error of its own for devices alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
