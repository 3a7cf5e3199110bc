"""What a replay must know of a task: the protocol that each task's file fills."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ops.backtest.log import Log
from ops.backtest.records import Answers
from ops.backtest.stream import Cursor, Stream
from serve.escalation import Answer
from serve.request.parts import Forward
from store.event import TeacherAnswer
from store.student.encoder import Encoder, FloatArray

Seen = Callable[[int, int], None]  # rows computed, rows to compute


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFeatures:
    """Numbers of a whole log's texts by their keys, computed once."""

    rows: dict[str, FloatArray]

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:  # noqa: ARG002
        """See `trainer.learn.recipe.Features`."""
        if not item_ids:
            return np.empty((0, encoder.feature_size), np.float32)
        return np.stack([self.rows[item] for item in item_ids])

    def pairs(self, encoder: Encoder, keys: Sequence[str], pairs: Sequence[tuple[str, str]]) -> FloatArray:  # noqa: ARG002
        """See `trainer.learn.rank.kept.PairFeatures`."""
        return np.array([self.rows[key][0] for key in keys], np.float32)


class Part(Protocol):
    """A task, as far as a replay must know it."""

    @property
    def prompt(self) -> str:
        """One that a lane's settings take; the recorded teacher is never shown it."""

    def embed(self, log: Log, items: Sequence[str], encoder: Encoder, cache: Path, progress: Seen) -> KeptFeatures:
        """The numbers of every text of the log, or read from the cache."""

    def features(self, log: Log, items: Sequence[str], kept: KeptFeatures) -> FloatArray:
        """[rows, any]: a vector of each question."""

    def too_long(self, log: Log, encoder: Encoder) -> list[bool]:
        """Which questions the student would not read whole."""

    def forward(self, stream: Stream, cursor: Cursor) -> Forward:
        """The serving student's answers to the row that the cursor stands at."""

    def teach(self, said: str, model: str, prompt_version: str) -> TeacherAnswer:
        """What the teacher answered, from how a log holds it."""

    def output(self, answer: Answer) -> str:
        """What was answered, as a student's output is written in an event."""

    def confidence(self, answer: Answer) -> float:
        """What the answer itself says of the student's confidence; NaN: nothing."""

    def others(self, log: Log, stream: Stream, answers: Answers, calls: int) -> dict[str, float]:
        """Agreement of other ways to answer the same questions, by name."""

    def measures(self, log: Log, stream: Stream, answers: Answers) -> dict[str, float]:
        """What else is told of all answers, by name."""
