"""Which columns of a log of rankings hold what: a list in each row, or a document a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ops.readers.columns import Sought, Survey, is_missing, text_of
from ops.readers.lists.values import document_of, results_of, unfolded
from ops.readers.shapes import opened


def _under(names: tuple[str, ...], around: tuple[str, ...]) -> tuple[str, ...]:
    """The names themselves, then inside of what a log of an endpoint puts around them."""
    return (*names, *(f"{outer}.{name}" for outer in around for name in names))


def _list_of(value: Any) -> str | None:
    value = opened(value)
    return repr(value)[:200] if isinstance(value, list) and value and document_of(value[0]) is not None else None


def _answer_of(value: Any) -> str | None:
    value = opened(value)
    if isinstance(value, list) and value and not isinstance(value[0], list | Mapping):
        return repr(value)[:200]
    if isinstance(value, Mapping) and value and all(isinstance(one, int | float) for one in value.values()):
        return repr(value)[:200]
    return repr(value)[:200] if results_of(value) is not None else None


def _number(value: Any) -> str | None:
    return None if is_missing(value) or isinstance(value, list | Mapping) else repr(value)


_ASKED: Final = ("request", "request.body", "body", "input", "request_body", "requestBody", "params")
_ANSWERED: Final = ("teacher", "response", "response.body", "body", "output", "response_body", "responseBody")
QUERY: Final = Sought(
    flag="--query",
    what="query",
    names=_under(("query", "question", "q", "search_query", "query_text", "search"), _ASKED),
    read=text_of,
    in_most_rows=True,
)
DOCUMENTS: Final = Sought(
    flag="--documents",
    what="documents (a list of texts in each row, or a text a row)",
    names=_under(("documents", "docs", "texts", "passages", "candidates", "items"), _ASKED),
    read=_list_of,
    in_most_rows=True,
)
SCORES: Final = Sought(
    flag="--scores",
    what="scores",
    names=(
        *("teacher.scores", "scores", "relevance_scores", "teacher_scores", "results", "data", "response", "output"),
        *_under(("scores", "results", "data"), _ANSWERED[1:]),
        *("response_body", "responseBody"),
    ),
    read=_answer_of,
)
ORDER: Final = Sought(
    flag="--order",
    what="order",
    names=_under(("order", "ranking", "ranked", "permutation"), _ANSWERED),
    read=_answer_of,
)
DOCUMENT: Final = Sought(
    flag="--documents",
    what=DOCUMENTS.what,
    names=("document", "passage", "doc", "text", "document_text", "doc_text", "passage_text", "item", "candidate"),
    read=text_of,
    in_most_rows=True,
)
SCORE: Final = Sought(
    flag="--scores",
    what="score",
    names=("teacher.score", "score", "relevance_score", "teacher_score", "relevance", "similarity", "rating"),
    read=_number,
)
RANK: Final = Sought(flag="--order", what="rank", names=("teacher.rank", "rank", "position", "place"), read=_number)
QUERY_ID: Final = Sought(
    flag="--query-id",
    what="query's id",
    names=("query_id", "qid", "query-id", "queryId", "q_id", "topic", "topic_id", "request_id", "search_id"),
    read=_number,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListColumns:
    """Where a row keeps what; a dot goes into an object."""

    query: str
    documents: str
    scores: str | None
    order: str | None
    query_id: str | None = None  # of logs with a document a row: what makes rows one list; None: the query
    long: bool = False  # a row holds one document


def find_list_columns(path: Path, named: Mapping[str, str]) -> ListColumns:
    """The columns by all rows, unless they are named; a list a row comes before a document a row.

    Raises:
        SettingsError: they cannot be told, or no row has the named one; the message names the flag.
    """
    query, documents = QUERY.called(named.get("--query")), DOCUMENTS.called(named.get("--documents"))
    scores, order = SCORES.called(named.get("--scores")), ORDER.called(named.get("--order"))
    survey = Survey(path, query, documents, scores, order, unfolded=unfolded)
    if survey.found(documents) is None or "--query-id" in named:
        found = _long(path, named)
        if found is not None:
            return found
    column = survey.needed(query), survey.needed(documents)
    by_scores = None if "--order" in named and "--scores" not in named else survey.found(scores)
    by_order = None if "--scores" in named else survey.found(order)
    if by_scores is None and by_order is None:
        by_scores = survey.needed(replace(scores, what="scores of the documents, and no order (--order) either"))
    return ListColumns(query=column[0], documents=column[1], scores=by_scores, order=by_order)


def _long(path: Path, named: Mapping[str, str]) -> ListColumns | None:
    """The columns of a log with a document a row; None: it is none."""
    query, document = QUERY.called(named.get("--query")), DOCUMENT.called(named.get("--documents"))
    score, rank = SCORE.called(named.get("--scores")), RANK.called(named.get("--order"))
    query_id = QUERY_ID.called(named.get("--query-id"))
    survey = Survey(path, query, document, score, rank, query_id, unfolded=unfolded)
    if survey.found(document) is None and not query_id.named:
        return None
    grouped = survey.needed(query_id) if query_id.named else survey.found(query_id)
    by_score = None if "--order" in named and "--scores" not in named else survey.found(score)
    by_rank = None if "--scores" in named else survey.found(rank)
    if by_score is None and by_rank is None:
        by_score = survey.needed(replace(score, what="score of each document, and no rank (--order) either"))
    return ListColumns(
        query=survey.needed(query),
        documents=survey.needed(document),
        scores=by_score,
        order=by_rank,
        query_id=grouped,
        long=True,
    )
