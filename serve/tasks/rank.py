"""Ranking as its clients see it: `POST /rerank`, in the shape that Cohere, Jina and vLLM share.

Scores are the answering party's own, best first, and mean something only within one list. A teacher that gives an order
has no scores: its answer's fall evenly from 1, and what it does not name comes last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import numpy as np

from serve.escalation import Answer, Common, Given
from serve.front.errors import INVALID
from serve.settings import LaneSettings
from serve.tasks.face import Asked, Heed, Kept, RequestLimits, decode_body, invalid, told_of
from store.event import RankAnswer, RankEscalation, RankInput, TaskInput, TeacherAnswer
from store.student.loaded import Opinion, RankOpinion
from store.tasks.measures import best_first
from store.tasks.rank import document_key


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document as an object, of which the text is read and nothing else."""

    text: str


class RankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /rerank`; fields that we do not know (max_tokens_per_doc, say) are ignored."""

    model: str  # the use case
    query: str
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool | None = None
    user: str | None = None  # the subject, for erasure; kept as a keyed token


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedAnswer(Answer):
    """What the client gets for one list."""

    results: list[tuple[int, float]]  # each document's place in the request, and its score: best first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What of a request its answer is made with."""

    documents: Sequence[str]
    top_n: int | None
    with_documents: bool


class Rank:
    """Satisfies `Face`."""

    paths: Final = ("/rerank", "/v1/rerank", "/v2/rerank")
    event_type: Final = RankEscalation
    invalid_status: Final = INVALID
    answer_type: Final = RankedAnswer
    sample: Final[TaskInput] = RankInput(
        query="This is a test question.",
        documents=["The first of two test documents.", "The second of two test documents."],
    )

    def decode(self, body: bytes) -> Asked:
        """See `Face`."""
        found = decode_body(body, RankRequest)
        documents = [one if isinstance(one, str) else one.text for one in found.documents]
        shown = _Shown(documents=documents, top_n=found.top_n, with_documents=bool(found.return_documents))
        return Asked(
            model=found.model,
            user=found.user,
            values=[RankInput(query=found.query, documents=documents)],
            fields=["query", *(f"documents[{place}]" for place in range(len(documents)))],
            listed=False,
            identity=["rerank", found.model, found.query, documents, found.top_n, shown.with_documents, found.user],
            shown=shown,
        )

    def check(self, asked: Asked, limits: RequestLimits) -> None:
        """See `Face`. An empty document is a document; a list of empty ones is no question."""
        (value,) = asked.values
        query, documents = _input(value).query, _input(value).documents
        if not 1 <= len(documents) <= limits.max_documents:
            raise invalid(field="documents", message=f"{len(documents)} documents, 1 to {limits.max_documents} allowed")
        if not query.strip():
            raise invalid(field="query", message="an empty text")
        if not any(document.strip() for document in documents):
            raise invalid(field="documents", message="no document has a text")
        for text, field in zip((query, *documents), asked.fields, strict=True):
            if len(text) > limits.max_text_chars:
                raise invalid(field=field, message=f"{len(text)} characters, {limits.max_text_chars} allowed")
        top_n = cast("_Shown", asked.shown).top_n
        if top_n is not None and top_n < 1:
            raise invalid(field="top_n", message=f"{top_n}, 1 or more allowed")

    def body(self, asked: Asked, given: Given) -> dict[str, Any]:
        """See `Face`."""
        shown, answer = cast("_Shown", asked.shown), cast("RankedAnswer", given.found[0])
        tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
        return {
            "id": f"rerank-{given.first_id}",
            "object": "list",
            "created": int(given.at_s),
            "model": asked.model,
            "results": [_result(place, score, shown) for place, score in answer.results[: shown.top_n]],
            "meta": {"api_version": {"version": "2"}},
            "usage": {
                "prompt_tokens": answer.usage.prompt_tokens,
                "completion_tokens": answer.usage.completion_tokens,
                "total_tokens": tokens,
            },
            **told_of(answer),
        }

    def of_texts(self, value: TaskInput, texts: Sequence[str]) -> TaskInput:  # noqa: ARG002 - it is all text
        """See `Matter`."""
        return RankInput(query=texts[0], documents=list(texts[1:]))

    def portions(self, value: TaskInput, count: int) -> Sequence[TaskInput]:
        """See `Matter`: the documents in so many parts; the vectors that are computed for them are kept."""
        asked = _input(value)
        each = max(1, -(-len(asked.documents) // count))
        if each >= len(asked.documents):
            return ()
        starts = range(0, len(asked.documents), each)
        return [RankInput(query=asked.query, documents=asked.documents[start : start + each]) for start in starts]

    def heed(self, settings: LaneSettings) -> Heed:  # noqa: ARG002 - any ranking is one
        """See `Face`."""
        return lambda opinion, _: opinion

    def of_student(self, opinion: Opinion, common: Common, noted: Mapping[str, str]) -> Answer:  # noqa: ARG002 - it holds no text
        """See `Face`."""
        said = cast("RankOpinion", opinion)
        return RankedAnswer(results=[(place, said.scores[place]) for place in said.order], **common)

    def of_teacher(self, answer: TeacherAnswer, value: TaskInput, settings: LaneSettings, common: Common) -> Answer:  # noqa: ARG002
        """See `Face`."""
        said, documents = cast("RankAnswer", answer), _input(value).documents
        if said.scores is not None:
            order = best_first(np.asarray(said.scores, np.float64), _keys(documents))
            results = [(int(place), said.scores[place]) for place in order]
        else:
            results = _falling(said.order or [], documents)
        return RankedAnswer(results=results, **common)

    def kept(self, value: TaskInput, answer: TeacherAnswer) -> Kept:  # noqa: ARG002 - as the protocol has it
        """See `Face`."""
        return Kept(answer=answer, learnable=True)


def _falling(order: Sequence[int], documents: Sequence[str]) -> list[tuple[int, float]]:
    """Scores of an order: from 1 down, by equal steps; what it does not name has 0, and stands by its key."""
    count, named = len(documents), set(order)
    keys = _keys(documents)
    rest = sorted((place for place in range(count) if place not in named), key=lambda place: (keys[place], place))
    found = [(place, round(1.0 - rank / count, 6)) for rank, place in enumerate(order)]
    return [*found, *((place, 0.0) for place in rest)]


def _keys(documents: Sequence[str]) -> list[str]:
    return [document_key(document) for document in documents]


def _result(place: int, score: float, shown: _Shown) -> dict[str, Any]:
    found: dict[str, Any] = {"index": place, "relevance_score": score}
    if shown.with_documents:
        found["document"] = {"text": shown.documents[place]}
    return found


def _input(value: TaskInput) -> RankInput:
    return cast("RankInput", value)
