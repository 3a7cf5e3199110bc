"""Backtests of `classify`: kept features, and a fine-tuned member that is asked some rows ahead."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np

from ops.backtest.log import Log
from ops.backtest.records import Answers
from ops.backtest.stream import Cursor, Stream
from ops.backtest.tasks.part import KeptFeatures, Seen
from serve.escalation import Answer
from serve.student.line import StudentReply, Ticket, TooLong
from serve.student.slot import Slot
from serve.tasks.classify.face import LabelledAnswer
from store.event import LabelAnswer, TaskInput
from store.student.classify import Student
from store.student.encoder import Encoder, FloatArray, TokenIds
from store.student.loaded import Opinion
from store.student.tuned import Tuned
from trainer.learn.features import FeatureCache

_AHEAD: Final = 64  # rows answered at once by the head
_TUNED_AHEAD: Final = 256  # by the fine-tuned member: it changes less often, and large batches waste less


class ClassifyPart:
    """Satisfies `Part`."""

    prompt: Final = "$text"

    def embed(self, log: Log, items: Sequence[str], encoder: Encoder, cache: Path, progress: Seen) -> KeptFeatures:
        """Features by item."""
        found = FeatureCache(cache).features(encoder, items, log.texts, progress=progress)
        return KeptFeatures(rows=dict(zip(items, found, strict=True)))

    def features(self, log: Log, items: Sequence[str], kept: KeptFeatures) -> FloatArray:  # noqa: ARG002 - as above
        """Those of each text."""
        return np.stack([kept.rows[item] for item in items])

    def too_long(self, log: Log, encoder: Encoder) -> list[bool]:
        """By the text."""
        return [encoder.too_long(text) for text in log.texts]

    def forward(self, stream: Stream, cursor: Cursor) -> "ReplayedForward":
        """From kept features."""
        return ReplayedForward(stream, cursor)

    def teach(self, said: str, model: str, prompt_version: str) -> LabelAnswer:
        """The label."""
        return LabelAnswer(model=model, prompt_version=prompt_version, label=said)

    def output(self, answer: Answer) -> str:
        """The label."""
        return cast("LabelledAnswer", answer).label

    def confidence(self, answer: Answer) -> float:
        """The largest probability."""
        return max(cast("LabelledAnswer", answer).probs or [float("nan")])

    def others(self, log: Log, stream: Stream, answers: Answers, calls: int) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}

    def measures(self, log: Log, stream: Stream, answers: Answers) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}


class ReplayedForward:
    """The serving student's answers, from kept features, some rows ahead at a time.

    Looking ahead is only a way of computing: batches have fixed shapes, so what a row gets does not depend on the rows
    after it.
    """

    turn: Final = 1 << 30  # a row is read at once

    def __init__(self, stream: Stream, cursor: Cursor) -> None:
        """Answer for the row that the cursor stands at."""
        self._stream = stream
        self._cursor = cursor
        self._tokens: TokenIds = stream.encoder.tokenise(stream.texts)
        self._version = ""
        self._opinions: dict[int, Opinion] = {}
        self._tuned: Tuned | None = None
        self._logits: dict[int, FloatArray] = {}  # of the fine-tuned member, which outlives a change of the head

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:  # noqa: ARG002 - the row is the cursor's
        """See `serve.request.parts.Forward`."""
        row = self._cursor.row
        if self._stream.too_long[row]:
            return TooLong()
        if slot.version != self._version or row not in self._opinions:
            if not isinstance(slot.student, Student):
                message = "a replay serves students of the trainer alone"
                raise TypeError(message)
            self._version, self._opinions = slot.version, self._look_ahead(slot.student, row)
        return self._opinions[row]

    def _look_ahead(self, student: Student, row: int) -> dict[int, Opinion]:
        stop = min(row + _AHEAD, self._stream.rows)
        logits = None
        if student.tuned is not None:
            logits = np.stack([self._tuned_logits(student.tuned, ahead) for ahead in range(row, stop)])
        said = student.opinions(student.predict_from(self._stream.features[row:stop], logits))
        return dict(zip(range(row, stop), said, strict=True))

    def _tuned_logits(self, tuned: Tuned, row: int) -> FloatArray:
        if tuned is not self._tuned:
            self._tuned, self._logits = tuned, {}
        if row not in self._logits:
            stop = min(row + _TUNED_AHEAD, self._stream.rows)
            found = tuned.logits(self._tokens[row:stop], steady=True)
            self._logits.update(zip(range(row, stop), found, strict=True))
        return self._logits[row]
