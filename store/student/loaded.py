"""What a loaded version is to a gateway and a trainer, whatever its task: it looks at inputs, and answers them.

Looking gives confidence and novelty; a student that answers in the same pass (`classify`, `rank`) says its answer with
them. Whoever decides reads `Opinion` alone; only a task's own file knows which of its kinds it is.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self, runtime_checkable

from store.event import TaskInput
from store.policy import Moment, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyView:
    """How sure a student was before its answer was whole."""

    confidence: float  # as an `Opinion`'s
    signals: list[float]  # that it follows from


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a student makes of one input, as plain numbers."""

    output: str  # its answer as an event records it: a label, or places of documents as JSON, best first
    confidence: float  # that the teacher says the same, by the lane's definition of agreement; in [0, 1]
    uncertainty: float  # what a budget is spent by, in [0, 1]: the surer, the less
    novelty: float  # distance to the nearest reference vector
    members: list[list[float]]  # each member's own output
    early: Mapping[Moment, EarlyView] = field(default_factory=dict)

    def at(self, moment: Moment) -> Self:
        """The same answer, as sure as the student was then.

        Raises:
            KeyError: nobody knows how sure that was.
        """
        sure = self.early[moment].confidence
        return replace(self, confidence=sure, uncertainty=1.0 - sure)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOpinion(Opinion):
    """Of `classify`: `output` is the label, `uncertainty` 1 - (p1 - p2)."""

    probs: list[float]
    labels: tuple[str, ...]  # what `probs` are of


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOpinion(Opinion):
    """Of `rank`: `uncertainty` is 1 - `confidence`."""

    scores: list[float]  # in the order of the documents; higher is better
    order: list[int]  # places of the documents, best first


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOpinion(Opinion):
    """Of `chat`: `output` is the text as the student wrote it; the one member are the signals of its confidence."""

    finish_reason: Literal["stop", "length"]
    tokens: list[int]  # ids of the answer, the one that ends it included
    logprobs: list[float]  # of these
    prompt_tokens: int


class Growing(Protocol):
    """Answers of one version that grow together, a token a step; they come and go between steps. One thread uses it."""

    def __len__(self) -> int:
        """How many grow."""

    def add(self, inputs: Sequence[TaskInput]) -> Sequence[Hashable]:
        """Begin to answer redacted inputs that are not too long; a name for each, to drop it by.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """

    def step(self) -> Sequence[tuple[Hashable, Opinion]]:
        """A token more for every answer; those that are done with it have left. Raises as `add` does."""

    def so_far(self, name: Hashable, *, viewed: bool) -> "SoFar":
        """An answer that still grows, as far as it has come; `viewed`: its first tokens were looked at before."""

    def drop(self, name: Hashable) -> None:
        """Nobody waits for this one any more; one that is not here is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar:
    """An answer while it grows."""

    text: str  # what the whole answer will begin with
    view: Opinion | None  # of its first tokens; None: they are not all there yet, or were viewed before


@runtime_checkable
class Grows(Protocol):
    """A student whose answers take many passes."""

    def growing(self) -> Growing:
        """None of them yet."""


@runtime_checkable
class Foretells(Protocol):
    """A student that can say how sure it is before its answer is whole."""

    @property
    def moments(self) -> Sequence[Moment]:
        """When; none of a version that was made without."""

    def expect(self, inputs: Sequence[TaskInput]) -> Sequence[Opinion]:
        """By the prompts alone, of inputs that are not too long: opinions without an answer.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """


@runtime_checkable
class Selects(Protocol):
    """A student that was trained for some forms of an answer, and no others."""

    def supports(self, value: TaskInput) -> bool:
        """Whether the form that a question wants is among them."""


@runtime_checkable
class Compares(Protocol):
    """A student that can tell how far two texts are from each other."""

    def distance(self, first: str, second: str) -> float:
        """1 - cosine of their vectors: a great one says that they differ, a small one nothing."""


class Loaded(Protocol):
    """A version in memory. Immutable; several threads may ask it at once."""

    @property
    def policy(self) -> Policy | None:
        """What was calibrated for this version; None: it may answer nothing by itself."""

    @property
    def golden_tolerance(self) -> float:
        """The largest deviation from the golden outputs that rounding explains."""

    @property
    def served_parameters(self) -> int:
        """How many distinct numbers are in service."""

    def look(self, inputs: Sequence[TaskInput]) -> Sequence[Opinion]:
        """One opinion for each redacted input, in their order. Inputs do not influence one another, up to rounding.

        Raises:
            ValueError: a number is not finite: the student is broken.
        """

    def too_long(self, value: TaskInput) -> bool:
        """Whether truncation would cut it."""

    def tokens(self, value: TaskInput) -> int:
        """About how many tokens a forward pass for it reads; what is cached costs none."""

    def check_golden(self) -> float:
        """The largest deviation from what the trainer saw; infinite where one is no number."""

    def check_follows(self, serving: Self | None, *, removal_declared: bool) -> None:
        """See that clients of the serving version can live with this one.

        Raises:
            SwapRefusedError: labels would change places, say; the message says what to do.
        """
