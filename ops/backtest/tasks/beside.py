"""What stands beside the agreement of rankings: other ways to answer the same lists, and measures never promised."""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import msgspec
import numpy as np

from ops.backtest.log import Log
from ops.backtest.records import Answers
from ops.backtest.stream import Stream
from store.event import RankInput
from store.student.encoder import FloatArray
from store.student.rank.bases import pair_key
from store.tasks.measures import best_first, ndcg, tau
from store.tasks.rank import RankSaid, document_key, heard

_DEEPEST: Final = 10  # places of nDCG


def others(log: Log, stream: Stream, answers: Answers, calls: int) -> dict[str, float]:
    """Agreement with the teacher of other ways to answer.

    `first`: the run's own student, its calls on the first questions. `untrained`: the order of the base's
    similarities. `teacher again`: the teacher's own answers to one list, where it was asked more than once.
    """
    agree, known = log.rules.agree, [row for row, said in enumerate(stream.labels) if said is not None]
    student = [bool(answers.student[row]) and agree(stream.labels[row] or "", answers.student[row]) for row in known]
    first = [row < calls or right for row, right in zip(known, student, strict=True)]
    plain = [agree(stream.labels[row] or "", _plain_order(stream.values[row], stream.kept)) for row in known]
    again = _again(log, stream, known)
    found = {"first": float(np.mean(first)), "untrained": float(np.mean(plain))}
    return found if again is None else {**found, "teacher again": again}


def measures(log: Log, stream: Stream, answers: Answers) -> dict[str, float]:
    """NDCG and tau of all answers against the teacher's scores; nothing where it gave none."""
    epsilon = log.tolerance.epsilon if log.tolerance is not None else 0.0
    gains, pairs = list[float](), list[float]()
    for said, output in zip(stream.labels, answers.answer, strict=True):
        scores = _said(said).scores if said is not None else None
        if scores is None or not output:
            continue
        order = np.array(msgspec.json.decode(output, type=list[int]), np.intp)
        teacher, ours = np.array(scores, np.float64), np.empty(len(scores))
        ours[order] = -np.arange(len(order), dtype=np.float64)
        gains.append(ndcg(teacher, order, k=_DEEPEST))
        pairs.append(tau(teacher, ours, epsilon=epsilon))
    return {f"nDCG@{_DEEPEST}": float(np.mean(gains)), "τ": float(np.mean(pairs))} if gains else {}


def _again(log: Log, stream: Stream, known: Sequence[int]) -> float | None:
    before: dict[str, str] = {}
    found = list[bool]()
    for row in known:
        said, item = stream.labels[row] or "", stream.item_ids[row]
        if item in before:
            places = msgspec.json.encode(list(_said(said).best_first)).decode()
            found.append(log.rules.agree(before[item], places))
        before[item] = said
    return float(np.mean(found)) if found else None


def _said(said: str) -> RankSaid:
    (answer,) = heard([said])
    return answer


def _plain_order(value: object, kept: Mapping[str, FloatArray]) -> str:
    asked = cast("RankInput", value)
    keys = [document_key(text) for text in asked.documents]
    pairs = [pair_key(asked.query, text) for text in asked.documents]
    if all(pair in kept for pair in pairs):
        found = np.array([kept[pair][0] for pair in pairs])
    else:
        found = np.stack([kept[key] for key in keys]) @ kept[document_key(asked.query)]
    return msgspec.json.encode(best_first(found, keys).tolist()).decode()
