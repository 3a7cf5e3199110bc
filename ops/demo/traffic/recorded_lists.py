"""A reranker that repeats what was recorded: `/rerank` over lists and the scores that a teacher gave them."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from store.errors import SettingsError
from store.event import canonical_text

PATHS: Final = ("/rerank", "/v1/rerank", "/v2/rerank")
_CHARS_PER_TOKEN: Final = 4
_MAX_BODY_BYTES: Final = 8 << 20

Table = Mapping[tuple[str, ...], Mapping[str, float]]  # query and sorted documents, canonical -> document -> score


class RerankRequest(msgspec.Struct, frozen=True):
    """What of a rerank request is read."""

    model: str
    query: str
    documents: Annotated[list[str], msgspec.Meta(min_length=1)]


class _Scores(msgspec.Struct, frozen=True):
    scores: list[float]


class _ListRow(msgspec.Struct, frozen=True):
    query: str
    documents: Annotated[list[str], msgspec.Meta(min_length=1)]
    teacher: _Scores


def read_lists(path: Path) -> Table:
    """The recorded lists of a JSONL file, a `query`, its `documents` and `teacher.scores` a row; the first counts.

    Raises:
        SettingsError: the file cannot be read, or a row is something else.
    """
    table: dict[tuple[str, ...], Mapping[str, float]] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: {error}"
        raise SettingsError(message) from error
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line, type=_ListRow)
            scores = dict(zip(map(canonical_text, row.documents), row.teacher.scores, strict=True))
        except (msgspec.MsgspecError, ValueError) as error:
            message = f"{path}: line {number} is no list with a score for each document: {error}"
            raise SettingsError(message) from error
        table.setdefault(_key(row.query, row.documents), scores)
    return table


def rerank_routes(table: Table, latency_s: Callable[[str], float]) -> list[Route]:
    """Where lists are scored; one that was never recorded is an error, not a guess."""

    async def rerank(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            return _error(413, "request_too_large", f"over {_MAX_BODY_BYTES} bytes")
        try:
            asked = msgspec.json.decode(body, type=RerankRequest)
        except msgspec.MsgspecError as error:
            return _error(400, "invalid_request", str(error))
        scores = table.get(_key(asked.query, asked.documents))
        if scores is None:
            return _error(422, "not_recorded", "no scores of this list were recorded")
        await asyncio.sleep(latency_s(asked.query))
        return JSONResponse(_answer(asked, scores))

    return [Route(path, rerank, methods=["POST"]) for path in PATHS]


def _key(query: str, documents: list[str]) -> tuple[str, ...]:
    return (canonical_text(query), *sorted(map(canonical_text, documents)))


def _answer(asked: RerankRequest, scores: Mapping[str, float]) -> dict[str, Any]:
    results = [
        {"index": place, "relevance_score": scores[canonical_text(document)]}
        for place, document in enumerate(asked.documents)
    ]
    results.sort(key=lambda one: -one["relevance_score"])
    tokens = sum(len(asked.query) + len(document) for document in asked.documents) // _CHARS_PER_TOKEN + 1
    return {"id": "rerank-recorded", "model": asked.model, "results": results, "usage": {"total_tokens": tokens}}


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "type": code, "message": message, "param": None}}, status)
