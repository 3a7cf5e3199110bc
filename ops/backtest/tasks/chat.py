"""Backtests of `chat`: kept vectors of what was asked, and a language model that answers some rows ahead."""

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
from serve.tasks.chat.face import ChatReply
from serve.teacher.ask.reply import HeardReply
from store.event import TaskInput
from store.student.encoder import Encoder, FloatArray
from store.student.loaded import Opinion
from store.tasks.chat import heard_text
from trainer.learn.features import SENTENCES, FeatureCache

_AHEAD: Final = 16  # conversations answered at once


class ChatPart:
    """Satisfies `Part`."""

    prompt: Final = ""

    def embed(self, log: Log, items: Sequence[str], encoder: Encoder, cache: Path, progress: Seen) -> KeptFeatures:
        """Vectors of the small encoder, by item."""
        cached = FeatureCache(cache / "sentences", SENTENCES)
        found = cached.features(encoder, items, log.texts, progress=progress)
        return KeptFeatures(rows=dict(zip(items, found, strict=True)))

    def features(self, log: Log, items: Sequence[str], kept: KeptFeatures) -> FloatArray:  # noqa: ARG002 - as above
        """Those of each conversation."""
        return np.stack([kept.rows[item] for item in items])

    def too_long(self, log: Log, encoder: Encoder) -> list[bool]:  # noqa: ARG002 - its own tokens count
        """The student says so itself."""
        return [False] * log.rows

    def forward(self, stream: Stream, cursor: Cursor) -> "TalkingForward":
        """By answering."""
        return TalkingForward(stream, cursor)

    def teach(self, said: str, model: str, prompt_version: str) -> HeardReply:
        """The text, in a completion."""
        (answer,) = heard_text([said])
        message = {"role": "assistant", "content": answer.text}
        return HeardReply(
            model=model,
            prompt_version=prompt_version,
            text=answer.text,
            finish_reason="stop",
            completion={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
        )

    def output(self, answer: Answer) -> str:
        """The text."""
        (choice,) = cast("ChatReply", answer).completion["choices"]
        return str(choice["message"]["content"])

    def confidence(self, answer: Answer) -> float:  # noqa: ARG002 - a completion does not say
        """Nothing."""
        return float("nan")

    def others(self, log: Log, stream: Stream, answers: Answers, calls: int) -> dict[str, float]:
        """`first`: the run's own student, its calls on the first conversations."""
        said = zip(stream.labels, answers.student, strict=True)
        right = [log.rules.agree(label or "", output) if label and output else False for label, output in said]
        return {"first": float(np.mean([row < calls or one for row, one in enumerate(right)]))}

    def measures(self, log: Log, stream: Stream, answers: Answers) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}


class TalkingForward:
    """The serving student's answers, some rows ahead at a time: but for rounding a row depends on no other."""

    turn: Final = 1 << 30  # a row is read at once

    def __init__(self, stream: Stream, cursor: Cursor) -> None:
        """Answer for the row that the cursor stands at."""
        self._stream, self._cursor = stream, cursor
        self._version = ""
        self._opinions: dict[int, Opinion] = {}

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:  # noqa: ARG002 - the row is the cursor's
        """See `serve.request.parts.Forward`."""
        row = self._cursor.row
        if slot.student.too_long(self._stream.values[row]):
            return TooLong()
        if slot.version != self._version or row not in self._opinions:
            ahead = range(row, min(row + _AHEAD, self._stream.rows))
            said = slot.student.look([self._stream.values[one] for one in ahead])
            self._version, self._opinions = slot.version, dict(zip(ahead, said, strict=True))
        return self._opinions[row]
