"""Backtests of `rank`: kept vectors of queries and documents, and what is told beside the lane's own agreement."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import msgspec
import numpy as np

from ops.backtest.log import Log
from ops.backtest.records import Answers
from ops.backtest.stream import Cursor, Stream
from ops.backtest.tasks import beside
from ops.backtest.tasks.part import KeptFeatures, Seen
from serve.escalation import Answer
from serve.student.line import StudentReply, Ticket, TooLong
from serve.student.slot import Slot
from serve.tasks.rank import RankedAnswer
from store.event import RankAnswer, RankInput, TaskInput
from store.student.encoder import Encoder, FloatArray
from store.student.loaded import Opinion
from store.student.rank.bases import BiEncoderBase, CrossEncoderBase, base_on, pair_key, shared_base
from store.student.rank.cross import CrossEncoder
from store.tasks.rank import document_key, heard
from trainer.learn.features import SENTENCES, FeatureCache
from trainer.learn.rank.kept import PAIRS

_AHEAD: Final = 16  # lists answered at once


class RankPart:
    """Satisfies `Part`."""

    prompt: Final = "$query $documents"

    def embed(self, log: Log, items: Sequence[str], encoder: Encoder, cache: Path, progress: Seen) -> KeptFeatures:  # noqa: ARG002 - vectors belong to texts
        """Vectors by the text's key; on a cross-encoder, of queries alone, and its outputs by the pair's."""
        crossed = isinstance(encoder, CrossEncoder)
        texts = {document_key(one.query): one.query for one in _lists(log)}
        if not crossed:
            texts |= {document_key(text): text for one in _lists(log) for text in one.documents}
        cached = FeatureCache(cache / "sentences", SENTENCES)
        found = cached.features(encoder, list(texts), list(texts.values()), progress=progress)
        rows = dict(zip(texts, found, strict=True))
        if crossed:
            pairs = {pair_key(one.query, text): (one.query, text) for one in _lists(log) for text in one.documents}
            outputs = FeatureCache(cache / "pairs", PAIRS)
            said = outputs.features(encoder, list(pairs), list(pairs.values()), progress=progress)
            rows |= dict(zip(pairs, said, strict=True))
        return KeptFeatures(rows=rows)

    def features(self, log: Log, items: Sequence[str], kept: KeptFeatures) -> FloatArray:  # noqa: ARG002 - as above
        """Those of each query."""
        return np.stack([kept.rows[document_key(one.query)] for one in _lists(log)])

    def too_long(self, log: Log, encoder: Encoder) -> list[bool]:
        """By the query and every document, or by every pair of them."""
        if isinstance(encoder, CrossEncoder):
            return [base_on(encoder).too_long(one) for one in _lists(log)]
        texts = {text for one in _lists(log) for text in (one.query, *one.documents)}
        long = {text for text in texts if encoder.too_long(text)}
        return [not long.isdisjoint((one.query, *one.documents)) for one in _lists(log)]

    def forward(self, stream: Stream, cursor: Cursor) -> "LookingForward":
        """By looking, with all vectors in memory."""
        return LookingForward(stream, cursor)

    def teach(self, said: str, model: str, prompt_version: str) -> RankAnswer:
        """Scores or an order."""
        (answer,) = heard([said])
        return RankAnswer(
            model=model,
            prompt_version=prompt_version,
            scores=None if answer.scores is None else list(answer.scores),
            order=None if answer.order is None else list(answer.order),
        )

    def output(self, answer: Answer) -> str:
        """Places, best first."""
        return msgspec.json.encode([place for place, _ in cast("RankedAnswer", answer).results]).decode()

    def confidence(self, answer: Answer) -> float:  # noqa: ARG002 - a ranking does not say
        """Nothing."""
        return float("nan")

    def others(self, log: Log, stream: Stream, answers: Answers, calls: int) -> dict[str, float]:
        """See `ops.backtest.tasks.beside`."""
        return beside.others(log, stream, answers, calls)

    def measures(self, log: Log, stream: Stream, answers: Answers) -> dict[str, float]:
        """As above."""
        return beside.measures(log, stream, answers)


class LookingForward:
    """The serving student's answers, some rows ahead at a time; every vector is a function of its text alone."""

    turn: Final = 1 << 30  # a row is read at once

    def __init__(self, stream: Stream, cursor: Cursor) -> None:
        """Answer for the row that the cursor stands at; the log's numbers are held for as long as this lives."""
        self._stream, self._cursor = stream, cursor
        self._version = ""
        self._opinions: dict[int, Opinion] = {}
        self._base = shared_base(stream.encoder)
        if isinstance(self._base, CrossEncoderBase):
            self._base.keep({key: float(row[0]) for key, row in stream.kept.items() if len(row) == 1})
        elif isinstance(self._base, BiEncoderBase):
            keys = list(stream.kept)
            self._base.vectors.prime(keys, np.stack([stream.kept[key] for key in keys]))

    async def ask(self, slot: Slot, value: TaskInput, ticket: Ticket | None = None, *, tokens: int = 1) -> StudentReply:  # noqa: ARG002 - the row is the cursor's
        """See `serve.request.parts.Forward`."""
        row = self._cursor.row
        if self._stream.too_long[row]:
            return TooLong()
        if slot.version != self._version or row not in self._opinions:
            ahead = range(row, min(row + _AHEAD, self._stream.rows))
            said = slot.student.look([self._stream.values[one] for one in ahead])
            self._version, self._opinions = slot.version, dict(zip(ahead, said, strict=True))
        return self._opinions[row]


def _lists(log: Log) -> list[RankInput]:
    return cast("list[RankInput]", log.values)
