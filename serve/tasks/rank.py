"""Ranking as its clients see it: `POST /rerank`, in the shape that Cohere, Jina and vLLM share.

Scores are the answering party's own, best first, and mean something only within one list. A teacher that gives an order
has no scores: its answer's fall evenly from 1, and what it does not name comes last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict, cast

import msgspec
import numpy as np

from serve.escalation import Answer, Common, Given
from serve.front.errors import INVALID
from serve.openapi.operation import NOT_BLANK, Model, Operation, Text, User
from serve.settings import LaneSettings
from serve.tasks.face import (
    AT_THE_END,
    Asked,
    Heed,
    Kept,
    RequestLimits,
    Timing,
    Tokens,
    Told,
    decode_body,
    invalid,
    tokens_of,
    told_of,
)
from store.event import RankAnswer, RankEscalation, RankInput, TaskInput, TeacherAnswer
from store.student.loaded import Opinion, RankOpinion
from store.tasks.measures import best_first
from store.tasks.rank import document_key

_HAS_TEXT: Final[dict[str, Any]] = {"type": "string", "pattern": NOT_BLANK}
_MAY_BE_EMPTY: Final = msgspec.Meta(extra_json_schema={"maxLength": "max_text_chars"})
_DOCUMENTS: Final = msgspec.Meta(
    description="Texts, at least one of which is not empty.",
    extra_json_schema={
        "minItems": 1,
        "maxItems": "max_documents",
        "contains": {
            "anyOf": [_HAS_TEXT, {"type": "object", "required": ["text"], "properties": {"text": _HAS_TEXT}}],
        },
    },
)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document as an object, of which the text is read and nothing else."""

    text: Annotated[str, _MAY_BE_EMPTY]


class RankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /rerank`; fields that we do not know (max_tokens_per_doc, say) are ignored."""

    model: Model
    query: Text
    documents: Annotated[list[Annotated[str, _MAY_BE_EMPTY] | Document], _DOCUMENTS]
    top_n: Annotated[
        int | None, msgspec.Meta(description="How many results, at most; else all.", extra_json_schema={"minimum": 1})
    ] = None
    return_documents: Annotated[bool | None, msgspec.Meta(description="Each result has its document's text.")] = None
    user: User = None


class Result(TypedDict):
    """A document's place in the request, and its score, which means something only within one list."""

    index: int
    relevance_score: float
    document: NotRequired[Document]


class ApiVersion(TypedDict):
    """For Cohere's client."""

    version: str


class Meta(TypedDict):
    """For Cohere's client."""

    api_version: ApiVersion


class Ranking(Told):
    """The answer to a request to rank: its results best first."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    results: list[Result]
    meta: Meta
    usage: Tokens


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


_OPERATION: Final = Operation(
    summary="Rank documents by how well they answer a query",
    description="For lanes of `rank`, in the shape that Cohere, Jina and vLLM share. Fields that are not known are "
    "ignored.",
    asked=RankRequest,
    answered=Ranking,
    example={
        "model": "shop",
        "query": "shoes for rain",
        "documents": ["sandals", "rubber boots"],
        "top_n": 1,
        "return_documents": True,
    },
    answer={
        "id": "rerank-019ad4c0-8f3e-7c55-a0f4-5f7d1c2b3a49",
        "object": "list",
        "created": 1772359200,
        "model": "shop",
        "results": [{"index": 1, "relevance_score": 0.93, "document": {"text": "rubber boots"}}],
        "meta": {"api_version": {"version": "2"}},
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "served_by": "student",
        "reason": None,
        "version": "3f2a9c",
        "event_id": None,
        "propensity": 0.02,
        "withheld": False,
        "degraded": None,
    },
)


class Rank:
    """Satisfies `Face`."""

    paths: Final = ("/rerank", "/v1/rerank", "/v2/rerank")
    operation: Final = _OPERATION
    event_type: Final = RankEscalation
    invalid_status: Final = INVALID
    answer_type: Final = RankedAnswer
    sample: Final[TaskInput] = RankInput(
        query="This is a test question.",
        documents=["The first of two test documents.", "The second of two test documents."],
    )

    def decode(self, body: bytes, lane: LaneSettings) -> Asked:  # noqa: ARG002 - as the protocol has it
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

    def body(self, asked: Asked, given: Given) -> Ranking:
        """See `Face`."""
        shown, answer = cast("_Shown", asked.shown), cast("RankedAnswer", given.found[0])
        return {
            "id": f"rerank-{given.first_id}",
            "object": "list",
            "created": int(given.at_s),
            "model": asked.model,
            "results": [_result(place, score, shown) for place, score in answer.results[: shown.top_n]],
            "meta": {"api_version": {"version": "2"}},
            "usage": tokens_of(answer.usage),
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

    def timing(self, asked: Asked, settings: LaneSettings) -> Timing:  # noqa: ARG002 - as the protocol has it
        """See `Face`: a student says all at once."""
        return AT_THE_END

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


def _result(place: int, score: float, shown: _Shown) -> Result:
    if not shown.with_documents:
        return {"index": place, "relevance_score": score}
    return {"index": place, "relevance_score": score, "document": Document(text=shown.documents[place])}


def _input(value: TaskInput) -> RankInput:
    return cast("RankInput", value)
